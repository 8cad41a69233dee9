"""Building an index and keeping it up to date: only what is new or changed is embedded."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from s2r2._version import __version__
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, load
from s2r2.encoder.precision import AskedPrecision
from s2r2.errors import S2R2Error
from s2r2.images import ImageSource, Skipped, UnreadableImage, open_source, write_skipped
from s2r2.images.sources.names import printable
from s2r2.search.backends.base import AUTO, get_backend
from s2r2.search.filling_facts import fill_facts
from s2r2.search.photo_reader import EncodingReader, PhotoReader, ReadPhoto, check_alike
from s2r2.search.publishing import backend_for, is_current, names_in_use, write_for_searches
from s2r2.search.shared_encoding import Request, share_encoding
from s2r2.search.storage import layout
from s2r2.search.storage.missing_photos import MissingPhotos, settle, too_many
from s2r2.search.storage.published import Published, decoding_side, in_force, read_published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import FACTS, Known, Rows
from s2r2.search.stored_vectors import StoredVectors
from s2r2.search.update_result import UpdateResult
from s2r2.search.vector_kind import kind_of_vectors
from s2r2.search.vector_reader import StoredVectorReader
from s2r2.search.words.vectors import WordVectors, check_text, described, tidy_words, word_vectors
from s2r2.search.writing import check_choices, writing
from s2r2.system.files import checksum, sync_folder
from s2r2.system.progress import ProgressLine
from s2r2.system.wording import amount

COMMIT_ROWS = 1024
"""Rows that are committed at once; of a large index up to 16 times as many, since each commit costs more there."""
COMMIT_SECONDS = 15.0


def update_index(
    encoder: Encoder | StoredVectors | str | Path,
    source: ImageSource | str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    rebuild: bool = False,
    drop_missing: bool = False,
    backend: str | None = None,
    approximate_from: int | None = None,
    text: str | None = None,
    batch_size: int = 64,
    precision: AskedPrecision | None = None,
    progress: bool = True,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> UpdateResult:
    """Bring the index in ``folder`` up to date with a source; make it if there is none.

    Rows are committed to LanceDB in batches: a process killed at any moment leaves whole rows, and the next update
    does the rest. What searches read is replaced at the end, so that they see the old index or the new one. With
    ``rebuild`` the old index stays in force until the new one is complete. Rows of photos that cannot be read now, or
    that are not known to be gone (see :class:`s2r2.search.storage.missing_photos.MissingPhotos`), are kept.

    Args:
        encoder: Makes the vectors: an encoder, or what :func:`s2r2.load` takes. A copy of it is kept in the index.
            Or the vectors, made elsewhere: then photos without one are listed, and the encoder is kept if it is known.
        source: The photos: a source, or what :func:`s2r2.images.open_source` takes.
        folder: The index's folder.
        rebuild: Make all of it anew, also where another encoder made the index, or where it is damaged.
        drop_missing: Drop rows also where photos may only be out of reach: more than a tenth of all at once, or in a
            folder that is empty or away.
        backend: Name of the search backend, or ``"auto"``: exact search for few photos, approximate search for many.
            None keeps what was chosen before.
        approximate_from: From how many photos on ``"auto"`` takes approximate search; by default 500,000.
        text: Encode the photos with a CLIP-like model too, so that words find them: see
            :class:`s2r2.search.words.model.WordModel` for its name; ``"none"`` removes its vectors, None keeps what was
            chosen before.
        batch_size: Photos encoded at once.
        precision: In which the encoder computes, see :mod:`s2r2.encoder.precision`; None is float32 for a new index.
            An index keeps its precision, for queries, too, and vectors that were made elsewhere have theirs.
        progress: Show a progress bar.
        processes: They share reading and encoding; only the first one knows the index and writes it. Each calls this
            with the same arguments.

    Raises:
        S2R2Error: Another encoder made the index, another process writes it, it is damaged, nothing is readable, the
            disk is full, or processes differ in photos or encoder.
        KeyboardInterrupt: Ctrl-C; what was embedded so far is kept, and the same call goes on from there.
    """
    folder = Path(folder)
    layout.check_local(folder)
    check_choices(batch_size, precision, backend, approximate_from)
    encoder = encoder if isinstance(encoder, Encoder | StoredVectors) else load(encoder, device="auto")
    source = source if isinstance(source, ImageSource) else open_source(source)
    check_alike(encoder, source, processes)
    check_text(text, processes)
    if isinstance(encoder, StoredVectors):
        processes = Processes()  # there is nothing to share
    elif not processes.leader:
        return share_encoding(encoder, source, batch_size, processes)
    with writing(folder):
        update = _Update(encoder, source, folder, rebuild, processes, precision)
        update.words = word_vectors(update.generation, update.published, text, processes)
        result = update.run(batch_size, progress, drop_missing, (backend, approximate_from))
    return processes.from_leader(lambda: result)


class _Update:
    """One run of :func:`update_index` in the process that writes, inside the lock."""

    def __init__(
        self,
        encoder: Encoder | StoredVectors,
        source: ImageSource,
        folder: Path,
        rebuild: bool,
        processes: Processes,
        precision: AskedPrecision | None,
    ) -> None:
        self.encoder, self.source, self.folder, self.processes = encoder, source, folder, processes
        self.began = time.monotonic()
        self.published = in_force(folder) if rebuild else read_published(folder)
        goes_on = None if rebuild else self.published
        self.kind = kind_of_vectors(encoder, source, precision, folder, goes_on, processes.threads)
        self.fingerprint = self.kind.fingerprint
        self.dimensions = encoder.dimensions("feature")
        generation = self.published.generation if self.published else None
        self._open(layout.generation_for(folder, self.fingerprint, generation, rebuild), rebuild)
        self.side = decoding_side(self.published if self.in_force else None, encoder.image_size)
        self.by_content = {known.content: key for key, known in self.known.items()}
        self.skipped = list(source.problems)
        self.failed: dict[str, str] = {}
        self.unseen = set(self.known)
        self.arrived = Counter[str]()
        self.embedded = self.moved = self.kept = 0
        self.words: WordVectors | None = None

    def _open(self, name: str, rebuild: bool) -> None:
        """Open the rows of a generation, or make them."""
        self.generation = self.folder / name
        self.in_force = self.published is not None and self.published.generation == name
        there = (self.generation / layout.ROWS).exists()
        try:
            self.files = RowFiles(self.generation)
            self.files.restore(trusted=name == self.fingerprint)
            self._keep_encoder()
            self.rows = Rows(self.generation / layout.ROWS, self.dimensions)
            self.known = self.rows.known()
        except BaseException as error:  # LanceDB has no narrower class, and Rust's panics are no Exceptions
            ours = isinstance(error, S2R2Error | KeyboardInterrupt | MemoryError)
            if not isinstance(error, layout.DamagedIndex) and (ours or not there):
                raise
            if not rebuild:
                raise error if ours else layout.DamagedIndex(self.folder, f"its rows: {error}") from error
            self._open(layout.generation_for(self.folder, self.fingerprint, None, True), rebuild=False)

    def _keep_encoder(self) -> None:
        """Have a copy of the encoder in the index, as it was published."""
        copy = self.generation / layout.ENCODER
        published = self.published.files.get(layout.ENCODER) if self.in_force and self.published else None
        if not copy.exists() or (published is not None and checksum(copy) != published):
            self.encoder.save(self.generation)
            sync_folder(self.folder)

    def run(
        self, batch_size: int, progress: bool, drop_missing: bool, backend: tuple[str | None, int | None]
    ) -> UpdateResult:
        """Embed, drop, publish."""
        if self._chosen(backend[0]) != AUTO:
            get_backend(self._chosen(backend[0]))  # it may be missing here: said before a photo is embedded
        reader = self._reader()
        wanted, relabeled = self._compare(reader)
        self._relabel(relabeled)
        wanted = self._embed(reader, wanted, batch_size, progress)
        if wanted:  # content moved between names in a circle: its row was overwritten before it could be copied
            reader.contents = frozenset()
            self._embed(reader, wanted, batch_size, progress)
        if self.embedded + self.moved + self.kept == 0:
            first = f"; the first: {self.skipped[0].key}: {self.skipped[0].reason}" if self.skipped else ""
            keeps = f"; the index keeps its {amount(len(self.rows), 'photo')}" if len(self.rows) else ""
            none = f"none of the {len(self.source)} images of {self.source.name} can be read"
            raise S2R2Error(printable(none + first + keeps))
        fill_facts(self.rows, self.files, reader, progress)
        self.skipped += reader.unused()
        dropped, missing = self._drop(drop_missing)
        write_skipped(self.folder / layout.SKIPPED, self.skipped)
        if self.words is not None:
            self.words.bring_up_to_date(self.rows, self.files, self.source, progress)
        about = self._publish(*backend)
        notes = (*reader.notes(), *([self.kind.note] if self.kind.note and self.embedded else []))
        numbers = (self.embedded, self.moved, self.kept, dropped, missing)
        return UpdateResult(self.folder, about, *numbers, self.skipped, time.monotonic() - self.began, notes)

    def _reader(self) -> PhotoReader:
        contents = frozenset(self.by_content)
        if isinstance(self.encoder, StoredVectors):
            return StoredVectorReader(self.source, self.encoder, contents, self.side)
        return EncodingReader(self.source, self.encoder, self.fingerprint, contents, self.side, self.kind.computed)

    def _drop(self, drop_missing: bool) -> tuple[int, int]:
        """Drop rows of photos that are gone; returns how many, and how many are kept though not found."""
        had = self.published.photos if self.published is not None and not self.in_force else 0
        if not drop_missing and too_many(had - len(self.rows), had):
            raise S2R2Error(
                f"the new index would have {len(self.rows):,} of {had:,} photos: is a disk not mounted? The old one "
                "stays in use; if they are gone for good, repeat the update with `drop_missing=True`"
            )
        if not self.unseen:
            return 0, 0
        unseen = {key: self.known[key] for key in self.unseen}
        absent = MissingPhotos(self.source, self.failed, self.known.keys() - self.unseen)
        found = absent.classify(unseen, self.rows.files(self.unseen))
        settled = settle(found, self.known, self.arrived, len(self.known), drop_missing)
        self.rows.drop(settled.drop)
        kept = settled.unreadable | settled.missing
        self.skipped = [entry for entry in self.skipped if printable(entry.key) not in kept]
        self.skipped += [Skipped(key, f"kept: {reason}") for key, reason in sorted(kept.items())]
        return len(settled.drop - settled.moved), len(settled.missing)

    def _compare(self, reader: PhotoReader) -> tuple[list[tuple[int, str]], dict[str, str]]:
        """Find by stamp what must be read, and what has other labels only."""
        wanted: list[tuple[int, str]] = []
        relabeled: dict[str, str] = {}
        self.source.prepare_stamps(range(len(self.source)))
        for index in range(len(self.source)):
            try:
                stamp = json.dumps(self.source.stamp(index))
            except UnreadableImage as error:
                self._fail(reader, index, error.reason)
                continue
            known = self.known.get(key := reader.key(index))
            if known is None or known.stamp != stamp or known.location != reader.location(index):
                wanted.append((index, stamp))
                continue
            self.unseen.discard(key)
            self.kept += 1
            if known.label != reader.label(index):
                relabeled[key] = reader.label(index)
        return wanted, relabeled

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
        request = Request(wanted, reader.contents, reader.side, self.fingerprint, self.kind.computed)
        self.processes.from_leader(lambda: request)
        pending: list[dict[str, Any]] = []
        again: list[tuple[int, str]] = []
        committed = time.monotonic()
        with ProgressLine("indexing", len(wanted), visible=progress) as line:
            try:
                for batch in reader.encoded(wanted, batch_size, self.processes):
                    known = [photo for photo in batch if photo.known]
                    copied = self._copied(known)
                    again += [(p.index, p.row["stamp"]) for p in known if p.row["key"] not in copied]
                    encoded = [photo.row for photo in batch if "vector" in photo.row]
                    self.embedded += len(encoded)
                    pending += encoded
                    pending += copied.values()
                    for photo in batch:
                        if photo.reason:
                            self._fail(reader, photo.index, photo.reason)
                    if len(pending) >= self._rows_at_once() or time.monotonic() - committed > COMMIT_SECONDS:
                        self._commit(pending)
                        committed = time.monotonic()
                    line.advance(len(batch))
            except KeyboardInterrupt:
                raise KeyboardInterrupt("interrupted; what was indexed is kept: the same command continues") from None
            finally:  # also when another process was lost
                self._commit(pending)
        return again

    def _rows_at_once(self) -> int:
        return max(COMMIT_ROWS, min(16 * COMMIT_ROWS, (len(self.known) + self.embedded) // 16))

    def _copied(self, photos: list[ReadPhoto]) -> dict[str, dict[str, Any]]:
        """Rows with vector and thumbnail of the photo that has the same content, by key."""
        twins = self.rows.by_key(self.by_content[photo.row["content"]] for photo in photos)
        copied = {}
        for photo in photos:
            twin = twins.get(self.by_content[photo.row["content"]])
            if twin is None or twin["content"] != photo.row["content"]:
                continue
            key = photo.row["key"]
            copied[key] = photo.row | {name: twin[name] for name in ("vector", "thumbnail", *FACTS)}
            if self.known.get(key, Known("", "", "", "")).content == twin["content"]:
                self.kept += 1
            else:
                self.moved += 1
        return copied

    def _fail(self, reader: PhotoReader, index: int, reason: str) -> None:
        self.skipped.append(Skipped(reader.key(index), reason))
        self.failed[reader.key(index)] = reason

    def _commit(self, pending: list[dict[str, Any]]) -> None:
        self.rows.put(pending, new=self.known.keys().isdisjoint(row["key"] for row in pending))
        self.files.record()
        for row in pending:
            self.unseen.discard(row["key"])
            if row["key"] not in self.known:
                self.arrived[row["content"]] += 1
        pending.clear()

    def _chosen(self, backend: str | None) -> str:
        return backend or (self.published.chosen_backend if self.published else AUTO)

    def _publish(self, backend: str | None, approximate_from: int | None) -> Published:
        """Tidy up, and put a new catalogue in force, if any row or anything said about the index changed."""
        before = self.published if self.in_force else None
        chosen = self._chosen(backend)
        backend = backend_for(chosen, len(self.rows), approximate_from)
        data = printable(self.source.name)
        if before is not None and is_current(before, self.generation, self.rows.version, backend, self.words):
            if (before.skipped, before.data, before.chosen_backend) == (len(self.skipped), data, chosen):
                self._tidy(before)  # what a kill after the last publishing left
                return before
            number, files, settings = before.number, before.files, before.backend_settings
        else:
            number = self.published.number + 1 if self.published else 1
            self.rows.tidy()
            self.files.record()
            files, settings = write_for_searches(self.rows, self.generation, number, backend, before, self.words)
        published = Published(
            fingerprint=self.fingerprint, encoder=self.encoder.name, data=data, photos=len(self.rows),
            dimensions=self.dimensions, skipped=len(self.skipped), number=number, version=self.rows.version,
            backend=backend, backend_settings=settings, chosen_backend=chosen,
            updated=datetime.now().astimezone().isoformat(timespec="seconds"),
            s2r2=__version__, generation=self.generation.name, files=files, side=self.side,
            precision=self.kind.precision, **described(self.words),
        )  # fmt: skip
        published.write(self.folder)
        self._tidy(published)
        return published

    def _tidy(self, published: Published) -> None:
        """Remove what readers of what is published do not need."""
        self.rows.prune()
        tidy_words(self.generation, self.words)
        self.files.record()
        layout.remove_leftovers(self.folder, published.generation, names_in_use(published) | {layout.RECORD})
