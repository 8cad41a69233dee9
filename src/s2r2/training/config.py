"""What a training run is asked to do, as plain data: command line, ``config.yaml`` and Python share it."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from s2r2.runs import RunFolder
from s2r2.settings.renamed import RENAMED, with_current_names
from s2r2.settings.values import Mistakes, Where, fitted, plain, show, unknown_key
from s2r2.training.settings import (
    DataSettings,
    DeviceSettings,
    MethodSettings,
    OptimizationSettings,
    OutputSettings,
    ViewSettings,
)

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def _between(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


MOST_SIDE, MOST_VIEWS, MOST_IMAGES, MOST_WIDTH, MOST_STEPS = 4096, 1024, 1 << 20, 1 << 16, 1 << 40
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "views": (
        lambda v: v == 0 or 2 <= v <= MOST_VIEWS,
        f"a view needs another view of its image to find; use 2 or more, {MOST_VIEWS} at most",
    ),
    "batch_size": (_between(2, MOST_IMAGES), f"ranking needs at least 2 images in a step, {MOST_IMAGES:,} at most"),
    "image_size": (_between(8, MOST_SIDE), f"use at least 8 pixels, {MOST_SIDE} at most"),
    "epochs": (_between(1, MOST_STEPS), "use at least 1"),
    "steps": (_between(0, MOST_STEPS), "must not be negative (0: epochs decides)"),
    "minutes": (_between(0, 1e6), "must not be negative, a million at most (0: epochs or steps decide)"),
    "micro_batch": (
        lambda v: v == "auto" or 0 <= v <= MOST_IMAGES * MOST_VIEWS,
        "must be auto or not negative (0: the whole step)",
    ),
    "temperature": (_between(0, 1e6), "must be above 0 (0: the method's)"),
    "lr": (_between(0, 1e6), "must not be negative (0 chooses it)"),
    "weight_decay": (lambda v: v is None or 0 <= v <= 1e6, "must not be negative"),
    "warmup_epochs": (_between(0, MOST_STEPS), "must not be negative"),
    "head_hidden": (_between(1, MOST_WIDTH), f"use at least 1, {MOST_WIDTH:,} at most"),
    "embedding_dimensions": (_between(2, MOST_WIDTH), f"use at least 2, {MOST_WIDTH:,} at most"),
    "seed": (_between(0, (1 << 63) - 1), "must be at least 0 and below 2^63"),
    "threads": (_between(0, 4096), "must not be negative, 4,096 at most (0: one for each core)"),
    "check_every": (_between(0, MOST_STEPS), "must not be negative (0: ten checks)"),
    "checkpoint_minutes": (lambda v: 0 < v <= 1e6, "must be above 0"),
    "retry_at": (lambda v: 0 <= v < 1, "must be at least 0 (0: stop) and below 1"),
    "timeout_minutes": (lambda v: 0 < v <= 1e6, "must be above 0, a million at most"),
    "precision": (lambda v: v in PRECISIONS, f"use {', '.join(PRECISIONS)}"),
}
"""What values of a setting can be, and what to say of others; how large keeps a stranger's file from filling memory."""


@dataclass(frozen=True)
class TrainConfig(OutputSettings, DeviceSettings, OptimizationSettings, DataSettings, ViewSettings, MethodSettings):
    """Settings of a training run.

    What is 0 or empty by default is chosen by the method, see :func:`s2r2.training.methods.resolve`.

    Attributes:
        given: Names of the settings that the config was made with; the others have their defaults.
    """

    given: ClassVar[frozenset[str]] = frozenset()
    optimiser: dataclasses.InitVar[Any] = None
    """The former name of ``optimizer``; it works in this version for the last time."""

    def __post_init__(self, optimiser: Any) -> None:
        if optimiser is not None:
            warnings.warn("TrainConfig: optimiser is now called optimizer", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "optimizer", optimiser)

    def __new__(cls, *args: Any, **settings: Any) -> "TrainConfig":
        """Remember which settings were given: at a resume these are asked for, and no others."""
        made = super().__new__(cls)
        names = (field.name for field in dataclasses.fields(cls))
        given = (*(name for name, _ in zip(names, args, strict=False)), *settings)
        object.__setattr__(made, "given", frozenset(RENAMED.get(name, name) for name in given))
        return made

    def only(self, given: Iterable[str]) -> "TrainConfig":
        """The same settings, of which these names were given; the others must have their defaults."""
        return TrainConfig(**{name: getattr(self, name) for name in given})

    def with_given(self, given: Iterable[str]) -> "TrainConfig":
        """The same settings, of which these names count as given."""
        made = dataclasses.replace(self)
        object.__setattr__(made, "given", frozenset(given))
        return made

    def checked(self, mistakes: Mistakes | None = None, where: Where = ()) -> "TrainConfig":
        """The config with plain Python numbers, or every setting of the wrong type and out of range.

        Args:
            mistakes: Where to note them, of a file; by default they are raised.
            where: Place of the config in the file.

        Raises:
            S2R2Error: All of them, unless ``mistakes`` is given.
        """
        found = mistakes or Mistakes(arguments=True)
        hints = get_type_hints(TrainConfig, include_extras=True)
        values = {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        for name, value in values.items():
            before, place = len(found.found), (*where, name)
            values[name] = fitted(value, hints[name], found, place)
            if len(found.found) == before and name in _RULES and not _RULES[name][0](values[name]):
                found.add(place, f"{show(value)}: {_RULES[name][1]}")
        if mistakes is None:
            found.refuse()
        return TrainConfig(**values).with_given(self.given)

    @property
    def epochs_between_checks(self) -> int:
        """Epochs from one online check to the next."""
        return self.check_every or max(1, self.epochs // 10)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Any, mistakes: Mistakes | None = None, where: Where = ()) -> "TrainConfig":
        """The config that :meth:`to_dict` described; none of its settings counts as given.

        Args:
            values: The settings, by name.
            mistakes: Where to note what is wrong, of a file; by default it is raised.
            where: Place of the settings in the file.

        Raises:
            S2R2Error: A key is not a setting of this version, or a value of the wrong type or out of range.
        """
        found = mistakes or Mistakes("config")
        known = [field.name for field in dataclasses.fields(cls)]
        settings = with_current_names(values) if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            found.add(where, f"{show(values)}: must be settings, NAME: VALUE")
        for name in [name for name in settings if name not in known]:
            found.add((*where, name), unknown_key(str(name), known))
        config = cls(**{name: value for name, value in settings.items() if name in known}).checked(found, where)
        if mistakes is None:
            found.refuse()
        return config.with_given(())


def read_config(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings of a run, and what it found and used; they may have been edited, or come from strangers.

    Raises:
        S2R2Error: There is no ``config.yaml`` in the folder, or settings in it that cannot be: all of them, with lines.
    """
    found = RunFolder(folder).read_config()
    config = TrainConfig.from_dict(found.settings, found.mistakes, ("config",))
    found.mistakes.refuse()
    return config, found.about
