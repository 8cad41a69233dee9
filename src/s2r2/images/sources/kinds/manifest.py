"""Manifests: a table that names images, of any length. Its columns are kept as blocks of memory, not as objects."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.sources.joining import part_of
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import FileSource, ImageSource
from s2r2.images.sources.strings import Computed, from_arrow
from s2r2.images.sources.tables import LIST, exists, is_split, label_lists, places, row_path, rows, surplus

Column: TypeAlias = Any
"""A pyarrow ``large_string`` array without nulls; pyarrow is imported when a manifest is opened, and has no types."""

ROWS_AT_ONCE = 1 << 16
WANTED = ("path", "label", "labels")


@register_source(
    "a manifest (.csv, .parquet)",
    "a table with a column path, and optionally label, or labels joined by semicolons, and split",
    parts="those in its column split",
)
def open_manifest(data: Data) -> ImageSource | None:
    """Images listed in a table; relative paths are relative to the table, and no file is looked at.

    A row is an image. Its key is its path; where several rows name the same file, each is an image of its own, and the
    second one's key is ``PATH#2``, the third one's ``PATH#3``, in the order of the rows. A row that names nothing, or
    whose cells cannot be told apart, is left out and listed among the skipped.

    Raises:
        S2R2Error: The table cannot be read, has no ``path`` column, or no rows.
    """
    path = data.path
    if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
        return None
    import pyarrow

    table = _read(path)
    columns = {name: _one(parts) for name, parts in table.blocks.items()}
    files = columns["path"]
    if not len(files):
        first = f" that can be used ({table.problems[0].key}: {table.problems[0].reason})" if table.problems else ""
        raise S2R2Error(f"{table.name} lists no images: it has a header and no rows{first}")
    column = next((name for name in ("labels", "label") if name in columns), None)
    labels = None
    if column is not None:
        cells, values = _distinct(columns[column])
        labels = Labels.from_cells(cells, label_lists(values.to_pylist(), table.name))
    names = from_arrow(files)

    odd = table.odd

    def place(index: int) -> str:
        return row_path(path.parent, odd.get(index) or names[index])

    identity = os.path.join(os.path.realpath(path.parent), path.name)
    keys, paths = _keys(table.name, files, names), Computed(len(names), place)
    source = _Manifest(printable(path.name), keys, paths, labels, table.problems, identity=identity)
    source.table, source.tables, source.columns = path, [path.absolute()], table.header
    source.parts = _parts([cells for name, cells in columns.items() if is_split(name)])
    pyarrow.default_memory_pool().release_unused()  # what reading and counting took is given back at once
    return part_of(source, data.part)


class _Manifest(FileSource):
    """The images of a table, whose other columns are read when somebody asks for them."""

    table: Path

    def column(self, name: str) -> list[str]:
        """Its cells.

        Raises:
            S2R2Error: The table cannot be read any more, or has other rows now.
        """
        cells: list[str] = _one(_read(self.table, (name,)).blocks.get(name, [])).to_pylist()
        if len(cells) != len(self):
            raise S2R2Error(f"{printable(str(self.table))} has changed while it was read: start again")
        return cells


@dataclass
class _Table:
    """What has been read of a table.

    Attributes:
        path: Its place.
        unit: What a row is called in a message, before its number.
        also: Columns to look at besides those that say what the images are.
        header: Names of all columns.
        blocks: The cells of each column, in blocks.
        odd: By their number, the paths of rows that are no UTF-8; the column holds them in a form that is.
        problems: Rows that are left out.
    """

    path: Path
    unit: str
    also: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    blocks: dict[str, list[Column]] = field(default_factory=dict)
    odd: dict[int, str] = field(default_factory=dict)
    problems: list[Skipped] = field(default_factory=list)
    count: int = 0

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return printable(str(self.path))

    def columns(self, names: Sequence[str]) -> dict[str, int]:
        """Places of the columns that are looked at.

        Raises:
            S2R2Error: None is called path, or two have one name.
        """
        found = places(names, (*WANTED, *self.also), self.name)
        self.header = tuple(name.strip().lower() for name in names)
        if "path" not in found:
            known = ", ".join(name.strip()[:40] for name in names[:20])
            hint = "add one, in its first line"
            if any("\0" in name or "\udcff" in name for name in names):
                known, hint = "text that is not UTF-8", "save it as a comma-separated table in UTF-8"
            elif len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
                hint = "separate its columns by commas"
            raise S2R2Error(f"{self.name} has no column named path (it has {printable(known) or 'none'}): {hint}")
        self.blocks = {name: [] for name in found}
        return found

    def leave_out(self, number: int, reason: str) -> None:
        """List a row that cannot be used."""
        self.problems.append(Skipped(f"{printable(self.path.name)}, {self.unit} {number}", reason))

    def add(self, numbers: Sequence[int], columns: dict[str, list[str]]) -> None:
        """Keep some rows.

        Args:
            numbers: Where each of them is in the table.
            columns: Their cells, by column.
        """
        import pyarrow

        files = [cell.strip() for cell in columns["path"]]
        if not all(files):
            for number, file in zip(numbers, files, strict=True):
                if not file:
                    self.leave_out(number, "it names no file")
            kept = [i for i, file in enumerate(files) if file]
            numbers, files = [numbers[i] for i in kept], [files[i] for i in kept]
            columns = {name: [cells[i] for i in kept] for name, cells in columns.items()}
        for name, cells in (columns | {"path": files}).items():
            try:
                block = pyarrow.array(cells, pyarrow.large_string())
            except UnicodeEncodeError:
                block = pyarrow.array(self._utf8(name, numbers, cells), pyarrow.large_string())
            self.blocks[name].append(block)
        self.count += len(files)

    def _utf8(self, column: str, numbers: Sequence[int], cells: Sequence[str]) -> list[str]:
        """The same cells in UTF-8, where those that are not name files of just those bytes."""
        plain = [printable(cell) for cell in cells]
        for place, cell in enumerate(cells):
            if plain[place] == cell:
                continue
            if column != "path" or not exists(row_path(self.path.parent, cell)):
                raise S2R2Error(
                    f"cannot read {self.name} ({self.unit} {numbers[place]}: {plain[place][:80]!r} is not UTF-8): it "
                    f"must be a comma-separated table in UTF-8"
                )
            self.odd[self.count + place] = cell
        return plain


def _keys(table: str, files: Column, names: Computed) -> Sequence[str]:
    """The paths, numbered where they are repeated.

    Raises:
        S2R2Error: A file is really called what a repeated row would be called.
    """
    from pyarrow import compute

    cells, values = _distinct(files)
    if len(values) == len(cells):
        return names
    order = np.argsort(cells, kind="stable")
    counts = np.bincount(cells)
    first = np.cumsum(counts) - counts
    repeats = np.empty(len(cells), np.int32)
    repeats[order] = np.arange(len(cells)) - np.repeat(first, counts) + 1
    for name in values.filter(compute.match_substring_regex(values, r"#[0-9]+$")).to_pylist():
        plain, _, number = name.rpartition("#")
        found = compute.index(values, plain).as_py()
        if found >= 0 and 2 <= int(number) <= counts[found]:
            raise S2R2Error(f"{table} lists {plain} more than once, and {name} as well: rename that file")

    def key(text: str, repeat: int) -> str:
        return text if repeat == 1 else f"{text}#{repeat}"

    return Computed(
        len(names), lambda index: key(names[index], repeats[index]), lambda: map(key, names, map(int, repeats))
    )


def _parts(columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Numbers of the images of each part that the columns name."""
    found: dict[str, list[np.ndarray]] = {}
    for column in columns:
        cells, values = _distinct(column)
        order = np.argsort(cells, kind="stable")
        bounds = np.cumsum(np.bincount(cells, minlength=len(values)))[:-1]
        for value, numbers in zip(values.to_pylist(), np.split(order, bounds), strict=True):
            if value.strip():
                found.setdefault(value.strip(), []).append(numbers)
    return {name: np.unique(np.concatenate(numbers)) for name, numbers in found.items()}


