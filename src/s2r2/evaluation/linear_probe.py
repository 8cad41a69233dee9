"""Logistic regression on cached features: what a linear layer can read out of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        weight: ``(C, D)``.
        bias: ``(C,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviations.
        strength: The inverse regularisation C it was fitted with, as in scikit-learn.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    strength: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """``(N, D)`` features to ``(N, C)`` logits."""
        return ((features - self.mean) / self.scale) @ self.weight.T + self.bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        """``(N, D)`` features to ``(N,)`` classes."""
        return self.scores(features).argmax(1)


def fit_linear_probe(
    features: np.ndarray, labels: np.ndarray, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> LinearProbe:
    """Fit multinomial or one-vs-rest logistic regression on standardised features.

    The strength is chosen on a fifth of the given images, then the probe is fitted on all of them; test images are
    never seen. The objective is scikit-learn's: C * sum of losses + |W|^2 / 2, bias free.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` classes from 0 on, or ``(N, C)`` bool for one-vs-rest.
        strengths: Values of C to choose from.
        seed: Of the split.
    """
    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-6)
    x = torch.from_numpy(((features - mean) / scale).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.float32 if labels.ndim == 2 else np.int64))
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    chosen = strengths[0]
    if len(strengths) > 1:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
        held, rest = order[: len(x) // 5], order[len(x) // 5 :]
        losses, start = [], torch.zeros(classes, x.shape[1] + 1)
        for strength in strengths:  # rising: each fit starts from the stronger regularised one before
            start = _fit(x[rest], y[rest], strength, start)
            losses.append(float(_loss(x[held], y[held], start)))
        chosen = strengths[int(np.nanargmin(losses))]
    parameters = _fit(x, y, chosen, torch.zeros(classes, x.shape[1] + 1)).numpy()
    return LinearProbe(parameters[:, :-1], parameters[:, -1], mean, scale, chosen)


def _fit(x: Tensor, y: Tensor, strength: float, start: Tensor) -> Tensor:
    """Minimise by L-BFGS; the parameters are weights and, as the last column, the bias."""
    parameters = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=200,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        total = _loss(x, y, parameters) + parameters[:, :-1].square().sum() / (2 * strength * len(x))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(objective)  # type: ignore[arg-type]
    return parameters.detach()


def _loss(x: Tensor, y: Tensor, parameters: Tensor) -> Tensor:
    """Mean over images: cross-entropy, or the sum over labels of the binary one."""
    logits = torch.addmm(parameters[:, -1], x, parameters[:, :-1].T)
    if y.ndim == 1:
        return F.cross_entropy(logits, y)
    return F.binary_cross_entropy_with_logits(logits, y, reduction="sum") / len(x)
