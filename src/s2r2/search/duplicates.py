"""Near-duplicates: the same photo saved twice, in another size, slightly cropped."""

from dataclasses import dataclass

import numpy as np

from s2r2.errors import ArgumentError
from s2r2.search.index import ImageIndex

SAMPLE = 4096
DEVIATIONS = 3.5
_BLOCK = 2048
_PAIRWISE_UP_TO = 300_000
_NEIGHBOURS = 16
_SAME = 1 - 1e-6


@dataclass(frozen=True)
class Group:
    """Photos that are near-duplicates of one another.

    Attributes:
        rows: Their rows in the index, ordered by key.
        score: The highest cosine of two of them.
    """

    rows: list[int]
    score: float


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates.

    Attributes:
        groups: Most similar first.
        threshold: Cosine from which on two photos count as near-duplicates.
        suggested: The threshold that the distribution of scores suggests.
    """

    groups: list[Group]
    threshold: float
    suggested: float


def find_duplicates(index: ImageIndex, threshold: float | None = None) -> Duplicates:
    """Group near-duplicate photos.

    Photos with a cosine of at least ``threshold`` are joined, and so are those whose files are identical; a group is
    everything that is joined directly or through others.

    Args:
        index: Where to look.
        threshold: Cosine, 0 to 1; None takes what :func:`suggest_threshold` suggests.

    Raises:
        S2R2Error: The threshold is not within 0 and 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ArgumentError(f"`threshold={threshold}`: give a similarity between 0 and 1")
    suggested = suggest_threshold(index.vectors)
    used = suggested if threshold is None else threshold
    groups = _Groups(index.catalogue.table["content"].to_numpy())
    _join_similar(index, groups, used)
    return Duplicates(groups.listed(index.catalogue.by_key), used, suggested)


def suggest_threshold(vectors: np.ndarray, *, sample: int = SAMPLE, seed: int = 0) -> float:
    """Cosine that separates near-duplicates from photos that are merely similar.

    How similar a photo's nearest neighbor is depends on encoder and photos, so no fixed value serves. Taken are the
    distances to the nearest neighbor of a sample, as logarithms; the threshold lies 3.5 robust standard deviations
    (median absolute deviations times 1.4826) below their median. It is meant to find few false ones rather than all.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        sample: Photos looked at.
        seed: Of the sample.
    """
    count = len(vectors)
    if count < 3:
        return _SAME
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    nearest = np.full(len(chosen), -1.0, np.float32)
    queries = np.ascontiguousarray(vectors[chosen])
    for start in range(0, count, _BLOCK):
        scores = queries @ np.asarray(vectors[start : start + _BLOCK]).T
        inside = np.flatnonzero((chosen >= start) & (chosen < start + _BLOCK))
        scores[inside, chosen[inside] - start] = -1
        np.maximum(nearest, scores.max(1), out=nearest)
    distances = np.sqrt(np.maximum(2 - 2 * nearest.astype(np.float64), 0))
    logarithms = np.log(distances[distances > 1e-3]) if (distances > 1e-3).sum() >= 3 else np.zeros(1)
    middle = np.median(logarithms)
    spread = 1.4826 * np.median(np.abs(logarithms - middle))
    limit = float(np.exp(middle - DEVIATIONS * spread)) if spread > 0 else 1e-3
    return float(np.clip(1 - limit**2 / 2, 0, _SAME))


class _Groups:
    """Photos joined into groups; memory grows with the photos, never with their pairs.

    Args:
        contents: ``(N,)``: hash of each photo's file; photos with the same one are joined from the start, and one of
            them stands for all.
    """

    def __init__(self, contents: np.ndarray) -> None:
        _, self.first, self._of, counts = np.unique(
            contents, return_index=True, return_inverse=True, return_counts=True
        )
        self.best = np.where(counts > 1, 1.0, -1.0).astype(np.float32)
        self._parent = np.arange(len(self.first))

    def join(self, left: np.ndarray, right: np.ndarray, similar: np.ndarray, scores: np.ndarray) -> None:
        """Join the contents numbered ``left`` ``(L,)`` with those numbered ``right`` ``(R,)`` that are ``similar``.

        Args:
            left: Their numbers.
            right: Their numbers.
            similar: ``(L, R)`` bool.
            scores: ``(L, R)`` float32.
        """
        if not similar.any():
            return
        near = np.where(similar, scores, -1)
        self.best[left] = np.maximum(self.best[left], near.max(1))
        self.best[right] = np.maximum(self.best[right], near.max(0))
        rows = np.flatnonzero(similar.any(1))
        groups: dict[int, list[np.ndarray]] = {}
        for row, root in zip(rows.tolist(), self._roots(left[rows]).tolist(), strict=True):
            groups.setdefault(root, []).append(similar[row])
        for root, found in groups.items():  # what one group reaches is joined at once
            reached = self._roots(right[np.logical_or.reduce(found)])
            self._parent[np.append(reached, self._roots(np.array([root])))] = min(int(reached.min()), root)

    def listed(self, order: np.ndarray) -> list[Group]:
        """Groups of two and more, most similar first; ``order`` ``(N,)`` says how rows are ordered inside."""
        roots = self._roots(np.arange(len(self.first)))
        group = roots[self._of]
        best = np.full(len(self.first), -1, np.float32)
        np.maximum.at(best, roots, self.best)
        members: dict[int, list[int]] = {}
        large = np.bincount(group, minlength=len(self.first)) > 1
        for row in order[large[group[order]]].tolist():
            members.setdefault(int(group[row]), []).append(row)
        groups = [Group(rows, min(1.0, float(best[number]))) for number, rows in members.items()]
        return sorted(groups, key=lambda group: (-group.score, group.rows))

    def _roots(self, numbers: np.ndarray) -> np.ndarray:
        """The number that stands for the group of each."""
        found = self._parent[numbers]
        while ((above := self._parent[found]) != found).any():
            found = above
        self._parent[numbers] = found
        return found


def _join_similar(index: ImageIndex, groups: _Groups, threshold: float) -> None:
    """Join photos with at least the threshold's cosine, a block of pairs at a time."""
    vectors, first = index.vectors, groups.first
    count = len(first)
    if count > _PAIRWISE_UP_TO:  # all pairs would take hours
        number_of = np.full(len(vectors), -1)
        number_of[first] = np.arange(count)
        for number, row in enumerate(first.tolist()):
            rows, scores = index.nearest(np.asarray(vectors[row]), _NEIGHBOURS)
            others = number_of[rows]
            near = (scores >= threshold) & (others >= 0) & (others != number)
            groups.join(np.array([number]), others[near], np.ones((1, near.sum()), bool), scores[near][None])
        return
    for start in range(0, count, _BLOCK):
        left = np.arange(start, min(start + _BLOCK, count))
        queries = np.asarray(vectors[first[left]])
        for other in range(start, count, _BLOCK):
            right = np.arange(other, min(other + _BLOCK, count))
            scores = queries @ np.asarray(vectors[first[right]]).T
            similar = scores >= threshold
            if other == start:
                np.fill_diagonal(similar, val=False)
            groups.join(left, right, similar, scores)
