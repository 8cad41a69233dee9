"""Pairs of photos that may be copies: by descriptors of them and of their crops, and by the encoder's vectors.

All products are sums of whole numbers below 2**24, exact in float32 in whatever order they are added.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from s2r2.search.duplicates.confirming import Guess
from s2r2.search.duplicates.descriptors import CROPS, SAME_PARTS, cosine_as_product, mirrored

ALIKE = 0.8
"""Cosine of two descriptors from which on their photos are compared. Copies of the kinds that crops provide for have
0.87 and more; of photos that are none, one pair in ten thousand."""

NEIGHBORS = 12
"""Candidates of a photo in one pass at most, the best ones."""

_ROWS, _COLUMNS = 512, 4096
_VECTOR_NORM = 4000

GUESSES = (
    Guess(),
    *(Guess(left=crop) for crop in CROPS[1:]),
    *(Guess(part, part) for part in SAME_PARTS),
    Guess(mirrored=True),
)
"""What a pair may be proposed as; the right photo of a crop is always whole."""


class Pairs(NamedTuple):
    """Candidates, best first.

    Attributes:
        left: ``(P,)`` rows.
        right: ``(P,)`` rows.
        guess: ``(P,)``: how they may belong together, in :data:`GUESSES`.
        product: ``(P,)`` float32: of their descriptors.
    """

    left: np.ndarray
    right: np.ndarray
    guess: np.ndarray
    product: np.ndarray

    def ordered(self) -> "Pairs":
        """Best first; equal ones by their rows."""
        order = np.lexsort((self.guess, self.right, self.left, -self.product))
        return Pairs(*(values[order] for values in self))


def by_descriptors(descriptors: np.ndarray) -> Pairs:
    """Pairs whose descriptors are alike.

    Args:
        descriptors: ``(N, C, LENGTH)`` int16, of :func:`s2r2.search.duplicates.descriptors.describe`.
    """
    whole = descriptors[:, 0]
    found = []
    for number, guess in enumerate(GUESSES):
        if guess.mirrored:
            left, right = mirrored(whole), whole
        else:
            left = descriptors[:, CROPS.index(guess.left)]
            right = left if guess.right == guess.left else whole
        symmetric = guess.left == guess.right
        pairs = _alike(left, right, cosine_as_product(ALIKE), symmetric)
        found += [Pairs(rows, others, np.full(len(rows), number), products) for rows, others, products in pairs]
    return _joined(found)


def by_vectors(vectors: np.ndarray, rows: np.ndarray, threshold: float) -> Pairs:
    """Pairs among some photos whose vectors have at least this cosine, with no guess how they belong together.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        rows: ``(P,)``: the photos.
        threshold: Cosine.
    """
    chosen = vectors if len(rows) == len(vectors) else vectors[rows]
    found = _alike(chosen, chosen, threshold * _VECTOR_NORM**2, True, scale=_VECTOR_NORM)
    return _joined([Pairs(rows, others, np.zeros(len(rows), int), products) for rows, others, products in found])


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        nothing = np.zeros(0, int)
        return Pairs(nothing, nothing, nothing, np.zeros(0, np.float32))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True))).ordered()


def _alike(
    left: np.ndarray, right: np.ndarray, least: float, symmetric: bool, scale: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of ``left`` and ``right`` with at least this product, and the product: the best ones of each left row.

    Args:
        left: ``(N, L)``.
        right: ``(N, L)``, of the same photos: none is paired with itself.
        least: Product.
        symmetric: Each pair comes up twice, so it is taken once.
        scale: If not 0, multiply by this and round first.
    """

    def numbers(values: np.ndarray) -> np.ndarray:
        return np.rint(values * np.float32(scale)) if scale else values.astype(np.float32)

    for start in range(0, len(left), _ROWS):
        rows = numbers(left[start : start + _ROWS])
        kept = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
        for other in range(start if symmetric else 0, len(right), _COLUMNS):
            products = rows @ numbers(right[other : other + _COLUMNS]).T
            if products.max(initial=-1) < least:
                continue
            row, column = np.nonzero(products >= least)
            new = (row + start, column + other, products[row, column])
            chosen = new[1] > new[0] if symmetric else new[1] != new[0]
            kept = _best(*(np.concatenate([old, part[chosen]]) for old, part in zip(kept, new, strict=True)))
        if len(kept[0]):
            yield kept


def _best(row: np.ndarray, column: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best columns of each row; of equal ones the first."""
    if len(row) <= NEIGHBORS:
        return row, column, product
    order = np.lexsort((column, -product, row))
    row, column, product = row[order], column[order], product[order]
    first = np.searchsorted(row, row)
    kept = np.arange(len(row)) - first < NEIGHBORS
    return row[kept], column[kept], product[kept]
