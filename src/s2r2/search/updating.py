"""Building an index and keeping it up to date: only what is new or changed is embedded."""

import contextlib
import hashlib
import io
import json
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import s2r2
from s2r2.encoder import Encoder, store_side
from s2r2.errors import S2R2Error
from s2r2.files import atomic_write, write_text
from s2r2.images import ImageSource, Skipped, UnreadableImage, write_skipped
from s2r2.search.index import CATALOGUE, DESCRIPTION, ImageIndex
from s2r2.views import render_centre

TABLE = "photos"
COMMIT_EVERY = 1024
BATCH = 64
THUMBNAIL_SIDE = 160


@dataclass(frozen=True)
class UpdateResult:
    """What an update did, in numbers of photos.

    Attributes:
        index: The index, ready to search.
        embedded: New or changed ones that were embedded.
        moved: Known content under another name: not embedded again.
        kept: Unchanged ones.
        dropped: Those that are gone.
        skipped: Those that could not be read, with reasons (also in ``skipped.csv``).
    """

    index: ImageIndex
    embedded: int
    moved: int
    kept: int
    dropped: int
    skipped: list[Skipped]


def update_index(
    encoder: Encoder, source: ImageSource, folder: str | Path, *, rebuild: bool = False, progress: bool = True
) -> UpdateResult:
    """Bring the index in ``folder`` up to date with a source; make it if there is none.

    Rows are committed to LanceDB in batches; a process killed at any moment leaves whole rows, and the next update
    does the rest. The searchable catalogue is replaced at the end, so that readers see the old one or the new one.

    Args:
        encoder: Makes the vectors; a copy of it is kept in the index.
        source: The photos.
        folder: The index's folder.
        rebuild: Start afresh when another encoder made the index.
        progress: Show a progress bar.

    Raises:
        S2R2Error: Another encoder made the index, another process updates it, nothing is readable, or the disk is full.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _check_encoder(encoder, folder, rebuild)
            return _Update(encoder, source, folder, progress).run()
    except OSError as error:
        raise S2R2Error(
            f"cannot write the index {folder}: {error.strerror or error}; choose another --store"
        ) from error


class _Update:
    """One run of :func:`update_index`."""

    def __init__(self, encoder: Encoder, source: ImageSource, folder: Path, progress: bool) -> None:
        import lancedb

        self.encoder, self.source, self.folder, self.progress = encoder, source, folder, progress
        dimensions = encoder.dimensions("feature")
        self.schema = pa.schema(
            [
                ("key", pa.string()),
                ("location", pa.string()),
                ("stamp", pa.string()),
                ("label", pa.string()),
                ("content", pa.string()),
                ("added", pa.float64()),
                ("thumbnail", pa.binary()),
                ("vector", pa.list_(pa.float32(), dimensions)),
            ]
        )
        database = lancedb.connect(str(folder / "lance"))
        self.table = database.create_table(TABLE, schema=self.schema, exist_ok=True)

    def run(self) -> UpdateResult:
        known = self._known()
        stamps, skipped = self._stamps()
        labels = self._labels()
        changed = [i for i, s in stamps.items() if known.get(self.source.keys[i], ("",))[0] != s]
        gone = set(known) - {self.source.keys[i] for i in stamps}
        by_content = {content: key for key, (_, content) in known.items()}
        embedded = moved = 0
        pending: list[dict[str, Any]] = []
        for batch in self._decoded(changed):
            readable = []
            for index, picture, reason in batch:
                if picture is None:
                    skipped.append(Skipped(self.source.keys[index], reason))
                    gone |= {self.source.keys[index]} & set(known)
                    continue
                row = self._row(index, picture, stamps[index], labels[index])
                twin = by_content.get(row["content"])
                if twin is not None:
                    row["vector"] = self._vector_of(twin)
                    moved += 1
                    pending.append(row)
                else:
                    readable.append((row, picture))
            if readable:
                encoder = self.encoder
                pixels = render_centre([p for _, p in readable], encoder.image_size, mean=encoder.mean, std=encoder.std)
                for (row, _), vector in zip(readable, encoder.embed_pixels(pixels), strict=True):
                    row["vector"] = vector
                    pending.append(row)
                embedded += len(readable)
            if len(pending) >= COMMIT_EVERY:
                self._commit(pending)
        self._commit(pending)
        self._drop(gone)
        write_skipped(self.folder / "skipped.csv", skipped)
        if self.table.count_rows() == 0:
            first = f"; the first: {skipped[0].key}: {skipped[0].reason}" if skipped else ""
            raise S2R2Error(f"none of the {len(self.source)} images of {self.source.name} can be read{first}")
        if changed or gone:
            with warnings.catch_warnings():  # it warns of concurrent readers: ours read the catalogue
                warnings.simplefilter("ignore")
                self.table.optimize(cleanup_older_than=timedelta(0))
        self._publish()
        kept = len(stamps) - len(changed)
        return UpdateResult(ImageIndex.open(self.folder), embedded, moved, kept, len(gone), skipped)

    def _known(self) -> dict[str, tuple[str, str]]:
        """Stamp and content hash of every photo in the table, by key."""
        rows = self.table.search().select(["key", "stamp", "content"]).limit(max(1, self.table.count_rows())).to_arrow()
        columns = [rows[name].to_pylist() for name in ("key", "stamp", "content")]
        return {key: (stamp, content) for key, stamp, content in zip(*columns, strict=True)}

    def _stamps(self) -> tuple[dict[int, str], list[Skipped]]:
        stamps: dict[int, str] = {}
        skipped = list(self.source.problems)
        for index, key in enumerate(self.source.keys):
            try:
                stamps[index] = json.dumps([self.source.location(index), *self.source.stamp(index)])
            except UnreadableImage as error:
                skipped.append(Skipped(key, error.reason))
        return stamps, skipped

    def _labels(self) -> list[str]:
        labels = self.source.labels
        if labels is None:
            return [""] * len(self.source)
        return [";".join(labels.names[c] for c in np.flatnonzero(row)) for row in labels.targets]

    def _row(self, index: int, picture: np.ndarray, stamp: str, label: str) -> dict[str, Any]:
        content = hashlib.blake2b(picture.tobytes(), digest_size=16, salt=str(picture.shape).encode()[:16]).hexdigest()
        return {
            "key": self.source.keys[index],
            "location": self.source.location(index),
            "stamp": stamp,
            "label": label,
            "content": content,
            "added": time.time(),
            "thumbnail": make_thumbnail(picture),
        }

    def _decoded(self, indices: list[int]) -> Iterator[list[tuple[int, np.ndarray | None, str]]]:
        """Batches of decoded photos, made by threads while the encoder works on the batch before."""
        side = max(store_side(self.encoder.image_size), THUMBNAIL_SIDE)

        def decode_one(index: int) -> tuple[int, np.ndarray | None, str]:
            try:
                return index, self.source.read(index, side), ""
            except UnreadableImage as error:
                return index, None, error.reason

        bar = Progress(
            TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            disable=not (self.progress and sys.stdout.isatty()), transient=True,
        )  # fmt: skip
        with bar, ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="s2r2-index") as pool:
            task = bar.add_task("", total=len(indices))
            batches = deque(indices[i : i + BATCH] for i in range(0, len(indices), BATCH))
            ahead = deque([pool.submit(decode_one, i) for i in batches.popleft()] for _ in range(min(2, len(batches))))
            while ahead:
                batch = [future.result() for future in ahead.popleft()]
                if batches:
                    ahead.append([pool.submit(decode_one, i) for i in batches.popleft()])
                yield batch
                bar.advance(task, len(batch))

    def _vector_of(self, key: str) -> np.ndarray:
        rows = self.table.search().where(f"key = {_quoted(key)}").select(["vector"]).limit(1).to_arrow()
        return np.asarray(rows["vector"][0].as_py(), np.float32)

    def _commit(self, pending: list[dict[str, Any]]) -> None:
        """Write rows in one transaction, replacing those of the same key."""
        if not pending:
            return
        rows = pa.Table.from_pylist([{**row, "vector": row["vector"].tolist()} for row in pending], schema=self.schema)
        self.table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        pending.clear()

    def _drop(self, keys: set[str]) -> None:
        ordered = sorted(keys)
        for start in range(0, len(ordered), 500):
            self.table.delete(f"key IN ({', '.join(_quoted(key) for key in ordered[start : start + 500])})")

    def _publish(self) -> None:
        """Replace the catalogue that searches read, and say what the index is."""
        rows = self.table.to_arrow().select(["key", "location", "label", "thumbnail", "vector"]).sort_by("key")
        rows = rows.combine_chunks()
        with atomic_write(self.folder / CATALOGUE) as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=max(1, len(rows)))
        about = {
            "encoder": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            "data": self.source.name,
            "photos": len(rows),
            "dimensions": self.encoder.dimensions("feature"),
            "s2r2": s2r2.__version__,
            "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_text(self.folder / DESCRIPTION, json.dumps(about, indent=1, ensure_ascii=False))


def make_thumbnail(picture: np.ndarray) -> bytes:
    """A JPEG of at most 160 pixels, without any of the file's metadata."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _check_encoder(encoder: Encoder, folder: Path, rebuild: bool) -> None:
    """Refuse another encoder than the one that the index has a copy of; with ``rebuild`` start afresh."""
    import shutil

    from s2r2.encoder import load

    kept = folder / "encoder.safetensors"
    if kept.exists():
        if load(kept).fingerprint == encoder.fingerprint:
            return
        if not rebuild:
            raise S2R2Error(f"another encoder made the index in {folder}: use --rebuild, or another --store")
        for name in (CATALOGUE, DESCRIPTION):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "lance", ignore_errors=True)
    elif any(entry.name not in ("lock",) for entry in folder.iterdir()):
        raise S2R2Error(f"{folder} holds something else than an index: choose another --store")
    encoder.save(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process writes an index; a second one is refused at once."""
    import fcntl

    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise S2R2Error(f"another process is updating the index in {folder}: wait for it") from None
        yield


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
