"""Images decoded whenever they are asked for, without a pixel store: for data too large to be decoded beforehand."""

import shutil
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.facts import PhotoFacts
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.skipped import Skipped, read_skipped
from s2r2.images.sources.source import ImageSource
from s2r2.images.store.cache import stores_folder
from s2r2.images.store.facts import look_up_facts
from s2r2.images.store.pixel_store import NO_STORE, image_id, store_path
from s2r2.images.store.writer import SPARE_DISK
from s2r2.settings.values import whole_number
from s2r2.system.files import lock_until_closed, why_not_written

MANY_IMAGES = 200_000
"""Sources with more images are trained on directly unless a folder for a store is named: decoding them all takes from
minutes to days, and most runs on so many see each image a few times only."""
PROBED = 64
DIRECT = "direct:"
"""What the fingerprint of images without a store begins with."""


class DirectImages:
    """The images of a source, each decoded anew at every use; threads may ask at once.

    ``images[i]`` is image i as ``(H, W, 3)`` uint8, the pixels that a ``PixelStore`` of the same short side holds, or
    None where it cannot be read: then its key and the reason go into :attr:`skipped` and ``skipped.csv``, once.

    Args:
        source: The images.
        short_side: Larger images are reduced, antialiased, to this shorter side; None keeps their size.
        listing: ``skipped.csv``, appended to; what it names already is not named again. None writes nothing.

    Attributes:
        name: The source's name.
        keys: Keys of all images, in the source's order, readable or not.
        labels: Their labels, or None.
        image_ids: Hashes of the keys, as in a ``PixelStore``, computed for the numbers that are asked for.
        skipped: What was found unreadable so far, and why.
    """

    def __init__(self, source: ImageSource, short_side: int | None, listing: Path | None = None) -> None:
        self.source = source
        self.name = source.name
        self.keys = source.keys
        self.labels: Labels | None = source.labels
        self.image_ids = _ImageIds(source)
        self.short_side = short_side
        self.listing = listing
        self._read_to = 0
        self.skipped: list[Skipped] = []
        if listing is not None and listing.exists():
            content = listing.read_bytes()
            self.skipped, self._read_to = read_skipped(content), len(content)
        self._known = {entry.key for entry in self.skipped}
        self._lock = threading.Lock()
        for problem in source.problems:
            self._skip(problem)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all keys: equal when the same images are listed. Their pixels are not looked at."""
        return f"{DIRECT}{self.source.fingerprint}"

    @cached_property
    def former_fingerprint(self) -> str:
        """The same as earlier versions made it, to go on with their runs."""
        return f"{DIRECT}{self.source.former_fingerprint}"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray | None:
        """Decode an image.

        Raises:
            S2R2Error: It cannot be read, and ``skipped.csv`` cannot be written.
        """
        try:
            return self.source.read(index, self.short_side)
        except UnreadableImage as error:
            self._skip(Skipped(self.keys[index], error.reason))
            return None

    def facts(self) -> list[PhotoFacts]:
        """When, where and with what each photo was taken: all files are looked at, each time.

        Raises:
            S2R2Error: No process can be started.
        """
        return look_up_facts(self.source, range(len(self)))

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns of the table that lists the images."""
        return self.source.columns

    def column(self, name: str) -> list[str]:
        """The cells of one of :attr:`columns`, one for each image."""
        return self.source.column(name)

    def some(self, count: int) -> list[np.ndarray]:
        """Up to ``count`` readable images, taken evenly.

        Raises:
            S2R2Error: None of those tried can be read, or the count is out of range.
        """
        count = whole_number(count, 1, 10_000, "images")
        found: dict[int, np.ndarray] = {}
        tried = np.unique(np.linspace(0, len(self) - 1, num=min(max(PROBED, count), len(self)), dtype=np.int64))
        # Evenly, whether the first few can be read or not: 0, n/2, n/4, 3n/4 ...
        for place in sorted(range(len(tried)), key=lambda i: f"{i:032b}"[::-1]):
            image = self[int(tried[place])]
            if image is not None:
                found[place] = image
            if len(found) == count:
                break
        if not found:
            why = f"{self.skipped[0].key}: {self.skipped[0].reason}" if self.skipped else "no reason is known"
            raise S2R2Error(
                f"none of {len(tried)} images tried of the {len(self):,} of {self.name} can be read; the first: {why}"
            )
        return [found[place] for place in sorted(found)]

    def _skip(self, entry: Skipped) -> None:
        """List an image that cannot be read, if it is not listed yet."""
        key = printable(entry.key)
        with self._lock:
            if key in self._known:
                return
            self._known.add(key)
            self.skipped.append(Skipped(key, entry.reason))
            if self.listing is None:
                return
            try:
                self._list(self.listing, key, entry.reason)
            except OSError as error:
                raise S2R2Error(
                    f"cannot write {self.listing}: {why_not_written(error, 'and')}go on with `resume=True`"
                ) from error

    def _list(self, path: Path, key: str, reason: str) -> None:
        """Add a line, unless another process of the run has done so meanwhile."""
        with open(path, "a+b") as file:
            lock_until_closed(file)
            file.seek(self._read_to)
            others = {other.key for other in read_skipped(file.read())}
            self._known |= others
            if key not in others:
                file.write(Skipped(key, reason).line().encode())
            self._read_to = file.tell()


class _ImageIds:
    """Ids of images by their numbers."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        return np.array([image_id(self._source.keys[int(number)]) for number in numbers], np.uint64)


def why_direct(source: ImageSource, short_side: int, store: Path | None) -> str:
    """Why training should decode each image when a step needs it; empty where a pixel store should be made.

    Unless the user chooses, a store is made of up to 200,000 images, if it is there already or fits on its disk
    (estimated for photos of 4:3: none is opened).

    Args:
        source: The images.
        short_side: To which they are reduced.
        store: What the user chose: a folder, ``none``, or None.
    """
    if store == NO_STORE:
        return "as asked"
    if store is not None:
        return ""
    if len(source) > MANY_IMAGES:
        return f"{len(source):,} images are more than {MANY_IMAGES:,}"
    if store_path(source, short_side, None).exists():
        return ""
    needed = len(source) * 3 * short_side * (short_side * 4 // 3)
    place = next((p for p in (stores_folder(None), *stores_folder(None).absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    if needed + SPARE_DISK <= free:
        return ""
    return f"decoded they might take {needed / 1e9:.1f} GB in {place}, {free / 1e9:.1f} GB are free"
