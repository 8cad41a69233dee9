"""How much each level of relevance counts in a query's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses.groups import Relevance
from s2r2.losses.refusals import check_above_zero
from s2r2.losses.surrogates import ideal_gain


@dataclass(frozen=True)
class Levels:
    """Weights of levels, finest first.

    Attributes:
        weights: One for each column of groups; None: each counts half as much as the one before it.
        by_gain: A level's share of a query is its weight times the gain that its positives can have, as in nDCG, or
            its weight alone.
    """

    weights: tuple[float, ...] | None = None
    by_gain: bool = False

    def __post_init__(self) -> None:
        for number, weight in enumerate(self.weights or ()):
            check_above_zero(**{f"weights[{number}]": weight})

    def shares(self, levels: Sequence[Relevance], queries: int) -> list[Tensor | None]:
        """Share of each level in the loss of its valid queries, ``(Q,)`` float64; None: all of it.

        Those of a query add up to 1. A level at which a query has no positive has no part in its loss.

        Args:
            levels: The valid queries of each level, and their positives, on the CPU.
            queries: Number of queries, valid or not.

        Raises:
            S2R2Error: There are as many weights as columns, or none.
        """
        weights = tuple(0.5**number for number in range(len(levels))) if self.weights is None else self.weights
        if len(weights) != len(levels):
            raise ArgumentError(f"weights has {len(weights)} levels, groups {len(levels)} columns; make them equal")
        if len(levels) == 1:
            return [None]
        total = torch.zeros(queries, dtype=torch.float64, device="cpu")
        parts = []
        for level, weight in zip(levels, weights, strict=True):
            gain = ideal_gain(level.count) if self.by_gain and len(level) else torch.ones_like(level.count)
            parts.append(weight * gain.double())
            total.index_add_(0, level.rows, parts[-1])
        return [part / total[level.rows] for part, level in zip(parts, levels, strict=True)]
