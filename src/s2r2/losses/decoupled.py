"""MV-DHEL: alignment and uniformity of many views, each in a term of its own (Koromilas et al., arXiv 2507.06979).

With view l of image i as ``u_il``, V views of each of B images:

    loss = mean over i of  - log  sum over l and m != l of e^(u_il . u_im / T)
                           + sum over l of  log  sum over j != i of e^(u_il . u_jl / T)

All pairs of views of an image are in one logarithm; each kind of view is spread among views of its own kind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2r2.errors import ArgumentError
from s2r2.losses.batch import check_arguments, gather_everybody
from s2r2.losses.distributed import Distributed
from s2r2.losses.ranking import full_precision
from s2r2.losses.refusals import check_above_zero, eager


class MVDHELLoss(nn.Module):
    """Multi-view decoupled hyperspherical energy: ``MVDHELLoss(0.2)(embeddings, groups)``.

    Args:
        temperature: T, above 0; an attribute that may change at any step.
        distributed: As in :class:`~s2r2.losses.RankingLoss`: exact over processes.
        check_finite: As in :class:`~s2r2.losses.RankingLoss`: False skips the look for NaN on an accelerator.

    Raises:
        S2R2Error: A temperature that is not above 0.
    """

    def __init__(
        self, temperature: float = 0.2, *, distributed: Distributed = "auto", check_finite: bool = True
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.distributed = distributed
        self.check_finite = check_finite
        check_above_zero(temperature=temperature)

    @eager
    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``(N, D)`` of unit length. The first of an image is its first view, and so on: the l-th of each
                image are views of one kind.
            groups: Which image each comes from, ``(N,)`` integers; each image has the same number of views.

        Returns:
            Scalar; every process returns that of the whole batch.

        Raises:
            S2R2Error: Wrong shapes or types, NaN or infinity, fewer than two images, images with one view or with
                different numbers of them.
        """
        check_above_zero(temperature=self.temperature)
        check_arguments(embeddings, groups)
        with full_precision(embeddings.device):
            batch = gather_everybody(embeddings, groups, self.distributed, check_finite=self.check_finite)
            views = by_view(*batch)
            return _energy(views, self.temperature)


def by_view(embeddings: Tensor, groups: Tensor) -> Tensor:
    """Embeddings ``(N, D)`` as ``(V, B, D)``: view by view, the images in rising order of their numbers.

    Raises:
        S2R2Error: Fewer than two images, images with one view or with different numbers of them.
    """
    _, counts = torch.unique(groups, return_counts=True)
    if len(counts) < 2 or int(counts.min()) < 2 or int(counts.min()) != int(counts.max()):
        found = " to ".join(map(str, sorted({int(counts.min()), int(counts.max())}))) if len(counts) else "none"
        raise ArgumentError(
            f"images in groups: {len(counts)}, views of each: {found}; give two or more images the same number of "
            "views, at least 2"
        )
    order = torch.argsort(groups, stable=True).to(embeddings.device)
    return embeddings[order].reshape(len(counts), -1, embeddings.shape[1]).transpose(0, 1)


def _energy(views: Tensor, temperature: float) -> Tensor:
    """The loss of views ``(V, B, D)``."""
    within = torch.einsum("lid,mid->ilm", views, views) / temperature
    among = views @ views.transpose(1, 2) / temperature
    itself = torch.eye(views.shape[0], dtype=torch.bool, device=views.device)
    same = torch.eye(views.shape[1], dtype=torch.bool, device=views.device)
    alignment = within.masked_fill(itself, -torch.inf).flatten(1).logsumexp(1)
    uniformity = among.masked_fill(same, -torch.inf).logsumexp(2).sum(0)
    return (uniformity - alignment).mean()
