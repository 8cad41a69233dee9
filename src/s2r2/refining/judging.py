"""Whether a learned head helps: average precision of queries that the head has not learned from, before and after."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s2r2.evaluation.metrics.bootstrap import Interval, bootstrap_interval
from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.refining.learning import Judged, applied

FOLDS = 5
Learn = Callable[[Sequence[Judged]], np.ndarray]


@dataclass(frozen=True)
class Change:
    """Mean average precision of held-out queries.

    Attributes:
        what: What was held out.
        before: With the vectors as they are.
        after: With a head that has learned from the rest.
        difference: After minus before; the interval is paired by query.
    """

    what: str
    before: Interval
    after: Interval
    difference: Interval

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"`` or ``"level"``: whether the interval of the difference leaves out 0."""
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "level"

    def __str__(self) -> str:
        gap = self.difference
        return (
            f"{self.what:<20} mAP {self.before} -> {self.after}, {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] "
            f"over {gap.count} queries: {self.verdict}"
        )


def cross_validated(vectors: np.ndarray, judged: Sequence[Judged], learn: Learn, seed: int = 0) -> list[Change]:
    """Learn on folds, and judge what was left out: photos, and whole groups (labels, or queries of the marks)."""
    if len(judged) == 1:
        return [
            _change("photos left out", vectors, list(_without_photos(judged[0], seed)), learn),
            _change("labels left out", vectors, list(_without_groups(judged[0], seed)), learn),
        ]
    return [_change("queries left out", vectors, list(_without_lists(judged, seed)), learn)]


@dataclass(frozen=True)
class _Fold:
    """What is learned from, and what is judged: lists of photos, and which of each are queries."""

    train: Sequence[Judged]
    test: Sequence[tuple[Judged, np.ndarray]]


def _without_photos(judged: Judged, seed: int) -> Iterator[_Fold]:
    """Each photo is left out once; it is a query among all others."""
    folds = _folds(len(judged.rows), seed)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        yield _Fold([Judged(judged.rows[~out], judged.groups[~out])], [(judged, out)])


def _without_groups(judged: Judged, seed: int) -> Iterator[_Fold]:
    """Half of the groups is left out at a time; its photos are ranked among themselves."""
    folds = _folds(int(judged.groups.max()) + 1, seed, 2)
    for fold in (0, 1):
        out = folds[judged.groups] == fold
        alone = Judged(judged.rows[out], judged.groups[out])
        yield _Fold([Judged(judged.rows[~out], judged.groups[~out])], [(alone, alone.queries)])


def _without_lists(judged: Sequence[Judged], seed: int) -> Iterator[_Fold]:
    folds = _folds(len(judged), seed)
    for fold in range(int(folds.max()) + 1):
        train = [part for part, number in zip(judged, folds, strict=True) if number != fold]
        yield _Fold(train, [(part, part.queries) for part, n in zip(judged, folds, strict=True) if n == fold])


def _folds(count: int, seed: int, most: int = FOLDS) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).permutation(np.arange(count) % min(most, count)))


def _change(what: str, vectors: np.ndarray, folds: Sequence[_Fold], learn: Learn) -> Change:
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    for fold in folds:
        matrix = learn(fold.train)
        for judged, queries in fold.test:
            own = np.asarray(vectors[judged.rows], np.float32)
            for values, rows in ((before, own), (after, applied(matrix, own))):
                values.append(retrieval_metrics(rows, judged.groups).average_precision[queries])
    first, second = np.concatenate(before), np.concatenate(after)
    gap = bootstrap_interval(second - first)
    return Change(what, bootstrap_interval(first), bootstrap_interval(second), gap)
