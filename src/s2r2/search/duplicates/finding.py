"""Copies of photos: proposed by descriptors and vectors, confirmed by pixels, grouped and described."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from s2r2.errors import ArgumentError, UnreadableImage
from s2r2.images import decode
from s2r2.search.duplicates.candidates import GUESSES, Pairs, by_descriptors, by_vectors
from s2r2.search.duplicates.confirming import Evidence, Guess, Shown, compare
from s2r2.search.duplicates.descriptors import describe, small_gray
from s2r2.search.duplicates.groups import Groups
from s2r2.search.duplicates.locating import locations
from s2r2.search.duplicates.originals import Original, look_at, pixels_of
from s2r2.search.duplicates.threshold import suggest_threshold
from s2r2.search.index import ImageIndex
from s2r2.search.storage.layout import DamagedIndex
from s2r2.system.prefetch import in_order

ORIGINAL = "original"
SAME_FILE, SAME_PIXELS = "same file", "same pixels"
MIRRORED, CROPPED, COVERED, RECOLORED, RESIZED = "mirrored", "cropped", "partly covered", "recolored", "resized"
RECOMPRESSED = "recompressed"
KINDS = (SAME_FILE, SAME_PIXELS, RECOMPRESSED, RESIZED, CROPPED, COVERED, RECOLORED, MIRRORED)
"""What a copy can be. Several may hold: a photo mirrored and cropped."""

_KEPT_PICTURES = 256
_PIECE = 64


@dataclass(frozen=True)
class Group:
    """Photos that are copies of one another.

    Attributes:
        rows: Their rows in the index, ordered by key.
        original: The one of them with the most pixels (of equal ones the one with the most bytes, then the first).
        kinds: What each of the others is beside the original, in :data:`KINDS`; empty if they were joined only through
            a third one.
    """

    rows: list[int]
    original: int
    kinds: dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class Duplicates:
    """Groups of copies.

    Attributes:
        groups: In the order of the keys of their first photos.
        threshold: Cosine of vectors from which on pixels were compared.
        compared: Pairs of photos whose pixels were compared.
    """

    groups: list[Group]
    threshold: float
    compared: int


def find_duplicates(index: ImageIndex, threshold: float | None = None) -> Duplicates:
    """Group copies: the same file or pixels, recompressed, resized, cropped, recolored, captioned or mirrored.

    Pairs are proposed by descriptors that no encoder takes part in (copies cropped by up to about a tenth), and by
    vectors, which find deeper crops. Whatever proposed a pair, it is joined only if the pixels of its thumbnails agree
    once they are aligned. A group is all that is joined directly or through others. The same index has the same
    groups, whatever the number of threads.

    Args:
        index: Where to look.
        threshold: Cosine, 0 to 1, from which on pixels are compared; None takes what
            :func:`s2r2.search.duplicates.threshold.suggest_threshold` suggests.

    Raises:
        ArgumentError: The threshold is not within 0 and 1.
        DamagedIndex: A thumbnail is not what was written.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ArgumentError(f"`threshold={threshold}`: give a similarity between 0 and 1")
    used = suggest_threshold(index.vectors) if threshold is None else threshold
    comparer = Comparer(index)
    groups = Groups(index.catalogue.table["content"].to_numpy())
    firsts = groups.firsts
    compared = 0
    for pairs, located in (
        (by_descriptors(_descriptors(index, firsts)), False),
        (by_vectors(index.vectors, firsts, used), True),
    ):
        compared += _join(groups, _of_rows(pairs, firsts), comparer, located)
    return Duplicates([comparer.described(rows) for rows in groups.listed(index.catalogue.by_key)], used, compared)


