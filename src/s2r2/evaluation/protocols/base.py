"""What a protocol is: a way to turn an embedding space into figures. One file, one class, and it registers itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np

from s2r2.encoder import Encoder
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task
from s2r2.images import PixelStore


class Need(Enum):
    """What a protocol asks of the images; the value says what to give."""

    LABELS = "labels of test images: give a labeled `test`"
    TRAINING_LABELS = "labels of training images: give a labeled `train`"
    SINGLE_LABELS = "images with one label each; these have several: use svm"
    GRADES = "photos that belong together: give `grades`, such as time:30s"
    FOLDS = "training images with predefined folds, as stl10:train has them"

    def is_met(self, task: Task) -> bool:
        """Whether the images of a task have it."""
        return {
            Need.LABELS: task.labeled,
            Need.TRAINING_LABELS: task.has_train_labels,
            Need.SINGLE_LABELS: not task.several,
            Need.GRADES: task.groups is not None,
            Need.FOLDS: len(task.folds) > 0,
        }[self]


class Basis(Enum):
    """What a figure rests on: where that means nothing, neither does the figure."""

    RANKING = "ranking"
    TRAINING_LABELS = "training labels"
    VIEWS = "views"


@dataclass(frozen=True)
class Caution:
    """Something to know about figures.

    Attributes:
        text: A sentence.
        figures: Names of figures that mean nothing and are not given.
        bases: The same for all figures that rest on these.
    """

    text: str
    figures: tuple[str, ...] = ()
    bases: tuple[Basis, ...] = ()


@dataclass(frozen=True)
class Space:
    """An embedding space: vectors of the images, and where they come from.

    Attributes:
        train: ``(M, D)`` vectors of the training images, if there are any.
        test: ``(N, D)`` of the test images.
        train_images: The images themselves.
        test_images: The images themselves.
        encoder: What made the vectors of its backbone; None for pixels, functions and projection heads.
        is_pixels: Whether the vectors are the pixels themselves.
        views: Vectors of held-out random views of test images, and the number of the image of each.
        device: Where to compute.
    """

    train: np.ndarray | None
    test: np.ndarray
    train_images: PixelStore | None = None
    test_images: PixelStore | None = None
    encoder: Encoder | None = None
    is_pixels: bool = False
    views: tuple[np.ndarray, np.ndarray] | None = None
    device: str = "cpu"

    def training(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """``(M, D)`` vectors and the labels of the training images that have some."""
        assert task.train is not None
        assert self.train is not None
        return self.train[task.train_labeled], task.train[task.train_labeled]

    def testing(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """``(N, D)`` vectors and the labels of the test images that have some."""
        return self.test[task.test_labeled], task.test[task.test_labeled]


class Protocol(ABC):
    """One way to judge an embedding space.

    A subclass states what it is and what it needs, names its figures and makes them. With
    :func:`register_protocol` above it, ``s2r2 evaluate`` and studies know it.

    Attributes:
        name: By which it is asked for.
        summary: What it does, in a few words.
        needs: What images must have for it.
        usual: Whether it is run without being asked for, where images have what it needs.
        basis: What its figures rest on.
        place: Where its figures stand among those of the others, ascending.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = (Need.LABELS, Need.TRAINING_LABELS)
    usual: ClassVar[bool] = False
    basis: ClassVar[Basis] = Basis.TRAINING_LABELS
    place: ClassVar[int] = 100

    @abstractmethod
    def columns(self, task: Task) -> dict[str, Column]:
        """Its figures by name, in order, with title and explanation."""

    @abstractmethod
    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """The figures of a space by name, or some of them."""

    def applies_to(self, space: Space) -> bool:
        """Whether it is run on a space at all."""
        return True

    def cautions(self, task: Task) -> Iterable[Caution]:
        """What keeps its figures on these images from meaning what they seem to."""
        return ()

    def compared(self, task: Task) -> dict[str, str]:
        """The figures by which studies compare encoders: a name that is the same for all images, and the figure's."""
        return {name: name for name in self.columns(task)}
