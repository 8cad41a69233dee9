"""The S2R2 objective, on one page: maximize the average precision of ranking views by image.

Every view q is a retrieval query. Its positives P_q are the other views of its image (its *group*), its candidates
all views but itself. With similarities ``s_qj = z_q . z_j``, sigma the sigmoid and T the temperature,

    R(q,i)  = 1 + sum over j != i, q             sigma((s_qj - s_qi) / T)    rank of positive i among all
    R+(q,i) = 1 + sum over j != i, q, j in P_q   sigma((s_qj - s_qi) / T)    its rank among the positives
    AP_q    = mean over i in P_q of  R+(q,i) / R(q,i)
    loss    = mean over queries that have a positive of  (1 - AP_q)

As T falls to 0, R and R+ become the true ranks and AP_q the average precision. The objective is that of S2R2
(Varamesh, Diba, Tuytelaars, Van Gool, arXiv 2010.07258); the sigmoid in place of the step is Smooth-AP's (Brown et
al., ECCV 2020, arXiv 2007.12163, eq. 3 to 6), here with the query left out of its own ranking.

:func:`smooth_ap_definition` is the formula, term by term; everything else must agree with it. What trains is
:func:`smooth_average_precision_loss` and :class:`SmoothAPLoss`: the same number and gradient from
:mod:`s2r2.losses.backends`, where one pass over the batch yields both, gathered over processes as
:mod:`s2r2.losses.distributed` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2r2.errors import ArgumentError
from s2r2.losses.batch import check_arguments
from s2r2.losses.ranking import RankingLoss, ranking_loss
from s2r2.losses.refusals import check_above_zero, check_whole, eager, transformed
from s2r2.losses.surrogates import create_surrogate


def smooth_ap_definition(embeddings: Tensor, groups: Tensor, temperature: float = 0.05, *, chunk: int = 64) -> Tensor:
    """The formula above in plain autograd, for any floating type: slow, and what the fast ones are tested against.

    It has second derivatives, and works under ``torch.func`` and ``torch.compile(fullgraph=True)``, where memory is
    ``N * N * N`` and a batch without any pair gives NaN.

    Args:
        embeddings: ``(N, D)``, usually of unit length.
        groups: Which image each comes from, ``(N,)`` integers.
        temperature: T, in units of similarity.
        chunk: Queries at a time; memory is ``chunk * N * N``, computed again in the backward pass.

    Returns:
        Scalar loss in [0, 1).

    Raises:
        S2R2Error: Wrong shapes or types, no group occurs twice, or a setting is not above 0.
    """

    def sum_of_losses(z: Tensor, queries: Tensor) -> Tensor:
        s = z[queries] @ z.T  # (Q, N)
        itself = queries[:, None] == torch.arange(len(z), device=z.device)
        positive = (groups[queries, None] == groups) & ~itself
        candidate = ~itself[:, None, :] & ~torch.eye(len(z), dtype=torch.bool, device=z.device)  # j != q, j != i
        above = torch.sigmoid((s[:, None, :] - s[:, :, None]) / temperature) * candidate  # (Q, i, j)
        rank = 1 + above.sum(2)
        rank_among_positives = 1 + (above * positive[:, None, :]).sum(2)
        precision = rank_among_positives / rank
        average_precision = (precision * positive).sum(1) / positive.sum(1).clamp(min=1)
        return ((1 - average_precision) * has_positive[queries]).sum()

    # Neither torch.func nor a compiled graph knows checkpoints, nor a look at the data.
    plain = torch.compiler.is_compiling() or transformed()
    check_above_zero(temperature=temperature)
    check_whole(1, chunk=chunk)
    if not plain:
        check_arguments(embeddings, groups)
    groups = groups.to(embeddings.device)
    has_positive = (groups[:, None] == groups).sum(1) > 1
    if not plain and not bool(has_positive.any()):
        raise ArgumentError(f"no group occurs twice among {len(groups)} embeddings; give each image at least two views")
    queries = torch.arange(len(embeddings), device=embeddings.device).split(chunk)
    parts = [
        sum_of_losses(embeddings, part)
        if plain
        else checkpoint(sum_of_losses, embeddings, part, use_reentrant=False, preserve_rng_state=False)
        for part in queries
    ]
    return torch.stack(parts).sum() / has_positive.sum()


@eager
def smooth_average_precision_loss(
    embeddings: Tensor, groups: Tensor, temperature: float = 0.05, *, outer: str = "one-minus", **options: Any
) -> Tensor:
    """Loss of a batch, fast; functional form of :class:`SmoothAPLoss`, which describes the options."""
    surrogate = create_surrogate("smooth-ap", outer=outer)
    return ranking_loss(embeddings, groups, surrogate, temperature=temperature, **options)


class SmoothAPLoss(RankingLoss):
    """1 - smooth average precision: ``SmoothAPLoss(0.05)(embeddings, groups)``.

    Args:
        temperature: T above, in units of similarity; for cosines 0.01 to 0.1. An attribute: change it at any step.
        outer: ``"one-minus"``: 1 - AP. ``"log"``: minus the mean log precision at the positives.
        **options: ``include_self``, ``reduction``, ``backend``, ``distributed``, ``check_finite``, ``bank`` and
            ``no_pairs``, as in :class:`RankingLoss`. ``include_self=True`` is the convention of the original Smooth-AP.

    Example:
        >>> embeddings = torch.nn.functional.normalize(torch.randn(12, 16, requires_grad=True), dim=1)
        >>> groups = torch.arange(4).repeat_interleave(3)  # 4 images, 3 views of each
        >>> SmoothAPLoss(temperature=0.05)(embeddings, groups).backward()
    """

    def __init__(self, temperature: float = 0.05, *, outer: str = "one-minus", **options: Any) -> None:
        super().__init__("smooth-ap", temperature=temperature, outer=outer, **options)
