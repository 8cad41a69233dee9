"""What a search finds."""

from dataclasses import dataclass


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
    """

    rank: int
    path: str
    score: float
    label: str
    key: str
    id: str
