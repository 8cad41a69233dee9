"""An index as a person sees it on a terminal."""

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2r2.errors import S2R2Error
from s2r2.files import atomic_write
from s2r2.search.contact_sheet import contact_sheet
from s2r2.search.duplicates import find_duplicates
from s2r2.search.index import ImageIndex
from s2r2.search.query import Box
from s2r2.views import save_picture

SHOWN = 320
"""Short side of a query on a contact sheet: enough for its cell."""


def search_and_show(
    folder: str | Path, query: str, k: int, box: str | None, picture: Path | None, console: Console
) -> None:
    """Search an index and print the ranking as a table; write a contact sheet if a picture is asked for.

    Raises:
        S2R2Error: There is no index, the query cannot be read, the box is malformed, or the picture cannot be written.
    """
    index = ImageIndex.open(folder)
    part = parse_box(box)
    hits = index.search(query, k, box=part)
    table = Table(box=None, pad_edge=False)
    for title in ("rank", "similarity", "label", "photo"):
        table.add_column(title, justify="right" if title in ("rank", "similarity") else "left", overflow="fold")
    for hit in hits:
        table.add_row(str(hit.rank), f"{hit.score:.4f}", hit.label, hit.path)
    console.print(table)
    if picture is None:
        return
    save_picture(contact_sheet(index, index.query_picture(query, part, side=SHOWN), hits), picture)
    console.print(f"picture   {picture}", highlight=False)


def duplicates_and_show(folder: str | Path, threshold: float | None, out: Path | None, console: Console) -> None:
    """Print groups of near-duplicates, most similar first; write all of them as CSV if a file is asked for.

    Args:
        folder: Of the index.
        threshold: Cosine from which on two photos count as near-duplicates; None to choose it from the scores.
        out: CSV with the columns ``group``, ``score`` and ``path``.
        console: Where to print.

    Raises:
        S2R2Error: There is no index, the threshold is not within 0 and 1, or the file cannot be written.
    """
    index = ImageIndex.open(folder)
    found = find_duplicates(index, threshold)
    paths = index.catalogue.table["location"]
    photos = sum(len(group.rows) for group in found.groups)
    how = "chosen from the scores" if threshold is None else f"the scores suggest {found.suggested:.4f}"
    for number, group in enumerate(found.groups, start=1):
        console.print(f"[bold]{number}[/bold]  similarity {group.score:.4f}", highlight=False)
        for row in group.rows:
            console.print(f"   {paths[row].as_py()}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(found.groups)} groups, {photos} photos; threshold {found.threshold:.4f} ({how})", highlight=False
    )
    if found.groups and max(len(group.rows) for group in found.groups) > max(10, len(index) // 2):
        console.print(
            "warning   most photos are in one group: this encoder hardly tells them apart (is it collapsed, or hardly "
            "trained?); use another one, or a higher --threshold",
            highlight=False,
            soft_wrap=True,
        )
    if out is not None:
        with atomic_write(out, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("group", "score", "path"))
            for number, group in enumerate(found.groups, start=1):
                writer.writerows((number, f"{group.score:.6f}", paths[row].as_py()) for row in group.rows)
        console.print(f"list      {out}", highlight=False)


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
        raise S2R2Error(f"--box {text}: give left,top,width,height in pixels, as in 10,20,64,64") from None
    return left, top, width, height
