"""Charts as SVG, drawn by matplotlib and colored by the page that they stand in; readable without scripts."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 240
"""Points of a line; a longer series is averaged into as many."""
INK, SOFT, RULE = "#1d1f24", "#63676f", "#e3e0da"
COLORS = ("#1f5fbf", "#c2571a", "#2c8a57", "#8a4fb0", "#b08a1f", "#3b3f46", "#c2407f", "#4aa3b5")
_VARIABLES = {INK: "ink", SOFT: "soft", RULE: "line", COLORS[0]: "accent", COLORS[1]: "second"}
"""Colours for which a page may have others, such as in the dark, and the names of its style sheet for them."""

Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: For a legend or a tooltip.
        x: ``(N,)`` positions.
        y: ``(N,)`` values.
        marked: Draw a dot at each point.
        low: ``(N,)`` lower end of a band around the line.
        high: ``(N,)`` upper end.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    marked: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_format: Format,
    y_range: tuple[float | None, float | None] = (None, None),
    size: tuple[float, float] = (4.4, 2.3),
    legend: bool = False,
) -> str:
    """An SVG of some series over a common axis; empty when no series has a point.

    A long noisy series is drawn as its running mean, with the span of the values that it averages behind it.

    Args:
        series: The lines.
        label: What a screen reader says.
        x_label: Under the horizontal axis.
        y_format: How to write a value.
        y_range: Bounds that the vertical axis shall include, None to follow the values.
        size: Width and height in units of 100 pixels.
        legend: Whether to name the lines in the chart.
    """
    cleaned = [_finite(line) for line in series]
    if not any(len(line.x) for line in cleaned):
        return ""
    figure, (axes,) = new_figure(size)
    tooltips: dict[str, str] = {}
    for number, line in enumerate(cleaned):
        color = COLORS[number % len(COLORS)]
        thin = _thinned(line)
        if thin.low is not None and thin.high is not None:
            edge = np.concatenate([thin.low, thin.high[::-1]])
            axes.fill(np.concatenate([thin.x, thin.x[::-1]]), edge, color=color, alpha=0.16, linewidth=0, clip_on=False)
        axes.plot(thin.x, thin.y, color=color, linewidth=1.6, label=line.name, clip_on=False)
        for x, y in zip(thin.x, thin.y, strict=True) if line.marked or len(thin.x) == 1 else ():
            name = f"point-{len(tooltips)}"
            axes.scatter([x], [y], s=14, color=color, gid=name, clip_on=False, zorder=3)
            tooltips[name] = f"{line.name} {y_format(float(y))} at {x:,.4g}"
    low, high = axes.get_ylim()
    if y_range != (None, None):
        axes.set_ylim(min(low, y_range[0]) if y_range[0] is not None else low, high)
        axes.set_ylim(top=max(high, y_range[1]) if y_range[1] is not None else high)
        if y_range[0] is not None and min(line.y.min() for line in cleaned if len(line.y)) >= y_range[0]:
            axes.set_ylim(bottom=y_range[0])
    axes.locator_params(axis="y", nbins=5)
    axes.locator_params(axis="x", nbins=6)
    axes.yaxis.set_major_formatter(lambda value, _: y_format(value))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.set_xlabel(x_label, loc="right")
    if legend:
        axes.legend(frameon=False, fontsize=8, ncols=2, labelcolor=INK)
    return svg(figure, label, tooltips)


def new_figure(size: tuple[float, float], panels: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure with panels side by side that share their vertical axis, in the style of all charts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    found = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    for axes in found:
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.grid(axis="y", color=RULE, linewidth=0.8, clip_on=False)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=8, labelcolor=SOFT)
        axes.xaxis.label.set(color=SOFT, fontsize=8)
        axes.yaxis.label.set(color=SOFT, fontsize=8)
    return figure, found


def svg(figure: "Figure", label: str, tooltips: dict[str, str] | None = None) -> str:
    """A figure as an SVG element for a page: no scripts, and no links but to its own parts.

    Args:
        figure: What was drawn.
        label: What a screen reader says.
        tooltips: By the ``gid`` of what they belong to.
    """
    import matplotlib as mpl

    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    drawing = text[text.index('<g id="figure_1">') : text.rindex("</svg>")]
    drawing = re.sub(r"<!--.*?-->|\n\s*", " ", drawing, flags=re.DOTALL)
    drawing = re.sub(r' id="(?!point-|[mC][0-9a-f]+")[^"]*"', "", drawing)
    for name, words in (tooltips or {}).items():
        drawing = drawing.replace(f'<g id="{name}">', f"<g><title>{escape(words)}</title>")
    colors = "|".join(_VARIABLES)
    drawing = re.sub(colors, lambda found: f"var(--{_VARIABLES[found[0]]}, {found[0]})", drawing)
    drawing = re.sub(r"font-family: [^;\"]*", "font-family: inherit", drawing)
    return f'<svg class="chart" viewBox="{box[1]}" role="img" aria-label="{escape(label)}">{drawing}</svg>'


def standalone(drawing: str) -> str:
    """What :func:`svg` made, as a file of its own."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif"'
    return re.sub(r"var\(--\w+, (#\w+)\)", r"\1", drawing).replace("<svg ", f"<svg {names} ", 1)


def _thinned(line: Series) -> Series:
    """Means of equal parts of a long series, and between 10 % and 90 % quantiles of each part a band."""
    parts = min(POINTS, max(24, len(line.x) // 8))
    if line.marked or len(line.x) <= parts:
        return line
    xs, ys = np.array_split(line.x, parts), np.array_split(line.y, parts)
    low, high = (np.array([np.quantile(part, share) for part in ys]) for share in (0.1, 0.9))
    x, y = (np.array([part.mean() for part in all_parts]) for all_parts in (xs, ys))
    return Series(line.name, x, y, low=low, high=high)


def _finite(line: Series) -> Series:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    low, high = (None if end is None else np.asarray(end)[there] for end in (line.low, line.high))
    return Series(line.name, x[there], y[there], line.marked, low, high)
