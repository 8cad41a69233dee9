"""Near-duplicates: the same photo saved twice, in another size, slightly cropped."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from s2r2.errors import S2R2Error
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
    """Group the photos that are as good as the same.

    Photos with a cosine of at least ``threshold`` are joined, and so are those whose files are identical; a group is
    everything that is joined directly or through others.

    Args:
        index: Where to look.
        threshold: Cosine, 0 to 1; None takes what :func:`suggest_threshold` suggests.

    Raises:
        S2R2Error: The threshold is not within 0 and 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise S2R2Error(f"--threshold {threshold}: give a similarity between 0 and 1")
    suggested = suggest_threshold(index.vectors)
    used = suggested if threshold is None else threshold
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [*_same_files(index), *_similar_pairs(index, used)]
    if not pairs:
        return Duplicates([], used, suggested)
    left, right, scores = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(index), len(index)))
    _, component = connected_components(graph, directed=False)
    best: dict[int, float] = {}
    for number, score in zip(component[left].tolist(), scores.tolist(), strict=True):
        best[number] = max(best.get(number, -1.0), score)
    members: dict[int, list[int]] = {number: [] for number in best}
    for row in index.catalogue.by_key.tolist():
        if component[row] in members:
            members[component[row]].append(row)
    groups = [Group(rows, min(1.0, best[number])) for number, rows in members.items() if len(rows) > 1]
    return Duplicates(sorted(groups, key=lambda group: (-group.score, group.rows)), used, suggested)


def suggest_threshold(vectors: np.ndarray, *, sample: int = SAMPLE, seed: int = 0) -> float:
    """Cosine that separates near-duplicates from photos that are merely similar.

    How similar a photo's nearest neighbour is depends on encoder and photos, so no fixed value serves. Taken are the
    distances to the nearest neighbour of a sample, as logarithms; the threshold lies 3.5 robust standard deviations
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


def _same_files(index: ImageIndex) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of rows with identical files."""
    contents = index.catalogue.table["content"].to_numpy()
    order = np.argsort(contents, kind="stable")
    same = np.flatnonzero(contents[order][1:] == contents[order][:-1])
    if len(same):
        yield order[same], order[same + 1], np.ones(len(same), np.float32)


def _similar_pairs(index: ImageIndex, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of rows with at least the threshold's cosine, block by block, each pair once."""
    vectors = index.vectors
    count = len(vectors)
    if count > _PAIRWISE_UP_TO:  # all pairs would take hours
        for row in range(count):
            rows, scores = index.nearest(np.asarray(vectors[row]), _NEIGHBOURS)
            near = (scores >= threshold) & (rows > row)
            if near.any():
                yield np.full(near.sum(), row), rows[near], scores[near]
        return
    for start in range(0, count, _BLOCK):
        queries = np.asarray(vectors[start : start + _BLOCK])
        for other in range(start, count, _BLOCK):
            scores = queries @ np.asarray(vectors[other : other + _BLOCK]).T
            left, right = np.nonzero(scores >= threshold)
            once = left + start < right + other
            left, right = left[once], right[once]
            if len(left):
                yield left + start, right + other, scores[left, right]
