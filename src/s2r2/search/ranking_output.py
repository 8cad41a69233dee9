"""A ranking on a terminal, in a pipe or in a file: a line a photo."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.cells import cell_len, set_cell_size

from s2r2.errors import ArgumentError
from s2r2.search.filtering import EVERYTHING, Filter, asked_in_vain
from s2r2.search.hit import DESCRIPTION, Hit
from s2r2.search.index import ImageIndex
from s2r2.search.query_image import Box
from s2r2.search.ranking_sheet import contact_sheet
from s2r2.search.terminal_output import as_seen_from_here
from s2r2.system.console import PlainConsole
from s2r2.system.files import atomic_write, refuse_overwriting
from s2r2.system.terminal import csv_safe, visible
from s2r2.system.thumbnails import save_picture

SHOWN = 320
"""Short side of a query on a contact sheet: enough for its cell."""
FIELDS = ("rank", "similarity", *DESCRIPTION)
"""Columns of a ranking as CSV, names of its values as JSON."""
Form = Literal["table", "json", "csv"]


def search_and_show(
    folder: str | Path,
    query: str | Sequence[str],
    k: int,
    console: PlainConsole,
    *,
    less: Sequence[str] = (),
    words: Sequence[str] = (),
    less_words: Sequence[str] = (),
    box: str | None = None,
    picture: Path | None = None,
    form: Form = "table",
    out: Path | None = None,
    backend: str | None = None,
    where: Filter = EVERYTHING,
) -> None:
    """Search an index and print the ranking, a line a photo; write it to a file or as a contact sheet if asked to.

    Args:
        folder: Of the index.
        query: Image files or keys to be like.
        k: How many photos to find.
        console: Where to print.
        less: Image files or keys to be less like.
        words: Texts that find photos to be like.
        less_words: Texts that find photos to be less like.
        box: ``"left,top,width,height"`` in pixels of the query.
        picture: Where to save a contact sheet.
        form: How the ranking is printed: as a table, a JSON object a line, or CSV.
        out: Write the ranking here: CSV, or a JSON object a line where the name ends in ``.json`` or ``.jsonl``.
        backend: Name of the search backend; by default the one for which the index is made.
        where: Only photos that it lets through.

    Raises:
        S2R2Error: There is no index, a query cannot be read, the box is malformed, or a file cannot be written.
    """
    more = [query] if isinstance(query, str) else list(query)
    if out is not None and out.suffix.lower() not in (".csv", ".json", ".jsonl"):
        raise ArgumentError(f"`out={out}`: give it the ending .csv, .json or .jsonl")
    index = ImageIndex.open(folder, backend=backend)
    for argument, path in (("out", out), ("picture", picture)):
        if path is not None:
            refuse_overwriting(path, [*more, *less], argument)
            index.catalogue.refuse_overwriting(path, argument)
    part = parse_box(box)
    hits = index.search(more, k, less=less, words=words, less_words=less_words, box=part, where=where)
    for line in {"table": _as_table, "json": _as_json, "csv": _as_csv}[form](hits):
        console.say(line)
    if out is not None:
        lines = _as_csv(hits) if out.suffix.lower() == ".csv" else _as_json(hits)
        with atomic_write(out, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
    if picture is not None and (more or hits):
        more = more or [hits[0].key]  # words alone: the photo that fits them best stands for them
        first, *others = (index.query_picture(one, part, side=SHOWN) for one in (*more, *less))
        captions = ["more"] * (len(more) - 1) + ["less"] * len(less)
        save_picture(contact_sheet(index, first, hits, others=list(zip(others, captions, strict=True))), picture)
    if form == "table":
        if not hits and where != EVERYTHING:
            console.say(f"no {'other ' if more or less else ''}photo of the index passes the filters")
            for line in asked_in_vain(index.catalogue, where):
                console.say(visible(line))
        for name, path in (("ranking", out), ("picture", picture)):
            if path is not None:
                console.say(f"{name}   {path}")


def _as_table(hits: Sequence[Hit]) -> Iterator[str]:
    width = max(cell_len(text) for text in ("label", *(visible(hit.label) for hit in hits)))
    yield f"rank  similarity  {set_cell_size('label', width)}  photo"
    for hit in hits:
        label = set_cell_size(visible(hit.label), width)
        yield f"{hit.rank:>4}  {hit.score:>10.4f}  {label}  {as_seen_from_here(hit.path)}"


def _as_json(hits: Sequence[Hit]) -> Iterator[str]:
    """All in ASCII: no terminal's encoding changes it, and no control character is in it."""
    for hit in hits:
        yield json.dumps(dict(zip(FIELDS, _values(hit), strict=True)))


def _as_csv(hits: Sequence[Hit]) -> Iterator[str]:
    for cells in (FIELDS, *map(_values, hits)):
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="").writerow(csv_cells(cells))
        yield line.getvalue()


def csv_cells(values: Iterable[int | float | str | None]) -> list[str]:
    """Cells of a line of CSV: control characters are shown, and no spreadsheet runs them."""
    return [csv_safe(visible("" if value is None else value)) for value in values]


def _values(hit: Hit) -> tuple[int | float | str | None, ...]:
    return hit.rank, round(hit.score, 6), *hit.description


def parse_box(text: str | None) -> Box | None:
    """``"left,top,width,height"`` in pixels as four numbers.

    Raises:
        S2R2Error: It is something else.
    """
    if text is None:
        return None
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"`box={text}`: give left,top,width,height in pixels, such as 10,20,64,64") from None
    return left, top, width, height
