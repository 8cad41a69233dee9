"""Building an index and keeping it up to date: only what is new or changed is embedded."""

import functools
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import s2r2
from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.images import ImageSource, Skipped, UnreadableImage, open_source, write_skipped
from s2r2.locking import locked
from s2r2.processes import Processes
from s2r2.search import layout
from s2r2.search.approximate import APPROXIMATE_FROM, calibrate, ensure_index
from s2r2.search.catalogue import Catalogue, catalogue_files, write_catalogue
from s2r2.search.index import ImageIndex
from s2r2.search.reading import PhotoReader, ReadPhoto, check_alike
from s2r2.search.rows import Known, Rows

COMMIT_ROWS = 1024
COMMIT_SECONDS = 15.0


@dataclass(frozen=True)
class UpdateResult:
    """What an update did, in numbers of photos.

    Attributes:
        folder: The index's folder.
        about: What the index is now.
        embedded: New or changed ones that were embedded.
        moved: Content that was known under another name: not embedded again.
        kept: Those whose content is what it was.
        dropped: Those that are gone, or cannot be read any more.
        skipped: Those that could not be read, with reasons (also in ``skipped.csv``).
        seconds: How long it took.
    """

    folder: Path
    about: layout.Published
    embedded: int
    moved: int
    kept: int
    dropped: int
    skipped: list[Skipped]
    seconds: float

    @functools.cached_property
    def index(self) -> ImageIndex:
        """The index, ready to search."""
        return ImageIndex.open(self.folder)

    def __str__(self) -> str:
        folder, about = self.folder, self.about
        text = (
            f"{about.photos:,} photos in {folder}: {self.embedded:,} embedded, {self.moved:,} moved, "
            f"{self.kept:,} unchanged, {self.dropped:,} dropped, {len(self.skipped):,} skipped"
        )
        if self.skipped:
            text += f" (see {folder / layout.SKIPPED})"
        if about.approximate is not None:
            text += (
                f"\napproximate index ({folder.name}): recall@10 {about.approximate['recall']:.3f} against "
                f"exact search, {about.approximate['milliseconds']:.1f} ms instead of "
                f"{about.approximate['exact_milliseconds']:.1f} ms a query"
            )
        return text


