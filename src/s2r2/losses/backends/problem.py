"""What every backend is given, and the small block among the positives that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from s2r2.losses.groups import Relevance
from s2r2.losses.surrogates import RankSurrogate, Surrogate


@dataclass(frozen=True)
class RankingProblem:
    """Queries ``(N, D)``, candidates ``(M, D)``, who is relevant to whom, and the loss."""

    queries: Tensor
    candidates: Tensor
    relevance: Relevance
    surrogate: Surrogate
    temperature: float

    @property
    def ranks(self) -> RankSurrogate:
        """The loss, known to be made of ranks."""
        assert isinstance(self.surrogate, RankSurrogate)
        return self.surrogate

    def hide_relevant(self, scores: Tensor, positives: Tensor, first: int, last: int) -> Tensor:
        """Set the scores of positives and of the query itself to minus infinity, in place; return the positives'."""
        positive = scores.gather(1, positives)
        scores.scatter_(1, positives, -torch.inf)
        own = self.relevance.own[first:last, None]
        # A query that is no candidate has own = -1: hide a positive of it once more.
        scores.scatter_(1, torch.where(own < 0, positives[:, :1], own), -torch.inf)
        return positive

    def count_among(self, positive: Tensor, valid: Tensor, budget: int) -> Tensor:
        """Rank of each positive among the positives, R+, from their scores and mask ``(Q, P)``."""
        ranks = []
        for part in self._blocks(positive, budget):
            value, _ = self._among(positive, valid, part)
            ranks.append(1 + value.sum(2))
        return torch.cat(ranks, dim=1)

    def pull_among(self, positive: Tensor, valid: Tensor, by_positives: Tensor, budget: int) -> Tensor:
        """Carry the derivative with respect to R+ back to the scores of the positives, ``(Q, P)``."""
        by_score = torch.zeros_like(positive)
        for part in self._blocks(positive, budget):
            _, slope = self._among(positive, valid, part)
            slope.mul_(by_positives[:, part, None])
            by_score += slope.sum(1)
            by_score[:, part] -= slope.sum(2)
        return by_score

    def _blocks(self, positive: Tensor, budget: int) -> list[slice]:
        queries, width = positive.shape
        step = max(1, budget // (queries * width))
        return [slice(i, i + step) for i in range(0, width, step)]

    def _among(self, positive: Tensor, valid: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Kernel between positives i in ``part`` and all positives k != i: value and slope ``(Q, I, P)``."""
        differences = positive[:, None, :] - positive[:, part, None]
        value, slope = self.ranks.kernel(differences, self.temperature, positives=True)
        place = torch.arange(positive.shape[1], device=positive.device)
        counted = valid[:, None, :] & (place[part, None] != place)
        return value.mul_(counted), slope.mul_(counted)


class PairGradient(NamedTuple):
    """Gradient with respect to the queries ``(N, D)`` and the candidates ``(M, D)``."""

    queries: Tensor
    candidates: Tensor

    @classmethod
    def zeros(cls, problem: RankingProblem) -> PairGradient:
        """A gradient to add to."""
        return cls(torch.zeros_like(problem.queries), torch.zeros_like(problem.candidates))
