"""What an update of an index did, for people and programs."""

import functools
from dataclasses import dataclass
from pathlib import Path

from s2r2.images import Skipped
from s2r2.images.sources.names import printable
from s2r2.search.index import ImageIndex
from s2r2.search.storage.layout import ENCODER, SKIPPED
from s2r2.search.storage.published import Published
from s2r2.system.wording import amount


@dataclass(frozen=True)
class UpdateResult:
    """What an update did, in numbers of photos.

    Attributes:
        folder: The index's folder.
        about: What the index is now.
        embedded: New or changed ones that were embedded.
        moved: Content that was known under another name: not embedded again. Its former name does not count as dropped.
        kept: Those whose content is what it was.
        dropped: Those that are known to be gone.
        missing: Those that were not found, but may only be out of reach: their rows are kept.
        skipped: Those that could not be read, with reasons (also in ``skipped.csv``); what begins with ``kept:`` has
            its row from before.
        seconds: How long it took.
        notes: What is to be said of vectors that were made elsewhere, a line each.
    """

    folder: Path
    about: Published
    embedded: int
    moved: int
    kept: int
    dropped: int
    missing: int
    skipped: list[Skipped]
    seconds: float
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def index(self) -> ImageIndex:
        """The index, ready to search."""
        return ImageIndex.open(self.folder)

    def __str__(self) -> str:
        folder, about = self.folder, self.about
        text = (
            f"{amount(about.photos, 'photo')} in {printable(str(folder))}: {self.embedded:,} embedded, "
            f"{self.moved:,} moved, {self.kept:,} unchanged, {self.dropped:,} dropped, {len(self.skipped):,} skipped"
        )
        if self.skipped:
            text += f" (see {printable(str(folder / SKIPPED))})"
        if self.missing:
            text += (
                f"\nkept      {amount(self.missing, 'photo')} of the index not found: is a disk not mounted? If they "
                "are gone for good, repeat the update with `drop_missing=True`"
            )
        text += "".join(f"\n{note}" for note in self.notes)
        if about.files and ENCODER not in about.files:
            text += (
                "\nqueries   by photos of the index only, as the encoder is not in it: s2r2 index ENCODER DATA --index "
                f"{printable(str(folder))} puts it there"
            )
        if about.words:
            text += f"\nwords     found by {printable(about.words)}"
        settings = about.backend_settings
        if settings is None:
            text += f"\nsearch    exact: the recall of {about.backend} on these photos is too low"
        elif "recall" in settings:
            text += (
                f"\nsearch    {about.backend}: recall@10 {settings['recall']:.3f} against exact search, "
                f"{settings['milliseconds']:.1f} ms instead of {settings['exact_milliseconds']:.1f} ms a query"
            )
        return text
