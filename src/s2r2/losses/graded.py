"""Ranking with relevance in levels: views of the same photo before those of its burst, its place, and the rest.

Column l of the groups says who is positive at level l; with the finest first, the positives P_1 of a query lie within
P_2, and so on to P_L. With weights w_l, and the smooth rank R of :mod:`s2r2.losses.average_precision`:

Hierarchical average precision (H-AP: Ramzi, Audebert, Thome, Rambour, Bitot, ECCV 2022, arXiv 2207.04873, eq. 2 and 3,
relevance as in eq. 5):

    rel(k)    = sum over l with k in P_l of  w_l / |P_l|
    H-rank(k) = rel(k) + sum over j != k, q  min(rel(k), rel(j)) sigma((s_qj - s_qk) / T)
    H-AP      = sum over k in P_L of  H-rank(k) / R(q,k)   /   sum over k in P_L of  rel(k)

Normalized discounted cumulative gain (Järvelin and Kekäläinen 2002, smooth as in :class:`~s2r2.losses.SmoothNDCG`);
with weights 1, 2, 4 ... from the coarsest level, the gain is the usual 2^level - 1:

    gain(k) = sum over l with k in P_l of  w_l
    nDCG    = sum over k in P_L of  gain(k) / log2(1 + R(q,k))   /   the same of an ideal ranking

Levels lie within each other, so min(rel(k), rel(j)) is the sum of w_l / |P_l| over the levels that have both k and j.
Both figures therefore are weighted means of the ungraded ones at each level,

    H-AP = sum of w_l AP_l / sum of w_l,        nDCG = sum of w_l IDCG_l nDCG_l / sum of w_l IDCG_l

over the levels at which the query has a positive. That is how they are computed: each level is one call of the
backends, exact with all of them, and costs what the ungraded loss with those groups does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from s2r2.errors import ArgumentError
from s2r2.losses.levels import Levels
from s2r2.losses.ranking import RankingLoss

GRADED = {"h-ap": "smooth-ap", "ndcg": "smooth-ndcg"}
"""Graded losses, and the ungraded one that each is a weighted mean of."""


class GradedRankingLoss(RankingLoss):
    """1 - H-AP, or 1 - nDCG: ``GradedRankingLoss("h-ap")(embeddings, groups)``.

    The published H-AP loss puts other functions in place of the step, and adds a clustering term; here it is the
    sigmoid throughout, so that with one level H-AP is :class:`~s2r2.losses.SmoothAPLoss`.

    Args:
        name: ``"h-ap"`` or ``"ndcg"``; formulas and sources in :mod:`s2r2.losses.graded`.
        temperature: As in :class:`RankingLoss`.
        weights: One for each column of groups, above 0. None: each half of the one before it.
        **options: ``include_self``, ``reduction``, ``backend``, ``distributed``, ``check_finite`` and ``no_pairs``, as
            in :class:`RankingLoss`. A memory bank knows no levels.

    Shape:
        As :class:`RankingLoss`, but groups ``(N, L)``: for each embedding its group at every level, the finest first.
        Who shares a group at one level must share one at the next. ``(N,)`` is one level. Likewise ``gallery_groups``.

    Raises:
        S2R2Error: Unknown name or option, or a weight that is not above 0.
    """

    def __init__(
        self, name: str = "h-ap", *, temperature: float = 0.05, weights: Sequence[float] | None = None, **options: Any
    ) -> None:
        if not isinstance(name, str) or name not in GRADED:
            raise ArgumentError(f"there is no graded loss {name!r}; choose one of {', '.join(GRADED)}")
        if options.get("bank") is not None:
            raise ArgumentError("a graded loss has no bank: stored embeddings have no levels; leave out bank")
        if not (weights is None or isinstance(weights, Iterable)):
            raise ArgumentError(f"weights is {weights!r}; give one number for each column of groups, the finest first")
        super().__init__(GRADED[name], temperature=temperature, **options)
        self.levels = Levels(None if weights is None else tuple(weights), by_gain=name == "ndcg")
