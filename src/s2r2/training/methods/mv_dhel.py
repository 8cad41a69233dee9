"""MV-DHEL (Koromilas et al., arXiv 2507.06979): alignment of all views at once, uniformity view by view."""

from typing import ClassVar

from torch import Tensor

from s2r2.losses import MVDHELLoss
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method


class MVDHEL(Method):
    """Decoupled hyperspherical energy of many views.

    Args:
        config: Settings of the run.
        images: Images in the data.
    """

    recipe: ClassVar[str] = "swav-multicrop"
    temperature: ClassVar[float] = 0.2

    def __init__(self, config: TrainConfig, images: int) -> None:
        super().__init__(config, images)
        self.energy = MVDHELLoss(config.temperature, check_finite=False)

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """The energy of views among their kind, less the agreement of an image's views."""
        loss: Tensor = self.energy(embeddings, groups)
        return loss
