"""Quantised average precision in torch: a histogram of similarities per query, over chunks of queries."""

from __future__ import annotations

import torch
from torch import Tensor

from s2r2.losses.backends.problem import PairGradient, RankingProblem
from s2r2.losses.backends.torch_chunked import ACCELERATOR_BUDGET, CPU_BUDGET
from s2r2.losses.surrogates import QuantisedAP


def evaluate(problem: RankingProblem, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
    """Losses of all valid queries and, if weights are given, the gradient of their weighted sum.

    Args:
        problem: Embeddings, relevance and a :class:`QuantisedAP`.
        weights: Weight of each valid query ``(Q,)``, or None if no gradient is wanted.

    Returns:
        Losses ``(Q,)`` and the gradient, or None.
    """
    queries, candidates, relevance = problem.queries, problem.candidates, problem.relevance
    loss = problem.surrogate
    assert isinstance(loss, QuantisedAP)
    budget = CPU_BUDGET if queries.device.type == "cpu" else ACCELERATOR_BUDGET
    losses = queries.new_empty(len(relevance))
    gradient = None if weights is None else PairGradient.zeros(problem)
    for first, last in relevance.chunks(4 * len(candidates), loss.bins, budget):
        rows = relevance.rows[first:last]
        query = queries[rows]
        scores = query @ candidates.T
        index, valid = relevance.positives(first, last)
        positive = problem.hide_relevant(scores, index, first, last)
        if gradient is None or weights is None:
            losses[first:last] = _losses(scores, positive, valid, loss)
            continue
        with torch.enable_grad():
            scores.requires_grad_()
            positive.requires_grad_()
            chunk = _losses(scores, positive, valid, loss)
            by_score, by_positive = torch.autograd.grad(chunk @ weights[first:last], (scores, positive))
        losses[first:last] = chunk.detach()
        by_score.scatter_add_(1, index, by_positive)
        gradient.queries[rows] = by_score @ candidates
        gradient.candidates.addmm_(by_score.T, query)
    return losses, gradient


def _losses(scores: Tensor, positive: Tensor, valid: Tensor, loss: QuantisedAP) -> Tensor:
    """1 - AP of each query from the scores of all other candidates (-inf: none) and of its positives."""
    relevant = _histogram(positive, valid, loss)
    everything = relevant + _histogram(scores, scores > -torch.inf, loss)
    found, seen = relevant.cumsum(1), everything.cumsum(1)
    precision = found / seen.clamp(min=torch.finfo(seen.dtype).tiny)
    return 1 - (relevant * precision).sum(1) / valid.sum(1)


def _histogram(scores: Tensor, counted: Tensor, loss: QuantisedAP) -> Tensor:
    """Soft count per bin ``(Q, bins)``, highest similarity first: a triangle touches two bins only."""
    low, high = loss.similarity_range
    position = ((high - scores) * ((loss.bins - 1) / (high - low))).clamp(0, loss.bins - 1)
    left = position.detach().floor().clamp(max=loss.bins - 2).long()
    one = counted.to(scores.dtype)
    share = (position - left) * one
    counts = scores.new_zeros(len(scores), loss.bins)
    return counts.scatter_add(1, left, one - share).scatter_add(1, left + 1, share)
