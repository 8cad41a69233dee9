"""Manifests: a table that names images, of any length. Its columns are kept as blocks of memory, not as objects."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.labels import Labels
from s2r2.images.remote import is_remote
from s2r2.images.sources import FileSource, ImageSource
from s2r2.images.texts import Computed, from_arrow

Column: TypeAlias = Any
"""A pyarrow ``large_string`` array without nulls; pyarrow is imported when a manifest is opened, and has no types."""

ROWS_AT_ONCE = 1 << 16


def open_manifest(path: Path) -> ImageSource:
    """Images listed in a table; relative paths are relative to the table, and no file is looked at.

    A row is an image. Its key is its path; where several rows name the same file, each is an image of its own, and the
    second one's key is ``PATH#2``, the third one's ``PATH#3``, in the order of the rows.

    Raises:
        S2R2Error: The table cannot be read, has no ``path`` column, or no rows.
    """
    import pyarrow

    names, columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if "path" not in columns:
        raise S2R2Error(f"{path} has no column named path (it has {', '.join(names) or 'none'}): add one")
    files = columns["path"]
    if not len(files):
        raise S2R2Error(f"{path} lists no images: it has a header and no rows")
    column = next((name for name in ("labels", "label") if name in columns), None)
    labels = None
    if column is not None:
        cells, values = _distinct(columns[column])
        lists = [[part.strip() for part in cell.split(";") if part.strip()] for cell in values.to_pylist()]
        labels = Labels.from_cells(cells, lists)
    texts = from_arrow(files)

    def place(index: int) -> str:
        return texts[index] if is_remote(texts[index]) else str(path.parent / texts[index])

    source = FileSource(path.name, _keys(path, files, texts), Computed(len(texts), place), labels)
    source.parts = _parts([cells for name, cells in columns.items() if _is_split(name)])
    pyarrow.default_memory_pool().release_unused()  # what reading and counting took is given back at once
    return source


def _keys(path: Path, files: Column, texts: Computed) -> Sequence[str]:
    """The paths, numbered where they are repeated.

    Raises:
        S2R2Error: A file is really called what a repeated row would be called.
    """
    from pyarrow import compute

    cells, values = _distinct(files)
    if len(values) == len(cells):
        return texts
    order = np.argsort(cells, kind="stable")
    counts = np.bincount(cells)
    first = np.cumsum(counts) - counts
    repeats = np.empty(len(cells), np.int32)
    repeats[order] = np.arange(len(cells)) - np.repeat(first, counts) + 1
    for name in values.filter(compute.match_substring_regex(values, r"#[0-9]+$")).to_pylist():
        plain, _, number = name.rpartition("#")
        found = compute.index(values, plain).as_py()
        if found >= 0 and 2 <= int(number) <= counts[found]:
            raise S2R2Error(f"{path} lists {plain} more than once, and {name} as well: rename that file")

    def key(text: str, repeat: int) -> str:
        return text if repeat == 1 else f"{text}#{repeat}"

    return Computed(
        len(texts), lambda index: key(texts[index], repeats[index]), lambda: map(key, texts, map(int, repeats))
    )


def _parts(columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Numbers of the images of each part that the columns name."""
    found: dict[str, list[np.ndarray]] = {}
    for column in columns:
        cells, values = _distinct(column)
        order = np.argsort(cells, kind="stable")
        bounds = np.cumsum(np.bincount(cells, minlength=len(values)))[:-1]
        for value, rows in zip(values.to_pylist(), np.split(order, bounds), strict=True):
            if value.strip():
                found.setdefault(value.strip(), []).append(rows)
    return {name: np.unique(np.concatenate(rows)) for name, rows in found.items()}


def _distinct(column: Column) -> tuple[np.ndarray, Column]:
    """The number of each cell's value, and the values in the order in which they first appear."""
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _is_split(name: str) -> bool:
    return name == "split" or name.endswith("_split")


def _wanted(names: Sequence[str]) -> dict[str, int]:
    """Place of each column that is looked at; of columns of one name the last."""
    return {n: i for i, n in enumerate(names) if n in ("path", "label", "labels") or _is_split(n)}


def _read_csv(path: Path) -> tuple[list[str], dict[str, Column]]:
    """Names of all columns, and the cells of those that matter; what a short row lacks is empty."""
    import pyarrow

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = (row for row in csv.reader(file) if row)
            names = next(rows, [])
            blocks: dict[str, list[Column]] = {name: [] for name in _wanted(names)}
            for block in _blocks(rows):
                for name, place in _wanted(names).items():
                    cells = [row[place] if place < len(row) else "" for row in block]
                    blocks[name].append(pyarrow.array(cells, pyarrow.large_string()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise S2R2Error(f"cannot read {path} ({error}): it must be a comma-separated table in UTF-8") from error
    return names, {name: _one(parts) for name, parts in blocks.items()}


def _blocks(rows: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    while block := list(islice(rows, ROWS_AT_ONCE)):
        yield block


def _read_parquet(path: Path) -> tuple[list[str], dict[str, Column]]:
    """The same of a parquet table; lists become text joined by ``;``, nulls become empty."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            blocks: dict[str, list[Column]] = {name: [] for name in _wanted(names)}
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(blocks)):
                for name in blocks:
                    blocks[name].append(pyarrow.array(_texts(batch[name]), pyarrow.large_string()))
    except (OSError, pyarrow.ArrowException) as error:
        raise S2R2Error(f"cannot read {path} ({str(error).splitlines()[0]}): it must be a parquet table") from error
    return names, {name: _one(parts) for name, parts in blocks.items()}


def _texts(cells: Column) -> list[str]:
    return [";".join(map(str, c)) if isinstance(c, list) else "" if c is None else str(c) for c in cells.to_pylist()]


def _one(parts: list[Column]) -> Column:
    import pyarrow

    return pyarrow.concat_arrays(parts) if parts else pyarrow.array([], pyarrow.large_string())