def _distinct(column: Column) -> tuple[np.ndarray, Column]:
    """The number of each cell's value, and the values in the order in which they first appear."""
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _read(path: Path, also: tuple[str, ...] = ()) -> _Table:
    """The columns of a table that matter, and those that are asked for."""
    is_parquet = path.suffix.lower() == ".parquet"
    table = _Table(path, "row" if is_parquet else "line", also)
    (_read_parquet if is_parquet else _read_csv)(table)
    return table


def _read_csv(table: _Table) -> None:
    """Read the columns that matter of a comma-separated table; what a short row lacks is empty."""
    try:
        with table.path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            found = rows(file, table.name)
            _, names = next(found, (0, []))
            columns = table.columns(names)
            for block in _blocks(found):
                if max(len(row) for _, row in block) > len(names):
                    block = _told_apart(table, block, len(names))
                cells = {
                    name: [row[place] if place < len(row) else "" for _, row in block]
                    for name, place in columns.items()
                }
                table.add([line for line, _ in block], cells)
    except OSError as error:
        raise S2R2Error(f"cannot read {table.name}: {error.strerror or error}") from error


def _blocks(found: Iterator[tuple[int, list[str]]]) -> Iterator[list[tuple[int, list[str]]]]:
    while block := list(islice(found, ROWS_AT_ONCE)):
        yield block


def _told_apart(table: _Table, block: list[tuple[int, list[str]]], columns: int) -> list[tuple[int, list[str]]]:
    """The rows that have no more cells than there are columns; the others are listed."""
    reasons = [surplus(row, columns) for _, row in block]
    for (line, _), reason in zip(block, reasons, strict=True):
        if reason:
            table.leave_out(line, reason)
    return [entry for entry, reason in zip(block, reasons, strict=True) if not reason]


def _read_parquet(table: _Table) -> None:
    """The same of a parquet table; nulls become empty."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(table.path) as file:
            schema = file.schema_arrow
            columns = table.columns(schema.names)
            for name, place in columns.items():
                _check_type(table, name, schema.field(place).type)
            first = 1
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[schema.names[place] for place in columns.values()]):
                cells = {
                    name: [_text(c) for c in batch[schema.names[place]].to_pylist()] for name, place in columns.items()
                }
                table.add(range(first, first + len(batch)), cells)
                first += len(batch)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise S2R2Error(f"cannot read {table.name} ({line[:200]}): it must be a parquet table") from error


def _check_type(table: _Table, name: str, kind: Any) -> None:
    """Refuse a column whose values are no names.

    Raises:
        S2R2Error: It is such a column.
    """
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    text = any(test(inner) for test in (types.is_string, types.is_large_string, types.is_string_view))
    text = text or types.is_binary(inner) or types.is_large_binary(inner) or types.is_null(inner)
    if text or (name != "path" and not types.is_struct(inner) and not types.is_map(inner)):
        return
    raise S2R2Error(f"{table.name}: its column {name} holds {kind}: it must be text")


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    if isinstance(cell, list):
        return "".join(f"{LIST}{text}" for text in map(_text, cell) if text)
    return "" if isinstance(cell, float) and math.isnan(cell) else str(cell)


def _one(parts: list[Column]) -> Column:
    import pyarrow

    return pyarrow.concat_arrays(parts) if parts else pyarrow.array([], pyarrow.large_string())
