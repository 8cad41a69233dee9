"""S2R2: rank all views of a step for each of them, and maximize average precision (Varamesh et al., 2010.07258)."""

import math
from typing import Any, ClassVar

from torch import Tensor, tensor

from s2r2.errors import ArgumentError
from s2r2.images.grades import read_grades
from s2r2.losses import (
    GRADED,
    GradedRankingLoss,
    MemoryBank,
    NTXentLoss,
    RankingLoss,
    SpreadLoss,
    ranking_statistics,
)
from s2r2.losses.neighbors import with_neighbors
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method, Position, own_image, refuse_bank_with_grades, scheduled_temperature

RECENT = 1024
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.01, 1.0


class S2R2(Method):
    """Ranking over all views of a step.

    Args:
        config: Settings of the run.
        images: Images in the data.
        surrogate: smooth-ap, sup-ap, recall-at-k, smooth-ndcg or quantised-ap, see s2r2/losses/surrogates.py.
        outer: Of smooth-ap: one-minus (1 - AP) or log (minus the mean log precision at the positives).
        temperature_end: Temperature at the end of the run, reached in a straight line; 0: it does not change.
        hold_slope: Mean slope of the sigmoid, 0 to 0.25, that the temperature is steered to keep; 0: it is not.
        bank: Embeddings of recent steps that every view is also ranked against; 0: none.
        contrastive: Weight of an NT-Xent term added to the ranking loss; 0: none.
        contrastive_temperature: Its temperature.
        spread: Weight of the spread of the images' mean embeddings (MMCR's term), which still teaches once lists
            are in order; 0: none.
        graded: With grades, h-ap (hierarchical average precision) or ndcg.
        grade_weight: With grades, the weight of each, relative to the one before it (a photo's own views: 1).
        neighbors: Weight of a second grade, relative to a photo's own views (1): its mutual nearest neighbor among
            recent photos is to come before the rest; 0: there is none.
        recent: With neighbors, the number of recent photos among which they are found, at most a quarter of all.
    """

    recipe: ClassVar[str] = "swav-multicrop"
    temperature: ClassVar[float] = 0.05
    takes_grades: ClassVar[bool] = True

    slope_temperature: Tensor

    def __init__(
        self,
        config: TrainConfig,
        images: int,
        *,
        surrogate: str = "smooth-ap",
        outer: str = "one-minus",
        temperature_end: float = 0.0,
        hold_slope: float = 0.0,
        bank: int = 0,
        contrastive: float = 0.0,
        contrastive_temperature: float = 0.2,
        spread: float = 0.0,
        graded: str = "h-ap",
        grade_weight: float = 0.5,
        neighbors: float = 0.0,
        recent: int = RECENT,
    ) -> None:
        super().__init__(config, images)
        if outer != "one-minus" and surrogate != "smooth-ap":
            raise ArgumentError(f"`options`: outer={outer} belongs to surrogate=smooth-ap, not to {surrogate}")
        if temperature_end and hold_slope:
            raise ArgumentError("`options`: temperature_end and hold_slope both set the temperature: give one of them")
        if not 0 <= hold_slope < 0.25 or min(temperature_end, contrastive, spread) < 0:
            raise ArgumentError(
                "`options`: hold_slope must be in [0, 0.25), and temperature_end, contrastive and spread must not be "
                "negative"
            )
        if config.grades:
            refuse_bank_with_grades(config, bank)
            if (surrogate, outer) != ("smooth-ap", "one-minus"):
                raise ArgumentError(
                    "`options`: surrogate and outer are of ranking without `grades`: give graded instead"
                )
        elif (graded, grade_weight) != ("h-ap", 0.5):
            raise ArgumentError("`options`: graded and grade_weight need `grades`, such as time:30s")
        if graded not in GRADED or not grade_weight > 0:
            raise ArgumentError(f"`options`: graded must be {' or '.join(GRADED)}, and grade_weight above 0")
        if neighbors and (config.grades or bank or (surrogate, outer) != ("smooth-ap", "one-minus")):
            raise ArgumentError(
                "`options`: neighbors are ranked in grades of their own: leave out grades, bank, surrogate and outer"
            )
        if neighbors < 0 or recent < 1 or (recent != RECENT and not neighbors):
            raise ArgumentError("`options`: neighbors must not be negative, and recent, at least 1, needs neighbors")
        self.recent = MemoryBank(max(1, min(recent, images // 4)), config.embedding_dimensions) if neighbors else None
        self.neighbor_share = 0.0
        memory = MemoryBank(bank, config.embedding_dimensions) if bank else None
        choice: dict[str, Any] = {"outer": outer} if surrogate == "smooth-ap" else {}
        # The loop looks for NaN every few steps; a look in every step would make the host wait for the GPU.
        common: dict[str, Any] = {"temperature": config.temperature, "check_finite": False}
        weights = [grade_weight**level for level in range(1 + len(read_grades(config.grades)))]
        weights = [1.0, neighbors] if neighbors else weights
        self.ranking = (
            GradedRankingLoss(graded, weights=weights, **common)
            if config.grades or neighbors
            else RankingLoss(surrogate, bank=memory, **common, **choice)
        )
        self.temperature_end, self.hold_slope, self.contrastive = temperature_end, hold_slope, contrastive
        self.contrast = NTXentLoss(contrastive_temperature, check_finite=False) if contrastive else None
        self.spread, self.spreading = spread, SpreadLoss(check_finite=False) if spread else None
        if hold_slope:  # steered, so part of the state
            self.register_buffer("slope_temperature", tensor(config.temperature))

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """1 - AP, or the surrogate chosen, or 1 - H-AP with grades, averaged over views."""
        loss = self._ranked(embeddings, groups)
        groups = own_image(groups)
        if self.hold_slope:
            self._steer(embeddings.detach(), groups.to(embeddings.device))
        if self.contrast is not None:
            loss = loss + self.contrastive * self.contrast(embeddings, groups)
        if self.spreading is not None:
            loss = loss + self.spread * self.spreading(embeddings, groups)
        return loss

    def begin_step(self, position: Position) -> None:
        """Set the temperature of the step."""
        self.ranking.temperature = (
            float(self.slope_temperature)
            if self.hold_slope
            else scheduled_temperature(self.config, self.temperature_end, position)
        )

    def statistics(self, embeddings: Tensor, groups: Tensor) -> dict[str, float | Tensor]:
        """Mean positive cosine, slope of the sigmoid, temperature; share of photos that had a neighbor."""
        near = {} if self.recent is None else {"neighbor_share": self.neighbor_share}
        return {**super().statistics(embeddings, groups), "temperature": self.current_temperature, **near}

    @property
    def current_temperature(self) -> float:
        """The temperature of this step."""
        return self.ranking.temperature

    def _ranked(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """The loss of ranking alone."""
        queries = None
        if self.recent is not None:
            embeddings, groups, queries, self.neighbor_share = with_neighbors(embeddings, groups, self.recent)
        loss: Tensor = self.ranking(embeddings, groups, query_mask=queries)
        return loss

    def _steer(self, embeddings: Tensor, groups: Tensor) -> None:
        """Raise the temperature a little where the sigmoid is flatter than wanted, lower it where it is steeper."""
        slope = float(ranking_statistics(embeddings, groups, self.current_temperature)["sigmoid_slope"])
        factor = math.exp(0.05 * max(-1.0, min(1.0, 1 - slope / self.hold_slope)))
        self.slope_temperature.mul_(factor).clamp_(SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE)
