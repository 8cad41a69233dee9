"""The evaluation in the form in which a report shows it: a sentence, bars, a table."""

import math
from typing import Any

from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.evaluation.result import Evaluation, Row, RowKind

BARS = ("map", "recall@1", "probe", "view_ap")


def headline(evaluation: Evaluation) -> str:
    """What the evaluation says, in one or two sentences."""
    key = "map" if "map" in evaluation.columns else "view_ap"
    rows = [row for row in evaluation.rows if _is_known(row, key) and row.output != "embedding"]
    if not rows:
        return ""
    best, others = rows[-1], rows[:-1]
    if key == "map":
        alike = "images that share a label with the query" if evaluation.about.get("several_labels") else None
        task = f"Asked for {alike or 'images of the same class'}"
    else:
        task = "Asked for the other random views of the same photo"
    count = evaluation.about.get("test_labelled") or evaluation.about.get("test_images")
    text = f"{task}, on {count:,} test images, {_called(best, rows)} ranks with a mean average precision of "
    text += _percent(best.figures[key])
    if others:
        text += "; " + " and ".join(f"{_percent(row.figures[key])} for {_called(row, rows)}" for row in others)
    return text + ". 100 would be a perfect ranking."


def bar_groups(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Bars with their intervals for the columns that matter most, one group a column; lengths in per cent."""
    middle = [name for name in evaluation.columns if name.startswith("knn@")][:1]
    groups = []
    for name in [*BARS[:2], *middle, *BARS[2:]]:
        rows = [row for row in evaluation.rows if _is_known(row, name)]
        if name not in evaluation.columns or not rows:
            continue
        highest = max(_end(row.figures[name].high, row.figures[name]) for row in rows)
        full = next(limit for limit in (0.1, 0.25, 0.5, 1.0) if highest <= limit or limit == 1.0)
        groups.append(
            {
                "column": evaluation.columns[name],
                "full": f"{100 * full:.0f}",
                "bars": [_bar(row, row.figures[name], full) for row in rows],
            }
        )
    return groups


def table(evaluation: Evaluation) -> dict[str, Any]:
    """The whole table as text: column titles, and for each row ``(title, cells)``; the best of a column is marked."""
    names = list(evaluation.columns)
    best = {
        name: max((row.figures[name].value for row in evaluation.rows if _is_known(row, name)), default=math.nan)
        for name in names
    }
    rows = []
    for row in evaluation.rows:
        cells: list[tuple[str, str, bool] | None] = []
        for name in names:
            figure = row.figures.get(name)
            if figure is None:
                cells.append(None)
            elif not math.isfinite(figure.value):
                cells.append(("n/a", "", False))
            else:
                cells.append((_percent(figure), _spread(figure), figure.value >= best[name]))
        rows.append((row.title, cells))
    return {"titles": [evaluation.columns[name].title for name in names], "rows": rows}


def health_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    """Health figures of each row as text."""
    found = []
    for row in evaluation.rows:
        if "effective_rank" not in row.health:
            continue
        found.append(
            {
                "title": row.title,
                "rank": f"{_number(row.health['effective_rank'], 1)} of {row.dimensions:,}",
                "cosine": _number(row.health.get("mean_cosine"), 2),
                "alignment": _number(row.health.get("alignment"), 2),
                "uniformity": _number(row.health.get("uniformity"), 2),
            }
        )
    return found


def confusion_table(evaluation: Evaluation) -> dict[str, Any] | None:
    """Shares of neighbors by class in per cent with a shade for each cell, and the most frequent confusions."""
    found = evaluation.pictures.get("confusion")
    if not found or len(found["names"]) < 2:
        return None
    rows = [
        (name, [(round(100 * share), round(min(1.0, share) ** 0.7, 3), i == j) for j, share in enumerate(shares)])
        for i, (name, shares) in enumerate(zip(found["names"], found["shares"], strict=False))
    ]
    pairs = [(a, b, f"{100 * share:.0f}") for a, b, share in found["pairs"] if share >= 0.01]
    return {"names": found["names"], "rows": rows, "pairs": pairs, "k": found["k"]}


def _bar(row: Row, figure: Interval, full: float) -> dict[str, str]:
    def share(value: float) -> str:
        return f"{min(100.0, max(0.0, 100 * value / full)):.2f}"

    low, high = _end(figure.low, figure), _end(figure.high, figure)
    return {
        "title": row.title,
        "kind": row.kind if row.output != "embedding" else "head",
        "value": _percent(figure),
        "length": share(figure.value),
        "low": share(low),
        "span": f"{min(100.0, 100 * high / full) - max(0.0, 100 * low / full):.2f}",
    }


def _called(row: Row, rows: list[Row]) -> str:
    alone = row.kind != RowKind.PIXELS and sum(other.kind == row.kind for other in rows) == 1
    return f"the {row.kind} encoder" if alone else row.encoder


def _is_known(row: Row, name: str) -> bool:
    return name in row.figures and math.isfinite(row.figures[name].value)


def _end(end: float, figure: Interval) -> float:
    """An end of the interval; the figure itself where there is none."""
    return end if math.isfinite(end) else figure.value


def _spread(figure: Interval) -> str:
    return f"±{100 * figure.half_width:.1f}" if math.isfinite(figure.half_width) else ""


def _percent(figure: Interval) -> str:
    return f"{100 * figure.value:.1f}"


def _number(value: Any, digits: int) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.00
