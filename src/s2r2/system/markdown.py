"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; cells are written as they are, so strangers' text in them must be escaped before."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
