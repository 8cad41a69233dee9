"""From judged cells to figures, differences and costs, as plain data and as Markdown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.runs import RunFolder
from s2r2.study.plan import JUDGED_FILE, RUN_FOLDER, SCORES_FILE, Cell, is_done, judged
from s2r2.study.spec import FIGURES, UNTRAINED, DataSpec, Study
from s2r2.study.statistics import Estimate, difference, figure

TITLES = {"map": "mAP", "knn": "kNN", "linear": "linear"}


@dataclass
class Comparison:
    """Figures of one task at one budget.

    Attributes:
        data: Name of the data set.
        task: Name of the task.
        views: The budget.
        several: Whether images have several labels: kNN and linear are then mean AP over labels.
        images: Judged test images.
        figures: By method and figure.
        differences: Reference less the method, by method and figure; paired by seed and image.
    """

    data: str
    task: str
    views: int
    several: bool
    images: int
    figures: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    differences: dict[str, dict[str, Estimate]] = field(default_factory=dict)


@dataclass
class Costs:
    """What a run of a method cost, mean over seeds: views of full size encoded, seconds of training, peak bytes."""

    views: float
    seconds: float
    memory: float
    seeds: int


@dataclass
class Results:
    """Everything that a study has found so far."""

    study: Study
    cells: int
    done: int
    comparisons: list[Comparison] = field(default_factory=list)
    costs: dict[tuple[str, str, int], Costs] = field(default_factory=dict)
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    """By data set and method, for each seed ``(P, 2)``: million pixels encoded, online kNN accuracy."""

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return self.study.reference or next(iter(self.study.methods))


def collect(study: Study, cells: list[Cell], out: Path, tuning: dict[str, dict[str, Any]]) -> Results:
    """Read what the final cells have left.

    Args:
        study: The study.
        cells: Its final cells, done or not.
        out: The study's folder.
        tuning: What the tuning stage found, for the record.
    """
    done = [cell for cell in cells if is_done(cell, out)]
    results = Results(study, len(cells), len(done), tuning=tuning)
    for data, spec in study.data.items():
        for views in study.views:
            chosen = [c for c in done if c.data == data and (c.views == views or c.method == UNTRAINED)]
            scores = {(c.method, c.seed): _scores(c, out) for c in chosen}
            for task in spec.tasks:
                if scores:
                    results.comparisons.append(_compare(results.reference, data, task, views, study, scores))
            for method in study.methods:
                judged = [_judged(c, out) for c in chosen if c.method == method]
                if judged:
                    results.costs[data, method, views] = _costs(judged)
        for method in study.methods:
            runs = [c for c in done if c.data == data and c.method == method and c.views == max(study.views)]
            results.curves[data, method] = [curve for c in runs if len(curve := _curve(c, out))]
    return results


def choose_settings(study: Study, cells: list[Cell], out: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The best settings of each method on each data set, and the record of all trials.

    Returns:
        By data set and method the chosen settings; and the same with every trial's settings and figure.
    """
    assert study.tuning is not None
    chosen: dict[str, dict[str, Any]] = {data: {} for data in study.data}
    record: dict[str, Any] = {data: {} for data in study.data}
    for data, spec in study.data.items():
        for method in study.methods:
            settings = study.tuning.settings(method)
            mine = [c for c in cells if c.data == data and c.method == method]
            values = [
                float(np.mean([_tuning_figure(c, study.tuning.figure, spec, out) for c in mine if c.trial == trial]))
                for trial in range(len(settings))
            ]
            best = int(np.argmax(values))
            chosen[data][method] = settings[best]
            record[data][method] = {
                "chosen": settings[best],
                "trials": [
                    {"settings": s, study.tuning.figure: round(v, 5)} for s, v in zip(settings, values, strict=True)
                ],
            }
    return chosen, record


def _tuning_figure(cell: Cell, name: str, data: DataSpec, out: Path) -> float:
    """Mean of a figure over the tasks of a trial's run."""
    scores = _scores(cell, out)
    figures = [figure([scores[f"{task}/{name}"]], scores[f"{task}/targets"]).value for task in data.tasks]
    return float(np.mean(figures))


def _compare(
    reference: str,
    data: str,
    task: str,
    views: int,
    study: Study,
    scores: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
) -> Comparison:
    targets = next(iter(scores.values()))[f"{task}/targets"]
    found = Comparison(data, task, views, targets.ndim == 2, len(targets))
    for method in [UNTRAINED, *study.methods]:
        seeds = [seed for seed in study.seeds if (method, seed) in scores]
        shared = [seed for seed in seeds if (reference, seed) in scores]
        for name in FIGURES:
            key = f"{task}/{name}"
            runs = [scores[method, seed][key] for seed in seeds]
            if runs:
                found.figures.setdefault(method, {})[name] = figure(runs, targets)
            if method != reference and shared:
                own = [scores[reference, seed][key] for seed in shared]
                theirs = [scores[method, seed][key] for seed in shared]
                found.differences.setdefault(method, {})[name] = difference(own, theirs, targets)
    return found


def _scores(cell: Cell, out: Path) -> dict[str, np.ndarray]:
    with np.load(cell.folder(out) / SCORES_FILE) as content:
        return {name: content[name] for name in content.files}


def _judged(cell: Cell, out: Path) -> dict[str, Any]:
    return judged(cell.folder(out) / JUDGED_FILE)


