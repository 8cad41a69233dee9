"""The study's pictures: differences with their intervals, accuracy against encoded pixels with bands over seeds."""

import math

import numpy as np

from s2r2.evaluation.charts import COLORS, INK, SOFT, Series, line_chart, new_figure, svg
from s2r2.study.results import Comparison, Results
from s2r2.study.spec import UNTRAINED

WIDTH = 8.6


def differences_chart(results: Results, comparison: Comparison) -> str:
    """SVG: reference minus each other method, a panel for each figure; empty while there is nothing to compare."""
    methods = list(results.study.methods)
    rows = [(m, comparison.differences[m]) for m in reversed(methods) if m in comparison.differences]
    if not rows:
        return ""
    figure, panels = new_figure((WIDTH, 0.9 + 0.34 * len(rows)), len(comparison.titles))
    for axes, (name, title) in zip(panels, comparison.titles.items(), strict=True):
        axes.axvline(0, color=SOFT, linewidth=1, clip_on=False)
        for place, (method, row) in enumerate(rows):
            value, half = 100 * row[name].value, 100 * row[name].half_width
            color = COLORS[methods.index(method) % len(COLORS)]
            if math.isfinite(half):
                axes.plot([value - half, value + half], [place, place], color=color, linewidth=2.2, clip_on=False)
            if math.isfinite(value):
                axes.scatter([value], [place], s=26, color=color, clip_on=False, zorder=3)
        axes.set_title(f"{title}, points", fontsize=9, color=INK)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_yticks(range(len(rows)), [method for method, _ in rows])
    lead = f"{results.reference} minus the method; right of 0: {results.reference} is ahead"
    figure.supxlabel(lead, fontsize=8, color=SOFT)
    return svg(figure, f"Differences on {comparison.data}, {comparison.task}: the numbers of the table as a picture")


def curves_chart(results: Results, data: str) -> str:
    """SVG: accuracy over encoded pixels, each method's mean with a band; empty without points."""
    several = len(results.study.budgets) > 1
    lines = _budget_lines(results, data) if several else _online_lines(results, data)
    what = "kNN on test images" if several else "kNN accuracy on training images, while training"
    return line_chart(
        lines,
        label=f"{what} on {data} over encoded pixels, for each method",
        x_label=f"{'views' if several else 'million pixels'} encoded; {what}, per cent",
        y_format=lambda value: f"{value:.3g}",
        size=(WIDTH, 3.6),
        legend=True,
    )


def _budget_lines(results: Results, data: str) -> list[Series]:
    """KNN of the first task at every budget, with its intervals."""
    task = next(iter(results.study.data[data].tasks))
    comparisons = [c for c in results.comparisons if c.data == data and c.task == task]
    lines = []
    for method in results.study.methods:
        points = [(c.budget, c.figures[method]["knn"]) for c in comparisons if "knn" in c.figures.get(method, {})]
        middle = np.array([100 * e.value for _, e in points])
        half = np.array([100 * (e.half_width if math.isfinite(e.half_width) else e.images) for _, e in points])
        x = np.array([float(budget) for budget, _ in points])
        lines.append(Series(method, x, middle, marked=True, low=middle - half, high=middle + half))
    return lines


def _online_lines(results: Results, data: str) -> list[Series]:
    """Checks during training, which all runs of a method make at the same steps, with the range of the seeds."""
    lines = []
    for method in results.study.methods:
        curves = results.curves.get((data, method), [])
        if method == UNTRAINED or not curves or len({len(curve) for curve in curves}) > 1:
            lines.append(Series(method, np.empty(0), np.empty(0)))
            continue
        values = 100 * np.stack([curve[:, 1] for curve in curves])
        x, low, high = curves[0][:, 0], values.min(0), values.max(0)
        lines.append(Series(method, x, values.mean(0), marked=True, low=low, high=high))
    return lines
