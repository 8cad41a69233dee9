"""Line charts as inline SVG: drawn from numbers, coloured by the page's style sheet, readable without scripts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 440, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 30
POINTS = 240
"""Points of a line; a longer series is averaged into as many."""

Format = Callable[[float], str]
Axis = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Series:
    """One line of a chart: ``(N,)`` positions and values; ``marked`` draws a dot at each point."""

    name: str
    x: np.ndarray
    y: np.ndarray
    marked: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_format: Format,
    y_range: tuple[float | None, float | None] = (None, None),
) -> str:
    """An SVG of some series over a common axis; empty when no series has a point.

    A long noisy series is drawn as its running mean, with the span of the values it averages behind it.

    Args:
        series: At most four lines.
        label: What a screen reader says.
        x_label: Under the horizontal axis.
        y_format: How to write a value.
        y_range: Bounds that the vertical axis shall include, None to follow the values.
    """
    cleaned = [_finite(s) for s in series]
    cleaned = [s for s in cleaned if len(s.x)]
    if not cleaned:
        return ""
    x_low, x_high = min(s.x.min() for s in cleaned), max(s.x.max() for s in cleaned)
    values = np.concatenate([s.y for s in cleaned])
    fixed_low, fixed_high = y_range
    y_low = float(values.min()) if fixed_low is None else min(fixed_low, float(values.min()))
    y_high = float(values.max()) if fixed_high is None else max(fixed_high, float(values.max()))
    ticks = nice_ticks(y_low, y_high, 4)
    y_low, y_high = min(y_low, ticks[0]), max(y_high, ticks[-1])

    def across(x: np.ndarray) -> np.ndarray:
        return LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (WIDTH - LEFT - RIGHT)

    def down(y: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - (y - y_low) / max(y_high - y_low, 1e-12) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        y = float(down(np.array(tick)))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{y_format(tick)}</text>')
    for tick in nice_ticks(x_low, x_high, 5):
        if x_low <= tick <= x_high:
            x = float(across(np.array(tick)))
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{tick:,.4g}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>')
    for number, line in enumerate(cleaned, 1):
        parts += _draw(line, number, across, down, y_format)
    parts.append("</svg>")
    return "".join(parts)


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) that span ``low`` to ``high``."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 0.5), low + (abs(low) * 0.1 or 0.5)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _draw(line: Series, number: int, across: Axis, down: Axis, y_format: Format) -> list[str]:
    parts: list[str] = []
    x, y, low, high = _thinned(line)
    if len(x) < len(line.x):
        edge = [f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down(high), strict=True)]
        edge += [f"{a:.1f},{b:.1f}" for a, b in zip(across(x)[::-1], down(low)[::-1], strict=True)]
        parts.append(f'<polygon class="span s{number}" points="{" ".join(edge)}"/>')
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down(y), strict=True))
    parts.append(f'<polyline class="line s{number}" points="{points}"/>')
    if line.marked or len(x) == 1:
        for a, b, position, value in zip(across(x), down(y), x, y, strict=True):
            title = f"{escape(line.name)} {y_format(float(value))} at {position:,.4g}"
            parts.append(
                f'<circle class="dot s{number}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"><title>{title}</title></circle>'
            )
    return parts


def _thinned(line: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means of equal parts of a long series, and 10 % and 90 % quantiles of each part."""
    parts = min(POINTS, max(24, len(line.x) // 8))
    if line.marked or len(line.x) <= parts:
        return line.x, line.y, line.y, line.y
    xs, ys = np.array_split(line.x, parts), np.array_split(line.y, parts)
    low = np.array([np.quantile(part, 0.1) for part in ys])
    high = np.array([np.quantile(part, 0.9) for part in ys])
    return np.array([p.mean() for p in xs]), np.array([p.mean() for p in ys]), low, high


def _finite(line: Series) -> Series:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    return Series(line.name, x[there], y[there], line.marked)
