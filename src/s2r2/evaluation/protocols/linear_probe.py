"""Logistic regression on cached features: what a linear layer can read out of them.

The objective is scikit-learn's, C * sum of losses + |W|^2 / 2 with a free bias, on standardized features, and so is
its minimum; only the way there differs. In the coordinates of the features' principal axes, each scaled by the loss's
curvature along it at the start, the problem is nearly round, and L-BFGS needs tens of steps where it otherwise needs
hundreds. All strengths of a search share the axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.metrics.bootstrap import weighted_average_precision
from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels
from s2r2.evaluation.protocols.base import Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 0.2
_GRADIENT_TOLERANCE = 3e-5  # largest part, in coordinates where the curvature at the start is 1
_LOSS_TOLERANCE = 3e-7  # relative fall in a step
_MAXIMUM_STEPS = 400


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        classes: ``(C,)`` the labels, ascending.
        weight: ``(C, D)``.
        bias: ``(C,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviations, 1 where a feature is constant.
        strength: The inverse regularisation C, as in scikit-learn.
        validation: For each strength tried, the score on the held-out part of the training images.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    strength: float
    validation: dict[float, float]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """``(N, D)`` features to ``(N, C)`` logits."""
        return ((features - self.mean) / self.scale) @ self.weight.T + self.bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        """``(N, D)`` features to ``(N,)`` labels."""
        return np.asarray(self.classes[self.scores(features).argmax(1)])


def fit_linear_probe(
    features: np.ndarray,
    labels: LabelsLike,
    *,
    strengths: Sequence[float] | float = STRENGTHS,
    classes: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> LinearProbe:
    """Fit multinomial (single-label) or one-vs-rest (multi-label) logistic regression.

    With several strengths, the one with the best accuracy (multi-label: mAP) on a held-out fifth of the images given
    here is taken, and the probe is fitted on all of them with it. Test images are never looked at.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` integers or strings, one for each image, or ``(N, C)`` bool.
        strengths: Values of C to choose from, or the one to use.
        classes: C, if labels are numbers from 0 to C - 1, some of which may be absent; by default the classes are the
            labels that occur.
        seed: Of the split.
        device: Where to compute.

    Raises:
        S2R2Error: There is no image, a label is missing, or a strength is not above 0.
    """
    candidates = (strengths,) if isinstance(strengths, int | float) else tuple(sorted(strengths))
    if not candidates or candidates[0] <= 0:
        raise ArgumentError(f"strengths={strengths}: C must be above 0")
    names, (targets,) = number_labels(labels, classes=classes)
    known = int((targets >= 0).sum()) if targets.ndim == 1 else len(targets)
    if features.ndim != 2 or not 0 < len(features) == len(targets) == known:
        raise ArgumentError(f"a linear probe needs one label for each image: {len(features)} images, {known} labels")
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(1)))
        raise S2R2Error(f"row {row} of the features is not finite: the encoder is broken there, look at that image")
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    deviation = features.std(0, dtype=np.float64).astype(np.float32)
    scale = np.where(deviation > 1e-6 * max(1e-6, float(deviation.max())), deviation, 1).astype(np.float32)
    x = torch.as_tensor((features - mean) / scale, dtype=torch.float32, device=device)
    width = len(names)
    binary = targets.ndim == 1 and width == 2  # one weight vector, as in scikit-learn: two would halve the penalty
    if binary:
        targets, width = targets[:, None] == 1, 1
    y = torch.as_tensor(targets.astype(np.float32 if targets.ndim == 2 else np.int64), device=device)
    validation: dict[float, float] = {}
    chosen = candidates[0]
    if len(candidates) > 1:
        validation = _validate(x, y, width, candidates, seed, binary)
        chosen = max(validation, key=lambda c: (validation[c], -c))
    weight, bias = _Problem(x, y, width).minimise(chosen)
    if binary:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return LinearProbe(names, weight.cpu().numpy(), bias.cpu().numpy(), mean, scale, chosen, validation)


def split_indices(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images into a rest and a held-out share, each class in proportion where images have one label.

    Returns:
        Indices of the rest and of the held-out part, both sorted.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
        place = np.arange(len(order)) + generator.random()
        held = (np.floor((place + 1) * share) - np.floor(place * share)) > 0
    else:
        held = np.arange(len(order)) < round(len(order) * share)
    return np.sort(order[~held]), np.sort(order[held])


def _validate(
    x: Tensor, y: Tensor, width: int, strengths: Sequence[float], seed: int, binary: bool
) -> dict[float, float]:
    labels = y[:, 0].long().cpu().numpy() if binary else y.cpu().numpy()
    rest, held = split_indices(labels, HELD_OUT, seed)
    if len(held) == 0 or len(rest) == 0:
        return {strengths[len(strengths) // 2]: float("nan")}
    problem = _Problem(x[rest], y[rest], width)
    found: dict[float, float] = {}
    start = None
    for strength in strengths:  # rising: each fit starts where the more regularised one before ended
        weight, bias, start = problem.minimize_from(strength, start)
        logits = torch.addmm(bias, x[held], weight.T).cpu().numpy()
        if labels.ndim == 1:
            guessed = logits[:, 0] > 0 if binary else logits.argmax(1)
            found[strength] = float((guessed == labels[held]).mean())
        else:
            wanted = labels[held] > 0
            ones = np.ones((1, len(held)))
            used = np.flatnonzero(wanted.any(0))
            parts = [weighted_average_precision(logits[:, c], wanted[:, c], ones)[0] for c in used]
            found[strength] = float(np.mean(parts)) if parts else 0.0
    return found


class _Problem:
    """One training set, ready to be fitted at several strengths."""

    def __init__(self, x: Tensor, y: Tensor, width: int) -> None:
        self.y = y
        self.width = width
        self.count = len(x)
        self.axes, self.variances, self.x = _principal_axes(x)

    def minimise(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight ``(C, D)`` and bias ``(C,)`` at the minimum."""
        weight, bias, _ = self.minimize_from(strength, None)
        return weight, bias

    def minimize_from(self, strength: float, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same from a start in the principal axes, and the minimum in them ``(C, K + 1)``."""
        from scipy.optimize import minimize

        penalty = 1 / (strength * self.count)
        curvature = 0.25 if self.y.ndim == 2 else (1 - 1 / max(2, self.width)) / self.width
        scale = torch.cat([(curvature * self.variances + penalty).rsqrt(), self.x.new_tensor([curvature**-0.5])])
        first = torch.zeros(self.width, len(scale), device=self.x.device) if start is None else start / scale

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            point = torch.as_tensor(flat, dtype=torch.float32, device=self.x.device).view(self.width, -1) * scale
            value, gradient = self._value_and_gradient(point, penalty)
            return value, (gradient * scale).double().cpu().numpy().ravel()

        result = minimize(
            objective,
            first.double().cpu().numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAXIMUM_STEPS, "gtol": _GRADIENT_TOLERANCE, "ftol": _LOSS_TOLERANCE, "maxcor": 20},
        )
        point = torch.as_tensor(result.x, dtype=torch.float32, device=self.x.device).view(self.width, -1) * scale
        return point[:, :-1] @ self.axes.T, point[:, -1], point

    def _value_and_gradient(self, point: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Mean loss with penalty, and its gradient; logits are ``(C, N)``, for which matrix products are fastest."""
        weight, bias = point[:, :-1], point[:, -1:]
        logits = torch.addmm(bias, weight, self.x.T)
        if self.y.ndim == 1:
            images = torch.arange(self.count, device=logits.device)
            log_chances = F.log_softmax(logits, 0)
            loss = -log_chances[self.y, images].mean()
            error = log_chances.exp_()
            error[self.y, images] -= 1
        else:
            loss = F.binary_cross_entropy_with_logits(logits, self.y.T, reduction="sum") / self.count
            error = torch.sigmoid(logits) - self.y.T
        error /= self.count
        gradient = torch.cat([error @ self.x + penalty * weight, error.sum(1, keepdim=True)], 1)
        return float(loss) + 0.5 * penalty * float(weight.double().square().sum()), gradient


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Axes ``(D, K)``, variances ``(K,)`` along them, and ``x`` in them ``(N, K)``; what has no variance is dropped.

    With a penalty on the weights, the minimum lies in the span of the images, so nothing is lost.
    """
    if len(x) < x.shape[1]:
        values, vectors = torch.linalg.eigh((x @ x.T).double())
    else:
        values, vectors = torch.linalg.eigh((x.T @ x).double())
    kept = values > max(float(values[-1]), 1e-12) * 1e-7
    values, vectors = values[kept].clamp_min(1e-12), vectors[:, kept]
    if len(x) < x.shape[1]:
        axes = (x.T.double() @ (vectors / values.sqrt())).float()
    else:
        axes = vectors.float()
    return axes, (values / len(x)).float(), x @ axes


@register_protocol
class LinearClassifier(Protocol):
    """Accuracy of a linear classifier on the features, or mean AP where images have several labels."""

    name = "linear"
    summary = "a linear classifier on the features, its strength chosen on a fifth of the training images"
    usual = True
    place = 30

    def columns(self, task: Task) -> dict[str, Column]:
        """One figure."""
        if task.several:
            text = "A linear classifier for each label, trained on the fixed features; mean AP over labels."
            return {"probe": Column("probe", text)}
        text = "Share of test images that a linear classifier, trained on the fixed features, gets right."
        return {"probe": Column("linear", text)}

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Fit it to the labeled training images."""
        rows, labels = space.training(task)
        probe = fit_linear_probe(rows, labels, classes=len(task.names), seed=task.seed, device=space.device)
        details = {"strength": probe.strength, "validation": {str(k): v for k, v in probe.validation.items()}}
        return {"probe": task.outcome(probe.scores(space.testing(task)[0]), details)}

    def compared(self, task: Task) -> dict[str, str]:
        """Its figure, which studies have always called by this name."""
        return {"linear": "probe"}
