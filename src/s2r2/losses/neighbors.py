"""Mutual nearest neighbors among recent images, as a second grade of relevance.

An image that was seen a few steps ago and is close to one of this step is probably of the same kind. It joins the step
as one more candidate: each view is to rank the other views of its image first, then this neighbor, then the rest, which
average precision in two levels can say (:class:`~s2r2.losses.GradedRankingLoss`). Neighbors are mutual, the image the
nearest of the neighbor as well, so that one stray image is not everybody's. Recent images are kept as in XBM (arXiv
1912.06798), as they were when they were seen; all but the neighbors stay out of the ranking.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.losses.batch import gather_everybody
from s2r2.losses.distributed import Distributed, process_rank
from s2r2.losses.memory_bank import MemoryBank
from s2r2.losses.ranking import full_precision
from s2r2.losses.spread import group_means


class WithNeighbors(NamedTuple):
    """A step to be ranked in two levels.

    Attributes:
        embeddings: This process's views, then, in the first process, the neighbors, ``(N + n, D)``.
        groups: Which image each is, and which image of the step it is near to, ``(N + n, 2)``, on the CPU.
        queries: Which of them are queries, ``(N + n,)`` bool, on the CPU: the views.
        share: Share of the step's images, in all processes, that have a neighbor, 0 to 1.
    """

    embeddings: Tensor
    groups: Tensor
    queries: Tensor
    share: float


def with_neighbors(
    embeddings: Tensor, groups: Tensor, recent: MemoryBank, *, distributed: Distributed = "auto"
) -> WithNeighbors:
    """Add the mutual nearest neighbors among recent images; then, where gradients are enabled, remember these images.

    Args:
        embeddings: ``(N, D)`` of unit length.
        groups: Which image of the step each comes from, ``(N,)`` integers.
        recent: Mean embeddings of recent images, of unit length; in every process the same.
        distributed: As in :class:`~s2r2.losses.RankingLoss`.
    """
    everybody, all_groups = gather_everybody(embeddings.detach(), groups, distributed, check_finite=False)
    with full_precision(embeddings.device):  # bfloat16 would make ties of what is near
        means = normalize(group_means(everybody, all_groups), dim=1)
        remembered, _ = recent.contents(like=means)
        images, places = mutual_nearest(means, remembered)
    neighbors = remembered[places].to(embeddings)  # before they are overwritten
    if torch.is_grad_enabled():
        recent.add(means, torch.zeros(len(means), dtype=torch.int64, device="cpu"))
    numbers = torch.unique(all_groups)
    near = numbers[images.cpu()]
    groups = groups.detach().to("cpu", torch.int64)
    levels = groups[:, None].expand(-1, 2)
    if process_rank(distributed) == 0:
        names = torch.arange(len(near), device="cpu") + int(numbers.max()) + 1
        embeddings = torch.cat([embeddings, neighbors])
        levels = torch.cat([levels, torch.stack([names, near], dim=1)])
    queries = torch.arange(len(levels), device="cpu") < len(groups)
    return WithNeighbors(embeddings, levels, queries, len(near) / len(numbers))


def mutual_nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs ``(i, j)`` where ``others[j]`` is nearest to ``rows[i]`` and ``rows[i]`` to ``others[j]``, by dot product.

    Args:
        rows: ``(B, D)``.
        others: ``(K, D)``, of which there may be none.
    """
    if not len(others) or not len(rows):
        nobody = torch.zeros(0, dtype=torch.int64, device=rows.device)
        return nobody, nobody
    similarities = rows @ others.T
    nearest, back = similarities.argmax(1), similarities.argmax(0)
    here = torch.arange(len(rows), device=rows.device)
    mutual = back[nearest] == here
    return here[mutual], nearest[mutual]
