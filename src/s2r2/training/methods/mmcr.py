"""MMCR (Yerxa et al., arXiv 2303.03307): the images' mean embeddings are long, and lie in all directions."""

from typing import ClassVar

from torch import Tensor

from s2r2.losses import SpreadLoss
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method


class MMCR(Method):
    """Spread alone, with any number of views.

    Args:
        config: Settings of the run.
        images: Images in the data.
    """

    recipe: ClassVar[str] = "swav-multicrop"

    def __init__(self, config: TrainConfig, images: int) -> None:
        super().__init__(config, images)
        self.spreading = SpreadLoss(check_finite=False)

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """1 minus the nuclear norm of the mean embeddings, as a share of the largest there can be."""
        loss: Tensor = self.spreading(embeddings, groups)
        return loss