def _costs(judged: list[dict[str, Any]]) -> Costs:
    size = judged[0]["cell"]["config"]["image_size"]
    costs = [entry["costs"] for entry in judged]
    return Costs(
        float(np.mean([c["pixels"] for c in costs])) / size**2,
        float(np.mean([c["seconds"] for c in costs])),
        float(np.mean([c["peak_memory"] for c in costs])),
        len(costs),
    )


def _curve(cell: Cell, out: Path) -> np.ndarray:
    """Online kNN accuracy over million pixels encoded."""
    judged = _judged(cell, out)
    per_step = judged["costs"]["pixels"] / max(1, judged["costs"]["steps"])
    lines = RunFolder(cell.folder(out) / RUN_FOLDER).read_metrics()
    points = [(line["step"] * per_step / 1e6, line["check"]["knn"]) for line in lines if "knn" in line.get("check", {})]
    return np.array(points).reshape(-1, 2)


def to_dict(results: Results) -> dict[str, Any]:
    """Plain values for JSON: every figure as value, low, high (None where not known), and seeds."""
    return {
        "study": results.study.name,
        "reference": results.reference,
        "cells": results.cells,
        "done": results.done,
        "comparisons": [
            {
                "data": c.data,
                "task": c.task,
                "views": c.views,
                "images": c.images,
                "figures": {m: {n: _plain(e) for n, e in row.items()} for m, row in c.figures.items()},
                "differences": {m: {n: _plain(e) for n, e in row.items()} for m, row in c.differences.items()},
            }
            for c in results.comparisons
        ],
        "costs": [
            {"data": data, "method": method, "budget": views, **vars(cost)}
            for (data, method, views), cost in results.costs.items()
        ],
        "tuning": results.tuning,
    }


def _plain(estimate: Estimate) -> dict[str, float | int | None]:
    known = math.isfinite(estimate.half_width)
    return {
        "value": round(estimate.value, 5),
        "low": round(estimate.low, 5) if known else None,
        "high": round(estimate.high, 5) if known else None,
        "seeds": estimate.seeds,
    }


def to_markdown(results: Results) -> str:
    """The tables, for people and for ``docs``."""
    parts = [f"# {results.study.name}", ""]
    if results.study.about:
        parts += [results.study.about.strip(), ""]
    if results.done < results.cells:
        parts += [f"**Not finished: {results.done} of {results.cells} runs.**", ""]
    for comparison in results.comparisons:
        parts += [*_tables(results, comparison), ""]
    if results.tuning:
        parts += [*_tuning_table(results), ""]
    return "\n".join(parts)


def explanation(comparison: Comparison) -> str:
    """What the columns of a comparison are."""
    if comparison.several:
        return "mAP: retrieval, a label in common is right; kNN and linear: mean AP over labels"
    return "mAP: retrieval, same class is right; kNN and linear: accuracy"


def _tables(results: Results, comparison: Comparison) -> list[str]:
    names = [TITLES[name] for name in FIGURES]
    title = f"{comparison.data}, judged on {comparison.task}: {comparison.views:,} views encoded"
    reference = results.reference
    header = ["", *names, *(f"{reference} less it: {name}" for name in names), "views", "seconds", "MiB", "seeds"]
    lines = [f"## {title}", "", f"Per cent; {explanation(comparison)}; {comparison.images:,} test images.", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for method, row in comparison.figures.items():
        gaps = comparison.differences.get(method, {})
        cells = [show(row[name]) for name in FIGURES]
        cells += [show_difference(gaps[name]) if name in gaps else "" for name in FIGURES]
        cost = results.costs.get((comparison.data, method, comparison.views))
        cells += (
            [f"{cost.views:,.0f}", f"{cost.seconds:,.0f}", f"{cost.memory / 2**20:,.0f}"] if cost else ["0", "", ""]
        )
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {row['map'].seeds} |")
    return lines


def show(estimate: Estimate) -> str:
    """A figure in per cent."""
    if not math.isfinite(estimate.half_width):
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} ±{100 * estimate.half_width:.1f}"


def show_difference(estimate: Estimate) -> str:
    """A difference in points, bold where its interval leaves out zero."""
    text = f"{100 * estimate.value:+.1f}"
    if not math.isfinite(estimate.half_width):
        return text
    text += f" ±{100 * estimate.half_width:.1f}"
    return f"**{text}**" if estimate.low > 0 or estimate.high < 0 else text


def _tuning_table(results: Results) -> list[str]:
    tuning = results.study.tuning
    assert tuning is not None
    seeds = f", the mean over {len(tuning.seeds)} seeds" if len(tuning.seeds) > 1 else ""
    lines = [
        "## Settings chosen",
        "",
        f"{tuning.trials} trials a method and data set, {tuning.views:,} views each{seeds}, judged by "
        f"{TITLES[tuning.figure]} "
        f"on {tuning.held_out:.0%} of the training labels; the test images had no part in it.",
        "",
        "| data | method | chosen | figures of the trials |",
        "|---|---|---|---|",
    ]
    for data, methods in results.tuning.items():
        for method, record in methods.items():
            figures = ", ".join(f"{100 * trial[tuning.figure]:.1f}" for trial in record["trials"])
            lines.append(f"| {data} | {method} | {describe(record['chosen'])} | {figures} |")
    return lines


def describe(settings: Mapping[str, Any]) -> str:
    """Settings on one line."""
    flat = {**{k: v for k, v in settings.items() if k != "options"}, **settings.get("options", {})}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in flat.items()
    )
