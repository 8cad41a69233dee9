"""Spread: images that agree with themselves, and point in directions of their own (MMCR, arXiv 2303.03307).

    c_i = mean over the views of image i of z_v,    C (B, D) of rows c_i,    s_k its singular values
    loss = 1 - sum over k of s_k / sqrt(B min(B, D))                         (eq. 4, brought to [0, 1])

The sum of singular values, the nuclear norm, is large where the views of an image agree, so that the means are long,
and where the means lie in all directions alike. Unlike average precision it still teaches once every list is in
order. Alone it is MMCR (Yerxa, Kuang, Simoncelli and Chung, *Efficient Coding of Natural Images using Maximum Manifold
Capacity Representations*).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2r2.losses.batch import check_arguments, gather_everybody
from s2r2.losses.distributed import Distributed
from s2r2.losses.ranking import full_precision
from s2r2.losses.refusals import eager, once


class SpreadLoss(nn.Module):
    """Spread of the images' mean embeddings: ``SpreadLoss()(embeddings, groups)``, in [0, 1] for unit vectors.

    0: all views of an image are one vector, and those vectors fill all min(B, D) directions alike. Images with one
    view take part.

    Args:
        distributed: As in :class:`~s2r2.losses.RankingLoss`: exact over processes.
        check_finite: As in :class:`~s2r2.losses.RankingLoss`: False skips the look for NaN on an accelerator.
    """

    def __init__(self, *, distributed: Distributed = "auto", check_finite: bool = True) -> None:
        super().__init__()
        self.distributed = distributed
        self.check_finite = check_finite

    @eager
    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``(N, D)`` of unit length.
            groups: Which image each comes from, ``(N,)`` integers.

        Returns:
            Scalar, float32 or wider; every process returns that of the whole batch.

        Raises:
            S2R2Error: Wrong shapes or types, NaN or infinity.
        """
        check_arguments(embeddings, groups)
        with full_precision(embeddings.device):
            batch = gather_everybody(embeddings, groups, self.distributed, check_finite=self.check_finite)
            means = group_means(*batch)
            most = (len(means) * min(means.shape)) ** 0.5
            norm: Tensor = _NuclearNorm.apply(means)
            return 1 - norm / max(1.0, most)


def group_means(embeddings: Tensor, groups: Tensor) -> Tensor:
    """Mean embedding of each group, ``(B, D)``, in rising order of the groups' numbers.

    Args:
        embeddings: ``(N, D)``.
        groups: ``(N,)`` integers, on any device.
    """
    found, places = torch.unique(groups, return_inverse=True)
    counts = torch.bincount(places, minlength=len(found)).to(embeddings)
    sums = embeddings.new_zeros((len(found), embeddings.shape[1]))
    return sums.index_add(0, places.to(embeddings.device), embeddings) / counts[:, None]


class _NuclearNorm(torch.autograd.Function):
    """Sum of singular values, with the smallest subgradient: directions in which a matrix is zero get none.

    From the Gram matrix of the shorter side in float64: no small difference of singular values is ever divided by, and
    what rounding makes of a zero cannot turn into a direction.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        wide = matrix.double()
        wide = wide.T if len(wide) < wide.shape[1] else wide
        squares, directions = torch.linalg.eigh(wide.T @ wide)
        values = squares.clamp_min(0).sqrt()
        # An eigenvalue is right to about eps times the largest one, a singular value to the root of that.
        floor = values.amax() * (len(values) * torch.finfo(torch.float64).eps) ** 0.5 if len(values) else 0.0
        inverse = torch.where(values > floor, 1 / values, 0.0)
        polar = wide @ (directions * inverse) @ directions.T
        ctx.save_for_backward((polar.T if len(matrix) < matrix.shape[1] else polar).to(matrix.dtype))
        return values.sum().to(matrix.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor]:
        (polar,) = ctx.saved_tensors
        return (gradient * polar,)
