"""Figures for the log that tell whether the temperature still lets gradients through."""

from __future__ import annotations

import torch
from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses.batch import check_arguments
from s2r2.losses.ranking import full_precision
from s2r2.losses.refusals import check_above_zero, check_whole


@torch.no_grad()
def ranking_statistics(
    embeddings: Tensor, groups: Tensor, temperature: float, *, candidates: int = 256
) -> dict[str, Tensor]:
    """Mean cosine of positives and mean slope of the sigmoid, in O(N D) and without a host synchronization.

    Args:
        embeddings: ``(N, D)`` of unit length.
        groups: ``(N,)`` integers.
        temperature: T of the loss.
        candidates: Number of evenly spaced candidates against which the slope is sampled.

    Returns:
        Detached scalars: ``positive_cosine``, the mean over all pairs of one group (NaN if there is none), and
        ``sigmoid_slope``, the mean of ``sigma (1 - sigma)`` over queries with one positive each and the sampled
        negatives, 0 (no gradient flows: every order is settled) to 0.25 (everything still is undecided).

    Raises:
        S2R2Error: Wrong shapes or types, no embedding, or a setting is not above 0.
    """
    check_above_zero(temperature=temperature)
    check_whole(1, candidates=candidates)
    check_arguments(embeddings, groups)
    if len(embeddings) == 0:
        raise ArgumentError("there are no embeddings to take statistics of; give (N, D) with N of at least 1")
    groups = groups.to(embeddings.device, non_blocking=True)
    with full_precision(embeddings.device):
        z = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        order = torch.argsort(groups, stable=True)
        z, groups = z[order], groups[order]
        same = groups[1:] == groups[:-1]
        segment = torch.cumsum(torch.cat([same.new_zeros(1), ~same]), 0)
        totals = torch.zeros_like(z).index_add_(0, segment, z)
        sizes = torch.zeros_like(segment).index_add_(0, segment, torch.ones_like(segment))
        pairs = (sizes * (sizes - 1)).sum()
        positive_cosine = (totals.square().sum() - z.square().sum()) / pairs
        step = max(1, len(z) // candidates)
        negative = (groups[:-1, None] != groups[::step]) & same[:, None]
        scores = z[:-1] @ z[::step].T
        above = torch.sigmoid((scores - (z[:-1] * z[1:]).sum(1, keepdim=True)) / temperature)
        slope = (above * (1 - above) * negative).sum() / negative.sum()
    return {"positive_cosine": positive_cosine, "sigmoid_slope": slope}
