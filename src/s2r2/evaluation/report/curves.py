"""The training curves of a report: which figures, how drawn, and what each one says to a person."""

from dataclasses import dataclass

import numpy as np

from s2r2.evaluation.charts import Format, Series, line_chart
from s2r2.evaluation.report.contents import Contents


@dataclass(frozen=True)
class Curve:
    """A chart with its title, the names of its lines, the last values, and a caption."""

    title: str
    svg: str
    caption: str
    names: tuple[str, ...] = ()
    last: str = ""


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %" if abs(value) >= 5e-5 else "0 %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_STEP_CURVES: tuple[tuple[str, str, Format, tuple[float | None, float | None], str], ...] = (
    (
        "loss",
        "Ranking loss",
        _number,
        (None, None),
        "What training makes smaller: 1 minus the average precision (AP) with which the random views of a photo find "
        "each other among all views of the batch. 0 would be a perfect ranking.",
    ),
    (
        "positive_cosine",
        "Likeness of two views of a photo",
        _number,
        (None, None),
        "Mean cosine between embeddings of two random views of the same photo: 1 when they fall on one point.",
    ),
    (
        "views_per_second",
        "Speed",
        _number,
        (0.0, None),
        "Views encoded and ranked in a second.",
    ),
    (
        "wait_share",
        "Waiting for data",
        _percent,
        (0.0, 0.05),
        "Share of the time in which training waited for views to be made. Near 0 is good; if it is large, more "
        "processor threads would make training faster.",
    ),
    (
        "gradient_norm",
        "Length of the gradient",
        _number,
        (0.0, None),
        "How strongly a step pulls at the weights. Values that shoot up point to a learning rate that is too high.",
    ),
    (
        "lr",
        "Learning rate",
        lambda v: f"{v:.2g}",
        (0.0, None),
        "Size of a step: it rises during warm-up and then falls along half a cosine.",
    ),
)


def training_curves(run: Contents) -> list[Curve]:
    """Curves of everything that ``metrics.jsonl`` holds, the online checks after the loss."""
    per_epoch = _steps_per_epoch(run)
    curves = []
    for key, title, y_format, y_range, caption in _STEP_CURVES:
        points = [(e["step"] / per_epoch, e[key]) for e in run.steps if isinstance(e.get(key), int | float)]
        if len(points) < 2:
            continue
        x, y = np.array(points, np.float64).T
        svg = line_chart(
            [Series(title, x, y)],
            label=f"{title} over training",
            x_label="epoch" if per_epoch > 1 else "step",
            y_format=y_format,
            y_range=y_range,
        )
        if svg:
            tail = y[np.isfinite(y)][-max(1, len(y) // 50) :]
            last = y_format(float(tail.mean())) if len(tail) else ""
            curves.append(Curve(title, svg, caption, last=last))
        if key == "loss":
            curves += _check_curves(run, per_epoch)
    return curves


def _check_curves(run: Contents, per_epoch: float) -> list[Curve]:
    names = {"view_ap": "AP of held-out views", "knn": "kNN accuracy"}
    series = []
    for key, name in names.items():
        points = [
            (e["step"] / per_epoch, e["check"][key]) for e in run.checks if isinstance(e["check"].get(key), int | float)
        ]
        if points:
            x, y = np.array(points, np.float64).T
            series.append(Series(name, x, y, marked=True))
    svg = line_chart(
        series,
        label="Online checks over training",
        x_label="epoch" if per_epoch > 1 else "step",
        y_format=_percent,
        y_range=(0.0, None),
    )
    if not svg:
        return []
    caption = (
        "Every few epochs, on a small fixed set. AP of held-out views: how well views that training never drew find "
        "the other views of their photo."
    )
    if len(series) > 1:
        caption += (
            " kNN accuracy: how often the vote of the 20 nearest photos names a photo's class; labels are used for "
            "this check only, never for training."
        )
    last = ", ".join(_percent(float(s.y[-1])) for s in series)
    return [Curve("Checks along the way", svg, caption, tuple(s.name for s in series), last)]


def _steps_per_epoch(run: Contents) -> float:
    steps, epochs = run.about.get("steps"), run.settings.get("epochs")
    if isinstance(steps, int) and isinstance(epochs, int) and epochs > 0 and steps > 0:
        return steps / epochs
    return 1.0
