"""What every method is: a module from embeddings to a loss, with defaults and a few moments to act in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.losses import ranking_statistics
from s2r2.training.config import TrainConfig


@dataclass(frozen=True)
class Position:
    """Where a run stands: the step about to be taken (from 0), the steps of the whole run, the epoch (from 0)."""

    step: int
    steps: int
    epoch: int


class Method(nn.Module, ABC):
    """Base of all methods. A method of one's own overrides :meth:`forward` and, where it needs them, the rest.

    Options of the method are keyword arguments of its constructor, with their defaults; ``options={"name": value}``
    reaches them. Its parameters are trained with the encoder's, its state is part of the checkpoint.

    Args:
        config: The settings of the run, all of them resolved (nothing is 0 or auto any more).
        images: Number of images in the training data.

    Attributes:
        views: Default of ``views``.
        recipe: Default of ``recipe``.
        temperature: Default of ``temperature``.
        learning_rates: Default of ``lr`` for each optimizer, for 512 views in a step.
        takes_grades: Whether it knows what to do with groups that have columns (``grades``); others are refused.
    """

    views: ClassVar[int] = 8
    recipe: ClassVar[str] = "photos"
    temperature: ClassVar[float] = 0.1
    takes_grades: ClassVar[bool] = False
    learning_rates: ClassVar[dict[str, float]] = {"adamw": 2e-3, "sgd": 0.1, "lars": 0.6}

    def __init__(self, config: TrainConfig, images: int) -> None:
        super().__init__()
        self.config = config
        self.images = images

    @abstractmethod
    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """The loss of a step, a scalar.

        Args:
            embeddings: ``(N, D)`` of unit length; image by image, and in multi-crop all full-size views first.
            groups: ``(N,)``, on the CPU: which image of the step each comes from. With ``grades`` ``(N, 1 + L)``: after
                it the image's group at each grade, the finest first.
        """

    def begin_step(self, position: Position) -> None:
        """Called before the views of a step are embedded: schedules."""

    def before_update(self) -> None:
        """Called between backward and the optimizer: gradients may be changed."""

    def statistics(self, embeddings: Tensor, groups: Tensor) -> dict[str, float | Tensor]:
        """Figures of the step for ``metrics.jsonl``; arguments as in :meth:`forward`, detached, on one device."""
        return {**ranking_statistics(embeddings, own_image(groups), self.current_temperature)}

    @property
    def current_temperature(self) -> float:
        """The temperature in force, which a schedule may have changed."""
        return self.config.temperature


def own_image(groups: Tensor) -> Tensor:
    """Which image each view comes from ``(N,)``, whether groups have columns or not."""
    return groups[:, 0] if groups.ndim == 2 else groups


def loss_of(method: Method, embeddings: Tensor, groups: Tensor) -> Tensor:
    """The loss of a step, as a method should return it.

    Raises:
        S2R2Error: It returns something else: one number, computed from the embeddings, is wanted.
    """
    loss = method(embeddings, groups)
    if not isinstance(loss, Tensor):
        wrong = f"a {type(loss).__name__}"
    elif loss.numel() != 1:
        wrong = f"a tensor of shape {tuple(loss.shape)}"
    elif not loss.is_floating_point():
        wrong = f"a tensor of {loss.dtype}"
    elif not loss.requires_grad:
        wrong = "a loss that does not follow from the embeddings (detached, or computed without torch)"
    else:
        return loss.reshape(())
    raise S2R2Error(
        f"method {method.config.method}: {type(method).__name__}.forward returned {wrong}; return the loss of the "
        "step instead: a tensor with one number, computed from the embeddings by torch"
    )


def statistics_of(method: Method, embeddings: Tensor, groups: Tensor) -> dict[str, float | Tensor]:
    """The figures of a step, as a method should return them.

    Raises:
        S2R2Error: It returns something else than numbers by name.
    """
    figures = method.statistics(embeddings, groups)
    single = isinstance(figures, dict) and all(
        isinstance(name, str) and (value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, (int, float)))
        for name, value in figures.items()
    )
    if not single:
        raise S2R2Error(
            f"method {method.config.method}: {type(method).__name__}.statistics did not return single numbers by "
            "name; return a dict of numbers, or of tensors with one number each"
        )
    return figures


def refuse_bank_with_grades(config: TrainConfig, bank: int) -> None:
    """Raise an S2R2Error where a bank would have photos of a view's own burst among the negatives."""
    if bank and config.grades:
        raise ArgumentError("`options`: bank does not know the `grades` of what it stores: leave one of them out")


def scheduled_temperature(config: TrainConfig, end: float, position: Position) -> float:
    """From ``config.temperature`` to ``end`` in a straight line over the run; constant where ``end`` is 0."""
    if not end:
        return config.temperature
    return config.temperature + (end - config.temperature) * position.step / max(1, position.steps - 1)
