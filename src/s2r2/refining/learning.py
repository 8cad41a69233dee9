"""Learning a head: a residual linear map of the stored vectors that ranks photos as people said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2r2.losses import SmoothAPLoss


@dataclass(frozen=True)
class Judged:
    """Photos that were judged together: those of one group are right for each other, all others are wrong.

    Attributes:
        rows: Rows of the photos in the index, ``(n,)``.
        groups: Group of each, ``(n,)``; a photo that is only wrong for others has a group of its own.
    """

    rows: np.ndarray
    groups: np.ndarray

    @property
    def queries(self) -> np.ndarray:
        """Which of the photos have another one in their group, ``(n,)`` bool."""
        _, inverse, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        return np.asarray(counts[inverse] > 1)


@dataclass(frozen=True)
class Recipe:
    """How a head is learned; ``benchmarks/refine.py`` has the figures behind the defaults.

    Attributes:
        steps: Of Adam.
        learning_rate: Its rate, which falls to 0 as a half cosine.
        stay: Weight of the mean squared distance by which the head moves the photos of the index: what nobody judged
            stays where it was.
        temperature: Of smooth average precision.
        directions: Principal directions of the index in which the head may act.
    """

    steps: int = 50
    learning_rate: float = 0.003
    stay: float = 1.0
    temperature: float = 0.05
    directions: int = 256


@dataclass(frozen=True)
class Spread:
    """How the vectors of an index differ.

    Attributes:
        axes: V, the principal directions, ``(D, r)``.
        energy: Mean square of the vectors along each of them, ``(r,)``.
    """

    axes: np.ndarray
    energy: np.ndarray


def spread_of(vectors: np.ndarray, most: int, *, photos: int = 8192) -> Spread:
    """The directions in which vectors ``(N, D)`` differ most; of more photos, some are taken evenly."""
    chosen = np.unique(np.linspace(0, len(vectors) - 1, num=min(photos, len(vectors)), dtype=np.int64))
    sample = np.asarray(vectors[chosen], np.float64)
    energy, axes = np.linalg.eigh(sample.T @ sample / len(sample))
    most = min(most, len(chosen), len(energy))
    return Spread(
        np.ascontiguousarray(axes[:, ::-1][:, :most], np.float32), np.maximum(energy[::-1][:most], 0).astype(np.float32)
    )


def learn_head(vectors: np.ndarray, judged: Sequence[Judged], spread: Spread, recipe: Recipe) -> np.ndarray:
    """Learn a matrix that, applied to vectors, ranks right photos before wrong ones.

    It is ``1 + V B V'`` with the principal directions V and B beginning at 0, so learning begins from the vectors as
    they are. The loss is 1 - smooth average precision over all queries, plus ``stay`` times the mean squared distance
    by which the matrix moves the vectors of the whole index.

    Args:
        vectors: ``(N, D)`` of the index, rows of length 1.
        judged: What was said of its photos.
        spread: Of the vectors.
        recipe: How.

    Returns:
        The matrix ``(D, D)`` float32.
    """
    rows = np.unique(np.concatenate([part.rows for part in judged]))
    used = torch.from_numpy(np.asarray(vectors[rows], np.float32))
    axes, energy = torch.from_numpy(spread.axes), torch.from_numpy(spread.energy)
    inside = used @ axes
    lists = [
        (torch.from_numpy(np.searchsorted(rows, part.rows)), torch.from_numpy(part.groups), int(part.queries.sum()))
        for part in judged
        if part.queries.any()
    ]
    total = sum(count for *_, count in lists)
    loss_of = SmoothAPLoss(recipe.temperature)
    change = torch.zeros(len(energy), len(energy), requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, recipe.steps))
    for _ in range(recipe.steps):
        moved = F.normalize(used + (inside @ change.T) @ axes.T, dim=1)
        loss: Tensor = recipe.stay * (change.square() * energy).sum()
        for where, groups, count in lists:
            loss = loss + loss_of(moved[where], groups) * (count / total)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return (torch.eye(len(axes)) + axes @ change @ axes.T).numpy()


def applied(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors ``(n, D)`` after the head, rows of length 1."""
    moved = np.asarray(vectors, np.float32) @ matrix.T
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)
