"""Reading manifests row by row, from CSV and Parquet: what can be used goes to a listing, the rest is said."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from s2r2.errors import S2R2Error
from s2r2.images.sources.listing import Column, Listing, ListingWriter
from s2r2.images.sources.names import printable
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.tables import LIST, exists, places, row_path, rows, surplus

ROWS_AT_ONCE = 1 << 16
WANTED = ("path", "label", "labels")


def read_manifest(path: Path, writer: ListingWriter, also: tuple[str, ...] = (), address: str = "") -> Listing:
    """What a manifest lists; no file that it names is looked at.

    Args:
        path: A ``.csv`` or ``.parquet``.
        writer: A new one; it takes the rows.
        also: Columns to look at besides those that say what the images are.
        address: Of what this is a copy.

    Raises:
        S2R2Error: The table cannot be read, or has no column ``path``.
        OSError: The rows cannot be written.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    table = _Table(path, "row" if is_parquet else "line", writer, also, address)
    (_read_parquet if is_parquet else _read_csv)(table)
    return writer.finish(table.header, table.odd, table.problems, table.name)


@dataclass
class _Table:
    """What has been read of a table.

    Attributes:
        path: Its place.
        unit: What a row is called in a message, before its number.
        writer: Takes the rows.
        also: Columns to look at besides those that say what the images are.
        address: Of what this is a copy.
        header: Names of all columns.
        odd: By their number, the paths of rows that are no UTF-8; the column holds them in a form that is.
        problems: Rows that are left out.
    """

    path: Path
    unit: str
    writer: ListingWriter
    also: tuple[str, ...] = ()
    address: str = ""
    header: tuple[str, ...] = ()
    odd: dict[int, str] = field(default_factory=dict)
    problems: list[Skipped] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return printable(self.address or str(self.path))

    def columns(self, names: Sequence[str]) -> dict[str, int]:
        """Places of the columns that are looked at.

        Raises:
            S2R2Error: None is called path, two have one name, or both names of labels are there.
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
        if {"label", "labels"} <= found.keys():
            raise S2R2Error(f"{self.name} has a column label and a column labels: rename the one that is not meant")
        return found

    def leave_out(self, number: int, reason: str) -> None:
        """List a row that cannot be used."""
        self.problems.append(Skipped(f"{printable(Path(self.name).name)}, {self.unit} {number}", reason))

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
        blocks: dict[str, Column] = {}
        for name, cells in (columns | {"path": files}).items():
            try:
                blocks[name] = pyarrow.array(cells, pyarrow.large_string())
            except UnicodeEncodeError:
                plain = self._utf8(name, numbers, cells)
                files = plain if name == "path" else files
                blocks[name] = pyarrow.array(plain, pyarrow.large_string())
        self.writer.add(files, blocks)

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
            self.odd[self.writer.count + place] = cell
        return plain


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
