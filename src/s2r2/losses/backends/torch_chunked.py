"""Ranking losses in plain torch, on any device: one pass over chunks of queries.

A chunk computes its similarities once and one kernel value per (query, positive, negative); from that buffer come
both the counts and the gradient, which is added up in place. Nothing of size N x N outlives its chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2r2.losses.backends.problem import PairGradient, RankingProblem

CPU_BUDGET = 2**20
"""Elements of a chunk's largest buffer on the CPU (4 MiB of float32: stays in the cache)."""
ACCELERATOR_BUDGET = 2**26
"""The same on an accelerator (256 MiB of float32)."""


def evaluate(problem: RankingProblem, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
    """Losses of all valid queries and, if weights are given, the gradient of their weighted sum.

    Args:
        problem: Embeddings, relevance and loss.
        weights: Weight of each valid query ``(Q,)``, or None if no gradient is wanted.

    Returns:
        Losses ``(Q,)`` and the gradient, or None.
    """
    queries, candidates, relevance = problem.queries, problem.candidates, problem.relevance
    on_cpu = queries.device.type == "cpu"
    budget = CPU_BUDGET if on_cpu else ACCELERATOR_BUDGET
    compared = candidates.double() if on_cpu else candidates
    losses = queries.new_empty(len(relevance))
    gradient = None if weights is None else PairGradient.zeros(problem)
    for first, last in relevance.chunks(0, len(candidates), budget):
        rows = relevance.rows[first:last]
        query = queries[rows]
        scores = query.to(compared.dtype) @ compared.T
        index, valid = relevance.positives(first, last)
        positive = problem.hide_relevant(scores, index, first, last)
        if scores.dtype != queries.dtype:  # rounded as distances from the positives: what is near them stays exact
            middle = (positive.amin(1, keepdim=True) + positive.amax(1, keepdim=True)) / 2
            scores, positive = ((s - middle).to(queries.dtype) for s in (scores, positive))
        # One block holds all positives, unless the group of a single query is giant.
        step = max(1, budget // scores.numel())
        blocks = [slice(i, i + step) for i in range(0, positive.shape[1], step)]
        negatives, slope = torch.empty_like(positive), scores
        for block in blocks:
            value, slope = _above(problem, scores, positive[:, block])
            negatives[:, block] = value.sum(2)
        among = problem.count_among(positive, valid, budget)
        outer = problem.ranks.combine(negatives, among, valid, valid.sum(1))
        losses[first:last] = outer.loss
        if gradient is None or weights is None:
            continue
        weight = weights[first:last, None]
        by_negatives = weight * outer.by_negatives
        by_positive = problem.pull_among(positive, valid, weight * outer.by_positives, budget)
        by_score = torch.zeros_like(scores)
        for block in blocks:
            if len(blocks) > 1:  # the slopes again, rather than all of them kept
                _, slope = _above(problem, scores, positive[:, block])
            by_score += torch.bmm(by_negatives[:, None, block], slope)[:, 0]
            by_positive[:, block] -= by_negatives[:, block] * slope.sum(2)
        by_score.scatter_add_(1, index, by_positive)
        gradient.queries[rows] = by_score @ candidates
        gradient.candidates.addmm_(by_score.T, query)
    return losses, gradient


def _above(problem: RankingProblem, scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel value and slope of every candidate against positives ``(Q, I)``: ``(Q, I, M)`` each."""
    differences = scores[:, None, :] - positive[:, :, None]
    return problem.ranks.kernel(differences, problem.temperature, positives=False)
