"""The second matrix of an index: vectors of a CLIP-like model's image tower, by the content of photos.

They are in a table of their own beside the rows, so that a process killed at any moment has lost little, and photos
that were renamed, or are there twice, are encoded once. Searches read a matrix in the order of the catalogue.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2r2.errors import ArgumentError
from s2r2.images import ImageSource, UnreadableImage, decode_expendable
from s2r2.search.photo_reader import PhotoNames, read_ahead
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.layout import ROWS, DamagedIndex
from s2r2.search.storage.published import Published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import SCAN, Rows, content_hash, optimize
from s2r2.search.words.model import WordModel, check_name
from s2r2.system.extras import require_extra
from s2r2.system.files import checksum, sync_file, sync_folder
from s2r2.system.progress import ProgressLine

if TYPE_CHECKING:
    from s2r2.distributed.processes import Processes

NONE = "none"
"""As name of a model: no vectors for words."""
_TABLE = "words-"
_BATCH = 64
_COMMIT_ROWS, _COMMIT_SECONDS = 1024, 15.0


def words_file(number: int) -> str:
    """Name of the matrix that belongs to catalogue ``number``."""
    return f"words-{number}.npy"


def check_text(text: str | None, processes: "Processes") -> None:
    """Refuse what cannot be, before any work.

    Raises:
        S2R2Error: ``text`` is no name of a model, open_clip is not installed, or several processes are to encode.
    """
    if text in (None, NONE):
        return
    check_name(text)
    require_extra("text", "searching by words")
    if processes.world_size > 1:
        raise ArgumentError(f"`text={text}` is for one process: index with `devices` first, then run this without them")


def word_vectors(
    generation: Path, published: Published | None, text: str | None, processes: "Processes"
) -> "WordVectors | None":
    """The vectors that an update is to keep up to date: those asked for, or else those that the index has.

    Args:
        generation: Folder of the rows.
        published: What is in force.
        text: Name of the model; ``"none"``: none; None: the one chosen before.
        processes: Those of the update.

    Raises:
        S2R2Error: The model cannot be loaded.
    """
    name = text or (published.words if published is not None else "")
    if name in ("", NONE):
        return None
    check_text(name, processes)
    return WordVectors(generation, WordModel(name, "cuda" if _has_gpu() else "cpu"))


def tidy_words(generation: Path, words: "WordVectors | None") -> None:
    """Remove the tables of models that are no longer wanted, and old versions of the one that is.

    Args:
        generation: Folder of the rows.
        words: What is wanted; None: no vectors for words.
    """
    import lancedb

    database = lancedb.connect(str((generation / ROWS).absolute()))
    wanted = "" if words is None else words.table.name
    for name in database.list_tables(limit=1000).tables:
        if name.startswith(_TABLE) and name != wanted:
            database.drop_table(name)
    if words is not None:
        optimize(words.table, timedelta(0), delete=True)


def described(words: "WordVectors | None") -> dict[str, Any]:
    """What an index says of them."""
    return {} if words is None else {"words": words.model.name, "words_fingerprint": words.model.fingerprint}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class _Wanted(NamedTuple):
    """A photo to be encoded."""

    key: str
    content: str


class WordVectors:
    """The vectors that a model has made of the photos of an index.

    Args:
        generation: Folder of the rows.
        model: The model.
    """

    def __init__(self, generation: Path, model: WordModel) -> None:
        import lancedb

        self.generation, self.model = generation, model
        database = lancedb.connect(str((generation / ROWS).absolute()))
        layout = pa.schema([("content", pa.string()), ("vector", pa.list_(pa.float32(), model.dimensions))])
        self.table = database.create_table(_TABLE + model.fingerprint, schema=layout, exist_ok=True)

    def bring_up_to_date(self, rows: Rows, files: RowFiles, source: ImageSource, progress: bool) -> int:
        """Encode the photos whose content is new; each is read from the source, or else from its thumbnail.

        Args:
            rows: All photos of the index.
            files: Those of the rows, which record what is durable.
            source: Where the photos are now.
            progress: Show a progress bar.

        Returns:
            How many were encoded.
        """
        known = {content for batch in self._batches("content") for content in batch["content"].to_pylist()}
        keys: dict[str, str] = {}
        for batch in rows.scan(("key", "content")):
            keys.update(zip(batch["content"].to_pylist(), batch["key"].to_pylist(), strict=True))
        wanted = [_Wanted(key, content) for content, key in keys.items() if content not in known]
        batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
        names = PhotoNames(source)
        places = {names.key(index): index for index in range(len(source))} if wanted else {}

        def prepared(photo: _Wanted) -> object:
            return self.model.prepared(self._picture(photo, places.get(photo.key), source, rows))

        pending: list[pa.Table] = []
        committed = time.monotonic()
        with ProgressLine("encoding for words", len(wanted), visible=progress) as line:
            try:
                for photos, pictures in zip(batches, read_ahead(prepared, batches, threads=4), strict=True):
                    pending.append(self._rows([photo.content for photo in photos], self.model.of_pictures(pictures)))
                    if sum(map(len, pending)) >= _COMMIT_ROWS or time.monotonic() - committed > _COMMIT_SECONDS:
                        self._commit(pending, files)
                        committed = time.monotonic()
                    line.advance(len(photos))
            except KeyboardInterrupt:
                raise KeyboardInterrupt("interrupted; what was encoded is kept: the same command continues") from None
            finally:
                self._commit(pending, files)
        self._drop(known - keys.keys())
        files.record()
        return len(wanted)

    def write(self, catalogue: Catalogue, number: int) -> dict[str, str]:
        """Write the matrix ``(N, E)`` of a catalogue's photos; it is durable then.

        Returns:
            Checksum of the file, by name.

        Raises:
            DamagedIndex: The table lacks a photo.
        """
        path = self.generation / words_file(number)
        shape = (len(catalogue), self.model.dimensions)
        matrix = np.lib.format.open_memmap(path, "w+", "<f4", shape)
        contents = catalogue.table["content"].combine_chunks()
        filled = np.zeros(len(catalogue), bool)
        for batch in self._batches("content", "vector"):
            vectors = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
            found = pc.fill_null(pc.index_in(contents, value_set=batch["content"]), -1).to_numpy(zero_copy_only=False)
            here = np.flatnonzero(found >= 0)
            matrix[here] = vectors[found[here]]
            filled[here] = True
        matrix.flush()
        del matrix
        if not filled.all():
            raise DamagedIndex(self.generation.parent, "its vectors for words lack a photo")
        sync_file(path)
        sync_folder(self.generation)
        return {path.name: checksum(path)}

    def _batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        count = self.table.count_rows()
        if count:
            yield from self.table.search().select(list(columns)).limit(count).to_batches(batch_size=SCAN)

    def _picture(self, photo: _Wanted, index: int | None, source: ImageSource, rows: Rows) -> np.ndarray:
        """Pixels of a photo, if it is still what was indexed, or else of its thumbnail."""
        if index is not None:
            with contextlib.suppress(UnreadableImage):
                content = source.content(index)
                if content is None:
                    return source.read(index, self.model.side)
                if content_hash(content) == photo.content:
                    return decode_expendable(content, short_side=self.model.side)
        return decode_expendable(rows.by_key([photo.key])[photo.key]["thumbnail"], short_side=self.model.side)

    def _rows(self, contents: list[str], vectors: np.ndarray) -> pa.Table:
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, self.model.dimensions)
        return pa.table({"content": contents, "vector": column}, schema=self.table.schema)

    def _commit(self, pending: list[pa.Table], files: RowFiles) -> None:
        if pending:
            self.table.add(pa.concat_tables(pending))
            files.record()
            pending.clear()

    def _drop(self, contents: set[str]) -> None:
        """Forget photos that have left the index."""
        gone = sorted(contents)
        for start in range(0, len(gone), 500):
            listed = ", ".join(f"'{content}'" for content in gone[start : start + 500])  # hexadecimal digits
            self.table.delete(f"content IN ({listed})")
