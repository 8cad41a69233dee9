"""The study's pictures: differences with their intervals, accuracy against encoded pixels with bands over seeds."""

import io
import math
from typing import Any

import numpy as np

from s2r2.study.results import TITLES, Comparison, Results
from s2r2.study.spec import FIGURES, UNTRAINED

_COLOURS = ("#1f5fbf", "#c2571a", "#2c8a57", "#8a4fb0", "#b08a1f", "#3b3f46", "#c2407f", "#4aa3b5")


def colour(number: int) -> str:
    """The colour of a method, by its place in the study."""
    return _COLOURS[number % len(_COLOURS)]


def differences_plot(results: Results, comparison: Comparison) -> bytes | None:
    """PNG: reference less each other method, a panel for each figure; None while there is nothing to compare."""
    methods = [m for m in results.study.methods if m in comparison.differences]
    rows = [(m, comparison.differences[m]) for m in reversed(methods)]
    if not rows:
        return None
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(FIGURES), figsize=(10, 1.1 + 0.42 * len(rows)), sharey=True)
    for axis, name in zip(axes, FIGURES, strict=True):
        axis.axvline(0, color="#888", linewidth=1)
        for place, (method, row) in enumerate(rows):
            estimate = row[name]
            value, half = 100 * estimate.value, 100 * estimate.half_width
            tint = colour(list(results.study.methods).index(method))
            if math.isfinite(half):
                axis.plot([value - half, value + half], [place, place], color=tint, linewidth=2.4)
            axis.plot([value], [place], "o", color=tint, markersize=6)
        axis.set_title(f"{TITLES[name]}, points", fontsize=10)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        _plain(axis)
    axes[0].set_yticks(range(len(rows)), [method for method, _ in rows])
    figure.supxlabel(f"{results.reference} less the method; right of 0: {results.reference} is ahead", fontsize=10)
    return _png(figure)


def curves_plot(results: Results, data: str) -> bytes | None:
    """PNG: accuracy over encoded pixels, each method's mean with the range of its seeds; None without points."""
    budgets = results.study.views
    lines = _budget_lines(results, data) if len(budgets) > 1 else _online_lines(results, data)
    if not lines:
        return None
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 4.4))
    for method, (x, middle, low, high) in lines.items():
        tint = colour(list(results.study.methods).index(method))
        axis.plot(x, middle, "o-", color=tint, label=method, markersize=4, linewidth=1.8)
        axis.fill_between(x, low, high, color=tint, alpha=0.14, linewidth=0)
    axis.set_xlabel("million pixels encoded" if len(budgets) == 1 else "views encoded")
    what = "kNN accuracy on training images, while training" if len(budgets) == 1 else "kNN on test images"
    axis.set_ylabel(f"{what}, per cent", fontsize=9)
    axis.legend(frameon=False, fontsize=9, ncols=2)
    _plain(axis)
    return _png(figure)


Line = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _budget_lines(results: Results, data: str) -> dict[str, Line]:
    """Test figures of the first task at every budget, with their intervals."""
    task = next(iter(results.study.data[data].tasks))
    found: dict[str, Line] = {}
    comparisons = [c for c in results.comparisons if c.data == data and c.task == task]
    for method in results.study.methods:
        points = [(c.views, c.figures[method]["knn"]) for c in comparisons if method in c.figures]
        if points:
            middle = np.array([100 * e.value for _, e in points])
            half = np.array([100 * (e.half_width if math.isfinite(e.half_width) else 0) for _, e in points])
            found[method] = (np.array([float(v) for v, _ in points]), middle, middle - half, middle + half)
    return found


def _online_lines(results: Results, data: str) -> dict[str, Line]:
    """Checks during training, which all runs of a method make at the same steps."""
    found: dict[str, Line] = {}
    for (owner, method), curves in results.curves.items():
        if owner == data and method != UNTRAINED and curves and len({len(c) for c in curves}) == 1:
            values = 100 * np.stack([curve[:, 1] for curve in curves])
            found[method] = (curves[0][:, 0], values.mean(0), values.min(0), values.max(0))
    return found


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _png(figure: Any) -> bytes:
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.tight_layout()
    figure.savefig(content, format="png", dpi=150, facecolor="white")
    plt.close(figure)
    return content.getvalue()