def update_index(
    encoder: Encoder | str | Path,
    source: ImageSource | str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    rebuild: bool = False,
    approximate_from: int = APPROXIMATE_FROM,
    batch_size: int = 64,
    progress: bool = True,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> UpdateResult:
    """Bring the index in ``folder`` up to date with a source; make it if there is none.

    Rows are committed to LanceDB in batches: a process killed at any moment leaves whole rows, and the next update
    does the rest. What searches read is replaced at the end, so that they see the old index or the new one. With
    ``rebuild`` the old index stays in force until the new one is complete.

    Args:
        encoder: Makes the vectors: an encoder, or what :func:`s2r2.load` takes. A copy of it is kept in the index.
        source: The photos: a source, or what :func:`s2r2.images.open_source` takes.
        folder: The index's folder.
        rebuild: Start afresh where another encoder made the index.
        approximate_from: From how many photos on LanceDB's approximate index is built.
        batch_size: Photos encoded at once.
        progress: Show a progress bar.
        processes: They share reading and encoding; only the first one knows the index and writes it. Each calls this
            with the same arguments.

    Raises:
        S2R2Error: Another encoder made the index, another process writes it, nothing is readable, the disk is full, or
            processes differ in photos or encoder.
        KeyboardInterrupt: Ctrl-C; what was embedded so far is kept, and the same call goes on from there.
    """
    folder = Path(folder)
    layout.check_local(folder)
    encoder = encoder if isinstance(encoder, Encoder) else load(encoder, device="auto")
    source = source if isinstance(source, ImageSource) else open_source(source)
    check_alike(encoder, source, processes)
    if not processes.leader:
        return _help(encoder, source, batch_size, processes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        doing = f"writing the index in {folder}"
        with locked(folder / layout.LOCK, doing, "wait until it has finished"):
            layout.check_free_for_index(folder)
            result = _Update(encoder, source, folder, rebuild, processes).run(approximate_from, batch_size, progress)
        return processes.from_leader(lambda: result)
    except OSError as error:
        problem = error.strerror or error
        raise S2R2Error(f"cannot write the index {folder}: {problem}; free space or choose another --store") from error
    except RuntimeError as error:  # LanceDB's errors are of this class, and say what the operating system said
        if "lance" not in str(error).lower():
            raise
        first = str(error).strip().splitlines()[0]
        raise S2R2Error(f"cannot write the index {folder}: {first}; free space or choose another --store") from error


class _Request(NamedTuple):
    """What the first process asks the others to share with it.

    Attributes:
        wanted: Place in the source, and stamp, of each photo to be read.
        contents: Hashes of content that needs no encoding.
    """

    wanted: list[tuple[int, str]]
    contents: frozenset[str]


def _help(encoder: Encoder, source: ImageSource, batch_size: int, processes: Processes) -> UpdateResult:
    """The part of a process other than the first: read and encode as asked, until there is a result."""
    fingerprint = encoder.fingerprint
    while isinstance(said := processes.hear(), _Request):
        reader = PhotoReader(source, encoder, fingerprint, said.contents)
        deque(reader.encoded(said.wanted, batch_size, processes), maxlen=0)
    result: UpdateResult = said
    return result


class _Update:
    """One run of :func:`update_index` in the process that writes, inside the lock."""

    def __init__(
        self, encoder: Encoder, source: ImageSource, folder: Path, rebuild: bool, processes: Processes
    ) -> None:
        self.encoder, self.source, self.folder, self.processes = encoder, source, folder, processes
        self.began = time.monotonic()
        self.fingerprint = encoder.fingerprint
        self.published = layout.read_published(folder)
        if self.published is not None and self.published.fingerprint != self.fingerprint and not rebuild:
            raise S2R2Error(
                f"the index in {folder} was made by another encoder ({self.published.encoder}): "
                "use --rebuild to replace it, or another --store"
            )
        self.generation = folder / self.fingerprint
        self.dimensions = encoder.dimensions("feature")
        if not (self.generation / layout.ENCODER).exists():
            encoder.save(self.generation)
        self.rows = Rows(self.generation / "lance", self.dimensions)
        self.known = self.rows.known()
        self.by_content = {known.content: key for key, known in self.known.items()}
        self.skipped = list(source.problems)
        self.gone = set(self.known)
        self.embedded = self.moved = self.kept = 0

    def run(self, approximate_from: int, batch_size: int, progress: bool) -> UpdateResult:
        """Embed, drop, publish."""
        reader = PhotoReader(self.source, self.encoder, self.fingerprint, frozenset(self.by_content))
        wanted, relabelled = self._compare(reader)
        self._relabel(relabelled)
        wanted = self._embed(reader, wanted, batch_size, progress)
        if wanted:  # content moved between names in a circle: its row was overwritten before it could be copied
            reader.contents = frozenset()
            self._embed(reader, wanted, batch_size, progress)
        self.rows.drop(self.gone)
        if len(self.rows) == 0:
            first = f"; the first: {self.skipped[0].key}: {self.skipped[0].reason}" if self.skipped else ""
            raise S2R2Error(f"none of the {len(self.source)} images of {self.source.name} can be read{first}")
        write_skipped(self.folder / layout.SKIPPED, self.skipped)
        about = self._publish(approximate_from)
        seconds = time.monotonic() - self.began
        numbers = (self.embedded, self.moved, self.kept, len(self.gone))
        return UpdateResult(self.folder, about, *numbers, self.skipped, seconds)

    def _compare(self, reader: PhotoReader) -> tuple[list[tuple[int, str]], dict[str, str]]:
        """Find by stamp what must be read, and what has other labels only."""
        wanted: list[tuple[int, str]] = []
        relabelled: dict[str, str] = {}
        for index, key in enumerate(self.source.keys):
            try:
                stamp = json.dumps(self.source.stamp(index))
            except UnreadableImage as error:
                self.skipped.append(Skipped(key, error.reason))
                continue
            key = reader.key(index)
            known = self.known.get(key)
            if known is None or known.stamp != stamp or known.location != reader.location(index):
                wanted.append((index, stamp))
                continue
            self.gone.discard(key)
            self.kept += 1
            if known.label != reader.label(index):
                relabelled[key] = reader.label(index)
        return wanted, relabelled

    def _relabel(self, labels: dict[str, str]) -> None:
        keys = list(labels)
        for start in range(0, len(keys), COMMIT_ROWS):
            found = self.rows.by_key(keys[start : start + COMMIT_ROWS])
            self.rows.put([row | {"label": labels[key]} for key, row in found.items()])

    def _embed(
        self, reader: PhotoReader, wanted: list[tuple[int, str]], batch_size: int, progress: bool
    ) -> list[tuple[int, str]]:
        """Write rows for photos; returns those whose content was known but is not there any more."""
        if not wanted:
            return []
        self.processes.from_leader(lambda: _Request(wanted, reader.contents))
        pending: list[dict[str, Any]] = []
        again: list[tuple[int, str]] = []
        committed = time.monotonic()
        with _bar(progress) as bar:
            task = bar.add_task("", total=len(wanted))
            try:
                for batch in reader.encoded(wanted, batch_size, self.processes):
                    known = [photo for photo in batch if photo.known]
                    copied = self._copied(known)
                    again += [(p.index, p.row["stamp"]) for p in known if p.row["key"] not in copied]
                    encoded = [photo.row for photo in batch if "vector" in photo.row]
                    self.embedded += len(encoded)
                    pending += encoded
                    pending += copied.values()
                    self._leave_out(batch)
                    if len(pending) >= COMMIT_ROWS or time.monotonic() - committed > COMMIT_SECONDS:
                        self._commit(pending)
                        committed = time.monotonic()
                    bar.advance(task, len(batch))
            except KeyboardInterrupt:
                raise KeyboardInterrupt("interrupted; what was indexed is kept: the same command goes on") from None
            finally:  # also when another process was lost
                self._commit(pending)
        return again

    def _copied(self, photos: list[ReadPhoto]) -> dict[str, dict[str, Any]]:
        """Rows with vector and thumbnail of the photo that has the same content, by key."""
        twins = self.rows.by_key(self.by_content[photo.row["content"]] for photo in photos)
        copied = {}
        for photo in photos:
            twin = twins.get(self.by_content[photo.row["content"]])
            if twin is None or twin["content"] != photo.row["content"]:
                continue
            key = photo.row["key"]
            copied[key] = photo.row | {"vector": twin["vector"], "thumbnail": twin["thumbnail"]}
            if self.known.get(key, Known("", "", "", "")).content == twin["content"]:
                self.kept += 1
            else:
                self.moved += 1
        return copied

    def _leave_out(self, batch: list[ReadPhoto]) -> None:
        for photo in batch:
            if photo.reason:
                self.skipped.append(Skipped(self.source.keys[photo.index], photo.reason))

    def _commit(self, pending: list[dict[str, Any]]) -> None:
        self.rows.put(pending)
        self.gone -= {row["key"] for row in pending}
        pending.clear()

    def _publish(self, approximate_from: int) -> layout.Published:
        """Tidy up, and put a new catalogue in force, if any row or anything said about the index changed."""
        before = self.published if self.published and self.published.fingerprint == self.fingerprint else None
        same_rows = before is not None and before.version == self.rows.version
        said = (len(self.skipped), self.source.name)
        if same_rows and before is not None and (before.skipped, before.data) == said:
            return before
        number = self.published.number + 1 if self.published else 1
        approximate = before.approximate if before else None
        if not same_rows:
            ensure_index(self.rows, approximate, approximate_from)
            self.rows.tidy()
            write_catalogue(self.rows, self.generation, number, self.dimensions)
            approximate = calibrate(self.rows, Catalogue.open(self.generation, number), approximate)
        elif before is not None:
            number = before.number
        published = layout.Published(
            fingerprint=self.fingerprint,
            encoder=self.encoder.name,
            data=self.source.name,
            photos=len(self.rows),
            dimensions=self.dimensions,
            skipped=len(self.skipped),
            number=number,
            version=self.rows.version,
            approximate=approximate,
            updated=datetime.now().astimezone().isoformat(timespec="seconds"),
            s2r2=s2r2.__version__,
        )
        published.write(self.folder)
        layout.remove_leftovers(self.folder, published, {layout.ENCODER, *catalogue_files(number)})
        return published


def _bar(visible: bool) -> Progress:
    return Progress(
        TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        disable=not visible, transient=True,
    )  # fmt: skip
