"""SwAV (Caron et al., arXiv 2006.09882), with defaults that leave ln K on small data too."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import ArgumentError
from s2r2.losses import SwAVLoss
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method, Position

MOST_PROTOTYPES = 3000
USUAL_EPSILON, SHARP_EPSILON, MANY_IMAGES = 0.05, 0.01, 1024


class SwAV(Method):
    """Codes from the two full-size views, predicted by all others.

    The gradient cache (``micro_batch``) applies: codes and predictions are taken from the whole step. A memory
    bank of negatives does not: there are no negatives; the queue makes codes only.

    Args:
        config: Settings of the run.
        images: Images in the data.
        prototypes: K; 0: as many as images make the codes (batch and queue), at most 3000.
        epsilon: Smoothness of the codes; lower is sharper. 0: the authors' 0.05 where 1,024 images or more make the
            codes, 0.01 where fewer do: with 0.05 the loss then stays at ln K.
        iterations: Of Sinkhorn.
        queue: Embeddings remembered for the codes of small batches; 0: none.
        queue_epoch: Epoch, from 0, from which on the queue is filled.
        freeze_epochs: Epochs, from the first, in which the prototypes do not move.
    """

    views: ClassVar[int] = 8
    recipe: ClassVar[str] = "swav-multicrop"
    temperature: ClassVar[float] = 0.1

    def __init__(
        self,
        config: TrainConfig,
        images: int,
        *,
        prototypes: int = 0,
        epsilon: float = 0.0,
        iterations: int = 3,
        queue: int = 0,
        queue_epoch: int = 15,
        freeze_epochs: int = 1,
    ) -> None:
        super().__init__(config, images)
        if min(queue_epoch, freeze_epochs) < 0:
            raise ArgumentError("`options`: queue_epoch and freeze_epochs must not be negative")
        coded = config.batch_size + queue
        self.loss = SwAVLoss(
            config.embedding_dimensions,
            prototypes or max(2, min(MOST_PROTOTYPES, coded)),
            temperature=config.temperature,
            epsilon=epsilon or (USUAL_EPSILON if coded >= MANY_IMAGES else SHARP_EPSILON),
            iterations=iterations,
            queue=queue,
            check_finite=False,
        )
        self.queue_epoch, self.freeze_epochs = queue_epoch, freeze_epochs
        self._frozen = False

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Cross-entropy between codes and predictions; ln K where prototypes say nothing about images."""
        loss: Tensor = self.loss(embeddings, groups)
        return loss

    def begin_step(self, position: Position) -> None:
        """Let the queue and the prototypes wait for their epochs; bring the prototypes to unit length."""
        with torch.no_grad():  # else they grow, and move less and less
            self.loss.prototypes.copy_(normalize(self.loss.prototypes, dim=1))
        self.loss.queue_active = position.epoch >= self.queue_epoch
        self._frozen = position.epoch < self.freeze_epochs

    def before_update(self) -> None:
        """Keep frozen prototypes where they are, weight decay included."""
        if self._frozen:
            self.loss.prototypes.grad = None

    @torch.no_grad()
    def statistics(self, embeddings: Tensor, groups: Tensor) -> dict[str, float | Tensor]:
        """Also ln K, the loss of prototypes that say nothing, and how many prototypes are in use (perplexity)."""
        scores = embeddings.float() @ normalize(self.loss.prototypes.float(), dim=1).T
        use = torch.softmax(scores / self.loss.temperature, dim=1).mean(0)
        return {
            **super().statistics(embeddings, groups),
            "log_prototypes": math.log(len(self.loss.prototypes)),
            "prototypes_used": torch.exp(torch.special.entr(use).sum()),
        }
