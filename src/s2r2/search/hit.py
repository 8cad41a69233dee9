"""What a search finds."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2r2.search.storage.catalog import Catalogue

_SHOWN = ("id", "key", "label", "taken", "camera", "width", "height")
DESCRIPTION = ("label", "key", "id", "path", "taken", "camera", "width", "height")
"""What is told of a photo wherever photos are listed as a table: attributes of :class:`Hit`, names of columns."""


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Attributes:
        rank: 1 for the most similar.
        path: Where a person finds it: a path, or archive and member.
        score: Cosine of its vector and the query's, -1 to 1; for a query of several photos as stated in
            :mod:`s2r2.search.several_photos`.
        label: Its labels joined by ``;``, or empty.
        key: Its key in the source.
        id: Its id in the index: 16 hexadecimal digits that stay the same as long as the key does.
        taken: When it was taken by the camera's clock, in ISO 8601; None here and below if its file does not say.
        camera: Make and model.
        width: Columns of the upright picture.
        height: Rows of it.
    """

    rank: int
    path: str
    score: float
    label: str
    key: str
    id: str
    taken: str | None = None
    camera: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def description(self) -> tuple[int | str | None, ...]:
        """The values of :data:`DESCRIPTION`."""
        return tuple(getattr(self, name) for name in DESCRIPTION)

    @classmethod
    def of(cls, catalogue: "Catalogue", row: int, rank: int = 0, score: float = 0.0) -> "Hit":
        """The photo in a row of an index."""
        cell = {name: catalogue.table[name][row].as_py() for name in _SHOWN}
        cell |= {"id": f"{cell['id']:016x}", "taken": iso(cell["taken"])}
        return cls(rank, catalogue.location(row), score, **cell)


def iso(taken: float | None) -> str | None:
    """A time by the camera's clock, in seconds since 1970, in ISO 8601."""
    if taken is None:
        return None
    return (datetime(1970, 1, 1) + timedelta(seconds=round(taken))).isoformat()
