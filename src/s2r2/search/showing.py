"""A search as a person sees it on a terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2r2.errors import S2R2Error
from s2r2.search.contact_sheet import contact_sheet
from s2r2.search.index import ImageIndex
from s2r2.views import save_picture


def search_and_show(
    folder: str | Path, query: str, k: int, box: str | None, picture: Path | None, console: Console
) -> None:
    """Search an index and print the ranking as a table; write a contact sheet if a picture is asked for.

    Raises:
        S2R2Error: There is no index, the query cannot be read, the box is malformed, or the picture cannot be written.
    """
    index = ImageIndex.open(folder)
    part = _parse_box(box)
    hits = index.search(query, k, box=part)
    table = Table(box=None, pad_edge=False)
    for title in ("rank", "similarity", "label", "photo"):
        table.add_column(title, justify="right" if title in ("rank", "similarity") else "left", overflow="fold")
    for hit in hits:
        table.add_row(str(hit.rank), f"{hit.score:.4f}", hit.label, hit.path)
    console.print(table)
    if picture is None:
        return
    save_picture(contact_sheet(index, index.query_picture(query, part), hits), picture)
    console.print(f"picture   {picture}", highlight=False)


def _parse_box(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise S2R2Error(f"--box {text}: give left,top,width,height in pixels, as in 10,20,64,64") from None
    return left, top, width, height
