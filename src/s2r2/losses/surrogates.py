"""Differentiable stand-ins for retrieval figures: what replaces the step function, and what is made of the ranks.

For a query with positives P and negatives N, every rank-based loss here is two choices:

* a *kernel* in place of the step ``[s_j > s_i]`` when counting what ranks above positive i,

      negatives above   N_i  =     sum over j in N           H-(s_j - s_i)
      rank among P      R+_i = 1 + sum over k in P, k != i   H+(s_k - s_i)
      rank among all    R_i  = R+_i + N_i

* an *outer map* from ``N_i`` and ``R+_i`` of all positives to the loss of the query.

The backends compute the counts and their gradient; the classes below say the rest. Counting negatives apart
from positives is what keeps a nearly perfect ranking exact in float32: ``1 - R+/R`` cancels, ``N/R`` does not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, get_type_hints

import torch
from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses.refusals import check_above_zero
from s2r2.settings.values import Mistakes, fitted, plain


class Outer(NamedTuple):
    """Loss per query and its derivatives with respect to the counts."""

    loss: Tensor  # (Q,)
    by_negatives: Tensor  # (Q, P), d loss / d N_i, zero where padded
    by_positives: Tensor  # (Q, P), d loss / d R+_i, zero where padded


class RankSurrogate(ABC):
    """A loss made of ranks: a kernel and an outer map. The kernel here is the sigmoid of most of them."""

    name: ClassVar[str]
    sigmoid_kernel: ClassVar[bool] = True
    temperature: float

    def kernel(self, differences: Tensor, temperature: float, *, positives: bool) -> tuple[Tensor, Tensor]:
        """Value and slope of H at score differences of any shape; may overwrite its input."""
        return _sigmoid(differences, temperature)

    @abstractmethod
    def combine(self, negatives: Tensor, among: Tensor, valid: Tensor, count: Tensor) -> Outer:
        """Loss of each query from its counts ``(Q, P)``, mask ``(Q, P)`` and number of positives ``(Q,)``."""


@dataclass(frozen=True)
class SmoothAP(RankSurrogate):
    """Smooth average precision (Brown, Xie, Kalogeiton, Zisserman, ECCV 2020, arXiv 2007.12163, eq. 3 to 6).

    ``H(x) = sigmoid(x / T)`` for positives and negatives alike. ``outer="one-minus"``: the loss of a query is

        1 - AP = mean over i in P of N_i / R_i,    in [0, 1).

    ``outer="log"``: minus the mean log precision at the positives, ``mean over i of log(R_i / R+_i)``, in
    [0, inf), which does not flatten for queries that rank badly.

    Defaults: T = 0.05 (Brown et al. use 0.01), query left out of candidates and positives.
    """

    outer: str = "one-minus"
    temperature: float = 0.05

    name: ClassVar[str] = "smooth-ap"

    def __post_init__(self) -> None:
        _fit_options(self)
        if self.outer not in ("one-minus", "log"):
            raise ArgumentError(f"outer is {self.outer!r}; choose 'one-minus' or 'log'")

    def combine(self, negatives: Tensor, among: Tensor, valid: Tensor, count: Tensor) -> Outer:
        """Loss of each query: ``mean of N/R``, or with the logarithm ``mean of log(1 + N/R+)``."""
        share = valid.to(negatives.dtype) / count[:, None]
        rank = negatives + among
        if self.outer == "one-minus":
            scale = share / rank**2
            return Outer((share * negatives / rank).sum(1), scale * among, -scale * negatives)
        loss = (share * torch.log1p(negatives / among)).sum(1)
        return Outer(loss, share / rank, -share * negatives / (rank * among))


@dataclass(frozen=True)
class SupAP(RankSurrogate):
    """Upper bound of 1 - AP (SupAP of ROADMAP: Ramzi et al., NeurIPS 2021, arXiv 2110.01445, eq. 5 and 6).

    Same outer map as Smooth-AP, other kernels, with x the score difference:

        H+(x) = 1 if x >= 0 else 0        (positives: no gradient)
        H-(x) = sigmoid(x / T)            if x <= 0
                1/2 + sigmoid(x / T)      if 0 < x <= margin
                slope (x - margin) + c    if x > margin,    c = 1/2 + sigmoid(margin / T)

    ``H-`` bounds the step from above and keeps pushing negatives that are far above a positive. The published
    code sets c = 1.44 by hand, which makes H- fall at the margin; here it is the value that makes it continuous.
    ROADMAP adds a calibration term on the cosines themselves; that is a loss of its own and not part of this.

    Defaults as published: T = 0.01, slope = 100, margin = 0.05; the query is left out here.
    """

    temperature: float = 0.01
    slope: float = 100.0
    margin: float = 0.05

    name: ClassVar[str] = "sup-ap"
    sigmoid_kernel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _fit_options(self)
        if not (self.slope > 0 and self.margin > 0):
            raise ArgumentError(f"sup-ap needs slope > 0 and margin > 0, got {self.slope} and {self.margin}")

    def kernel(self, differences: Tensor, temperature: float, *, positives: bool) -> tuple[Tensor, Tensor]:
        """Value and slope of H+ or H- at score differences of any shape."""
        if positives:
            return (differences >= 0).to(differences.dtype), torch.zeros_like(differences)
        far = differences > self.margin
        offset = 0.5 + 1 / (1 + math.exp(-min(self.margin / temperature, 700.0)))
        linear = self.slope * (differences - self.margin) + offset
        step = 0.5 * (differences > 0)
        value, slope = _sigmoid(differences, temperature)
        value += step
        return torch.where(far, linear, value), slope.masked_fill_(far, self.slope)

    def combine(self, negatives: Tensor, among: Tensor, valid: Tensor, count: Tensor) -> Outer:
        """Loss of each query: 1 - AP, as in :class:`SmoothAP`."""
        return _SMOOTH_AP.combine(negatives, among, valid, count)


@dataclass(frozen=True)
class RecallAtK(RankSurrogate):
    """Recall@k surrogate (Patel, Tolias, Matas, CVPR 2022, arXiv 2108.11179, eq. 4 to 7).

    ``H(x) = sigmoid(x / T)``; the loss of a query is

        1 - mean over k of  min(k, sum over i in P of sigmoid((k - R_i) / T_k)) / min(k, |P|)

    and lies in [0, 1). The published code counts the query itself in R_i, so even a perfect ranking keeps a
    loss of 0.45 at k = 1; here the query is left out, as the formula has it.

    Defaults as published: T = 0.01, T_k = 1, k = 1, 2, 4, 8, 16.
    """

    temperature: float = 0.01
    rank_temperature: float = 1.0
    k: tuple[int, ...] = (1, 2, 4, 8, 16)

    name: ClassVar[str] = "recall-at-k"

    def __post_init__(self) -> None:
        _fit_options(self)
        if not self.k or min(self.k) < 1 or not self.rank_temperature > 0:
            raise ArgumentError(
                f"recall-at-k needs k >= 1 and rank_temperature > 0, got {self.k}, {self.rank_temperature}"
            )

    def combine(self, negatives: Tensor, among: Tensor, valid: Tensor, count: Tensor) -> Outer:
        """Loss of each query from the ranks of its positives."""
        rank = negatives + among
        recall = torch.zeros_like(rank[:, 0])
        by_rank = torch.zeros_like(rank)
        for k in self.k:
            hit = torch.sigmoid((k - rank) / self.rank_temperature) * valid
            found = hit.sum(1)
            most = count.clamp(max=k)
            recall += found.clamp(max=k) / most
            by_rank += ((found < k).to(rank.dtype) / most)[:, None] * hit * (1 - hit)
        by_rank /= len(self.k) * self.rank_temperature
        return Outer(1 - recall / len(self.k), by_rank, by_rank)


@dataclass(frozen=True)
class SmoothNDCG(RankSurrogate):
    """Smooth nDCG (ApproxNDCG: Qin, Liu, Li, Information Retrieval 13, 2010, *A general approximation framework*).

    ``H(x) = sigmoid(x / T)``; the loss of a query is

        1 - (sum over i in P of 1 / log2(1 + R_i)) / (sum over r = 1 ... |P| of 1 / log2(1 + r)),    in [0, 1).

    Unlike average precision it asks for an order among positives, too: equal scores are less than perfect.

    Defaults: T = 0.05, query left out of candidates and positives.
    """

    temperature: float = 0.05

    name: ClassVar[str] = "smooth-ndcg"

    def __post_init__(self) -> None:
        _fit_options(self)

    def combine(self, negatives: Tensor, among: Tensor, valid: Tensor, count: Tensor) -> Outer:
        """Loss of each query from the ranks of its positives."""
        rank = negatives + among
        discount = math.log(2) / torch.log1p(rank) * valid
        ideal = ideal_gain(count).to(rank)
        by_rank = discount / ((1 + rank) * torch.log1p(rank) * ideal[:, None])
        return Outer(1 - discount.sum(1) / ideal, by_rank, by_rank)


def ideal_gain(count: Tensor) -> Tensor:
    """What a ranking with all of ``count`` ``(Q,)`` positives first gains: sum of 1 / log2(1 + r), float64."""
    ranks = torch.arange(1, 1 + int(count.max()), dtype=torch.float64, device=count.device)
    return (1 / torch.log2(1 + ranks)).cumsum(0)[count - 1]


@dataclass(frozen=True)
class QuantisedAP:
    """Average precision of a histogram of similarities (Revaud et al., ICCV 2019, arXiv 1906.07589).

    Also He et al., CVPR 2018 (arXiv 1705.08562, eq. 6), on binary codes.
    ``bins`` triangular bins, centered from the upper to the lower end of ``similarity_range``, share each candidate
    between its two neighbors; scores outside fall into the end bins. With h_b all candidates and h+_b the positives
    in bin b (Revaud et al., eq. 4 to 6):

        AP   = (1 / |P|) sum over b of  h+_b * (sum over c <= b of h+_c) / (sum over c <= b of h_c)
        loss = 1 - AP

    Two faults of the published code are left out: its range [0, 1], which gives all negative cosines one bin and no
    gradient, and its NaN for a query without positives (such a query does not count here).

    Defaults: 25 bins as published, range [-1, 1]. There is no temperature: the width of a bin stands for it.
    """

    bins: int = 25
    similarity_range: tuple[float, float] = (-1.0, 1.0)

    name: ClassVar[str] = "quantised-ap"
    sigmoid_kernel: ClassVar[bool] = False
    temperature: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _fit_options(self)
        if self.bins < 2 or not self.similarity_range[0] < self.similarity_range[1]:
            raise ArgumentError(
                f"quantised-ap needs bins >= 2 and a rising similarity_range, got {self.bins}, {self.similarity_range}"
            )


Surrogate = RankSurrogate | QuantisedAP

SURROGATES: dict[str, type[SmoothAP] | type[SupAP] | type[RecallAtK] | type[SmoothNDCG] | type[QuantisedAP]] = {
    kind.name: kind for kind in (SmoothAP, SupAP, RecallAtK, SmoothNDCG, QuantisedAP)
}


def create_surrogate(name: str, **options: Any) -> Surrogate:
    """Make the loss called ``name`` with its own options.

    Raises:
        S2R2Error: Unknown name or option.
    """
    if not isinstance(name, str) or name not in SURROGATES:
        raise ArgumentError(f"there is no ranking loss {name!r}; choose one of {', '.join(SURROGATES)}")
    known = [field.name for field in fields(SURROGATES[name]) if field.name != "temperature"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ArgumentError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return SURROGATES[name](**options)


def _fit_options(options: Any) -> None:
    """Give the fields their declared types.

    Raises:
        S2R2Error: It names each that does not fit.
    """
    mistakes, kinds = Mistakes(), get_type_hints(type(options))
    for field in fields(options):
        value = fitted(plain(getattr(options, field.name)), kinds[field.name], mistakes, (field.name,))
        object.__setattr__(options, field.name, value)
    mistakes.refuse()
    check_above_zero(temperature=options.temperature)


def _sigmoid(differences: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    value = differences.div_(temperature).sigmoid_()
    return value, torch.addcmul(value, value, value, value=-1).div_(temperature)


_SMOOTH_AP = SmoothAP()