class Comparer:
    """Compares photos of an index by their pixels, and remembers what it found.

    Args:
        index: Of the photos.
    """

    def __init__(self, index: ImageIndex) -> None:
        self._index = index
        self._evidence: dict[tuple[int, int], Evidence] = {}
        self._contents = index.catalogue.table["content"]
        self.shown = functools.lru_cache(_KEPT_PICTURES)(self._shown)
        self.original: Callable[[int], Original] = functools.cache(functools.partial(look_at, index))
        self._pixels: Callable[[int], str | None] = functools.cache(functools.partial(pixels_of, index))

    def _shown(self, row: int) -> Shown:
        return Shown.of(_thumbnail(self._index, row))

    def compare(self, left: int, right: int, guesses: Iterable[Guess]) -> bool:
        """Whether two photos are copies, if they belong together as one of the guesses says."""
        for guess in guesses:
            evidence = compare(self.shown(left), self.shown(right), guess)
            if evidence is not None and evidence.is_copy:
                self._evidence[left, right] = evidence
                return True
        return False

    def kinds(self, original: int, copy: int) -> tuple[str, ...]:
        """What a copy is beside an original; empty if their pixels do not say that it is one."""
        if self._contents[original] == self._contents[copy]:
            return (SAME_FILE,)
        evidence = self._evidence_of(original, copy)
        if evidence is None:
            return ()
        sizes = [(seen.width, seen.height) for seen in map(self.original, (original, copy))]
        other_size = sizes[0] != sizes[1] and (0, 0) not in sizes
        if evidence.is_exact and sizes[0] == sizes[1] and self._same_pixels(original, copy):
            return (SAME_PIXELS,)
        holds = {
            MIRRORED: evidence.mirrored,
            CROPPED: evidence.is_cropped,
            COVERED: evidence.covered > 0,
            RECOLORED: evidence.is_recolored,
            RESIZED: other_size and not evidence.is_cropped,
        }
        return tuple(kind for kind, there in holds.items() if there) or (RECOMPRESSED,)

    def _evidence_of(self, left: int, right: int) -> Evidence | None:
        for pair in ((left, right), (right, left)):
            if pair in self._evidence:
                return self._evidence[pair]
        guesses = chain((Guess(), Guess(mirrored=True)), locations(self.shown(left), self.shown(right)))
        return self._evidence[left, right] if self.compare(left, right, guesses) else None

    def _same_pixels(self, left: int, right: int) -> bool:
        pixels = self._pixels(left)
        return pixels is not None and pixels == self._pixels(right)

    def described(self, rows: list[int]) -> Group:
        """A group of photos, with what each of them is beside the largest."""
        seen = [self.original(row) for row in rows]
        original = max(seen, key=lambda photo: (photo.width * photo.height, photo.bytes)).row
        return Group(rows, original, {row: self.kinds(original, row) for row in rows if row != original})


def _join(groups: Groups, pairs: Pairs, comparer: Comparer, located: bool) -> int:
    """Join the pairs whose pixels agree; returns how many were compared. What is joined already is not compared."""
    compared = 0
    order = np.lexsort((-pairs.product, np.maximum(pairs.left, pairs.right), np.minimum(pairs.left, pairs.right)))
    columns = (pairs.left, pairs.right, pairs.guess)
    for left, right, number in zip(*(values[order].tolist() for values in columns), strict=True):
        if groups.root(left) == groups.root(right):
            continue
        guesses = locations(comparer.shown(left), comparer.shown(right)) if located else (GUESSES[number],)
        compared += 1
        if comparer.compare(left, right, guesses):
            groups.join(left, right)
    return compared


def _thumbnail(index: ImageIndex, row: int) -> np.ndarray:
    try:
        return decode(index.thumbnail(row))
    except UnreadableImage as error:
        raise DamagedIndex(index.folder, f"a thumbnail: {error}") from error


def _of_rows(pairs: Pairs, rows: np.ndarray) -> Pairs:
    return pairs._replace(left=rows[pairs.left], right=rows[pairs.right])


def _descriptors(index: ImageIndex, rows: np.ndarray) -> np.ndarray:
    """Descriptors ``(N, C, LENGTH)`` of some photos, from their thumbnails."""
    pictures = in_order(
        lambda row: small_gray(_thumbnail(index, row)), rows.tolist(), threads=4, ahead=4 * _PIECE, at_once=8
    )
    found = []
    while piece := list(islice(pictures, _PIECE)):
        found.append(describe(np.stack(piece)))
    return np.concatenate(found)
