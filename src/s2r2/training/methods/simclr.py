"""SimCLR (Chen et al., arXiv 2002.05709), with two views or with any number (SupCon's and Poly-View's forms)."""

from typing import ClassVar

from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses import MemoryBank, NTXentLoss, SpreadLoss
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method, Position, own_image, refuse_bank_with_grades, scheduled_temperature


class SimCLR(Method):
    """Contrast of each view's positives with all other views of the step.

    With ``grades``, all photos of the coarsest one are positives, in no order (SupCon's use of labels).

    Args:
        config: Settings of the run.
        images: Images in the data.
        form: How several positives are combined: outside, inside, geometric, arithmetic, sufficient-statistics.
        temperature_end: Temperature at the end of the run, reached in a straight line; 0: it does not change.
        bank: Embeddings of recent steps as more negatives; 0: none.
        spread: Weight of the spread of the images' mean embeddings (MMCR's term); 0: none.
    """

    views: ClassVar[int] = 2
    takes_grades: ClassVar[bool] = True
    temperature: ClassVar[float] = 0.2

    def __init__(
        self,
        config: TrainConfig,
        images: int,
        *,
        form: str = "outside",
        temperature_end: float = 0.0,
        bank: int = 0,
        spread: float = 0.0,
    ) -> None:
        super().__init__(config, images)
        if min(temperature_end, spread) < 0:
            raise ArgumentError("`options`: temperature_end and spread must not be negative")
        refuse_bank_with_grades(config, bank)
        memory = MemoryBank(bank, config.embedding_dimensions) if bank else None
        self.contrast = NTXentLoss(config.temperature, form=form, bank=memory, check_finite=False)
        self.temperature_end = temperature_end
        self.spread, self.spreading = spread, SpreadLoss(check_finite=False) if spread else None

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """NT-Xent, averaged over views."""
        loss: Tensor = self.contrast(embeddings, groups[:, -1] if groups.ndim == 2 else groups)
        if self.spreading is not None:
            loss = loss + self.spread * self.spreading(embeddings, own_image(groups))
        return loss

    def begin_step(self, position: Position) -> None:
        """Set the temperature of the step."""
        self.contrast.temperature = scheduled_temperature(self.config, self.temperature_end, position)

    @property
    def current_temperature(self) -> float:
        """The temperature of this step."""
        return self.contrast.temperature
