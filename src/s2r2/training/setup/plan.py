"""What a run is going to do, and with what."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2r2.images import DirectImages, PixelStore
from s2r2.images.grades import PhotoGroups
from s2r2.training.config import TrainConfig
from s2r2.training.optimizer import warmup_steps
from s2r2.views import Recipe, view_sizes
from s2r2.views.orders import Shuffle


@dataclass
class Plan:
    """What the first process decides, and tells the others.

    Attributes:
        folder: The run folder.
        config: Settings, all of them resolved.
        recipe: Distribution of the views.
        data: What the photos are, for ``config.yaml``.
        resumed: The saved state at a resume, else None.
        direct: Whether photos are decoded when a step needs them, without a pixel store.
        grades: The groups of the photos, if the run has ``grades``.
        shuffle: How the order of an epoch is made, the same from a run's first step to its last.
    """

    folder: Path
    config: TrainConfig
    recipe: Recipe
    data: str
    resumed: dict[str, Any] | None
    direct: bool
    grades: PhotoGroups | None
    shuffle: Shuffle


@dataclass
class Preparation(Plan):
    """A plan with what each process has of its own: the photos, decoded or not, and a device."""

    store: PixelStore | DirectImages
    device: torch.device

    @property
    def plan(self) -> Plan:
        """What the other processes need to know."""
        return Plan(
            self.folder, self.config, self.recipe, self.data, self.resumed, self.direct, self.grades, self.shuffle
        )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the images left over change from epoch to epoch."""
        return len(self.store) // self.config.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run; of one with ``minutes`` an estimate."""
        return (not self.config.minutes and self.config.steps) or self.steps_per_epoch * self.config.epochs

    @property
    def steps_done(self) -> int:
        """Steps taken before a resume."""
        return int(self.resumed["step"]) if self.resumed is not None else 0

    @property
    def seconds_done(self) -> float:
        """Time trained before a resume."""
        return float(self.resumed["seconds"]) if self.resumed is not None else 0.0

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        return warmup_steps(self.config, self.steps_per_epoch, self.steps)

    @property
    def pixels_per_step(self) -> int:
        """Pixels that the encoder sees in a step: what views of all sizes cost."""
        sizes = view_sizes(self.recipe, self.config.image_size, self.config.views)
        return self.config.batch_size * sum(size**2 for size in sizes)
