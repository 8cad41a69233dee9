"""A method of one's own in one file: Barlow Twins (Zbontar et al., arXiv 2103.03230).

s2r2 train photos/ --method examples/barlow_twins.py --options redundancy=0.01
"""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from s2r2.training import Method, TrainConfig


class BarlowTwins(Method):
    """Each number of an embedding shall agree between two views of an image, and say what no other number says.

    Args:
        config: Settings of the run.
        images: Images in the data.
        redundancy: Weight of the second wish.
    """

    views: ClassVar[int] = 2

    def __init__(self, config: TrainConfig, images: int, *, redundancy: float = 0.005) -> None:
        super().__init__(config, images)
        self.redundancy = redundancy

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Distance of the cross-correlation of two views from the identity, averaged over neighboring views."""
        by_image = embeddings[groups.argsort(stable=True)].unflatten(0, (-1, self.config.views))  # (B, V, D)
        views = [(view - view.mean(0)) / (view.std(0) + 1e-6) for view in by_image.unbind(1)]
        losses = [self._distance(a, b) for a, b in pairwise(views)]
        return torch.stack(losses).mean()

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        correlation = a.T @ b / len(a)
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + self.redundancy * others
