"""From evaluated cells to figures, differences and costs, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.study.plan import RESULT_FILE, RUN_FOLDER, SCORES_FILE, Cell, is_done, read_result
from s2r2.study.spec import UNTRAINED, DataSpec, Study
from s2r2.study.statistics import Estimate, estimate, resampled_run, value_of
from s2r2.study.tasks import TARGETS

TITLES = {"map": "mAP", "knn": "kNN", "linear": "linear"}
"""Of figures in cells of earlier versions, which did not write them down."""
_NO_FIGURES = (TARGETS, "effective_rank")  # the second: in cells of earlier versions

Scores = Mapping[str, np.ndarray]


@dataclass
class Comparison:
    """Figures of one task at one budget.

    Attributes:
        data: Name of the data set.
        task: Name of the task.
        budget: Encoded views of full size.
        several: Whether images have several labels: kNN and linear are then mean AP over labels.
        images: Judged test images.
        titles: Of the figures, by name.
        explanations: Likewise; cells of earlier versions have none.
        notes: What a reader must know to judge the figures.
        figures: By method and figure.
        differences: Reference minus the method, by method and figure; paired by seed and image.
    """

    data: str
    task: str
    budget: int
    several: bool
    images: int
    titles: dict[str, str]
    explanations: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
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
        for budget in study.budgets:
            chosen = [c for c in done if c.data == data and (c.budget == budget or c.method == UNTRAINED)]
            scores = {(c.method, c.seed): _scores(c, out) for c in chosen}
            records = [_result(c, out) for c in chosen]
            for task in spec.tasks if scores else ():
                found = [record["tasks"][task] for record in records if "tasks" in record]
                comparison = _comparison(data, task, budget, scores, found)
                _compare(comparison, study, results.reference, scores)
                results.comparisons.append(comparison)
            for method in study.methods:
                mine = [record for cell, record in zip(chosen, records, strict=True) if cell.method == method]
                if mine:
                    results.costs[data, method, budget] = _costs(mine)
        for method in study.methods:
            runs = [c for c in done if c.data == data and c.method == method and c.budget == max(study.budgets)]
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
    for task in data.tasks:
        if f"{task}/{name}" not in scores:
            there = ", ".join(_names(scores, task))
            raise S2R2Error(f"tuning.figure {name}: the protocols give no such figure on {task}; use {there}")
    return float(np.mean([value_of(scores[f"{task}/{name}"], scores[f"{task}/{TARGETS}"]) for task in data.tasks]))


def _names(scores: Scores, task: str) -> list[str]:
    """Names of a task's figures."""
    found = [name.removeprefix(f"{task}/") for name in scores if name.startswith(f"{task}/")]
    return [name for name in found if name not in _NO_FIGURES]


def _comparison(
    data: str, task: str, budget: int, scores: Mapping[tuple[str, int], Scores], records: list[dict[str, Any]]
) -> Comparison:
    """A comparison without its figures.

    Args:
        data: Name of the data set.
        task: Name of the task.
        budget: The budget.
        scores: Of all cells.
        records: What cells have written down of the task; those of earlier versions nothing.
    """
    first = next(iter(scores.values()))
    targets = first[f"{task}/{TARGETS}"]
    names = [name for name in _names(first, task) if all(f"{task}/{name}" in other for other in scores.values())]
    figures: dict[str, Any] = records[0]["figures"] if records else {}
    return Comparison(
        data,
        task,
        budget,
        targets.ndim == 2,
        len(targets),
        {name: figures[name]["title"] if name in figures else TITLES.get(name, name) for name in names},
        {name: figures[name]["explanation"] for name in names if name in figures},
        list(dict.fromkeys(note for record in records for note in record["notes"])),
    )


def _compare(comparison: Comparison, study: Study, reference: str, scores: Mapping[tuple[str, int], Scores]) -> None:
    """Fill a comparison with figures and differences."""
    targets = next(iter(scores.values()))[f"{comparison.task}/{TARGETS}"]
    for name in comparison.titles:
        draws = {key: resampled_run(found[f"{comparison.task}/{name}"], targets) for key, found in scores.items()}
        for method in [UNTRAINED, *study.methods]:
            seeds = [seed for seed in study.seeds if (method, seed) in draws]
            shared = [seed for seed in seeds if (reference, seed) in draws]
            if seeds:
                found = estimate([draws[method, seed] for seed in seeds])
                comparison.figures.setdefault(method, {})[name] = found
            if method != reference and shared:
                gap = estimate([draws[reference, seed] - draws[method, seed] for seed in shared])
                comparison.differences.setdefault(method, {})[name] = gap


def _scores(cell: Cell, out: Path) -> dict[str, np.ndarray]:
    with np.load(cell.folder(out) / SCORES_FILE) as content:
        return {name: content[name] for name in content.files}


def _result(cell: Cell, out: Path) -> dict[str, Any]:
    return read_result(cell.folder(out) / RESULT_FILE)


def _costs(results: list[dict[str, Any]]) -> Costs:
    size = results[0]["cell"]["config"]["image_size"]
    costs = [entry["costs"] for entry in results]
    return Costs(
        float(np.mean([c["pixels"] for c in costs])) / size**2,
        float(np.mean([c["seconds"] for c in costs])),
        float(np.mean([c["peak_memory"] for c in costs])),
        len(costs),
    )


def _curve(cell: Cell, out: Path) -> np.ndarray:
    """Online kNN accuracy over million pixels encoded."""
    result = _result(cell, out)
    per_step = result["costs"]["pixels"] / max(1, result["costs"]["steps"])
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
                "budget": c.budget,
                "images": c.images,
                "titles": c.titles,
                "notes": c.notes,
                "figures": {m: {n: _plain(e) for n, e in row.items()} for m, row in c.figures.items()},
                "differences": {m: {n: _plain(e) for n, e in row.items()} for m, row in c.differences.items()},
            }
            for c in results.comparisons
        ],
        "costs": [
            {"data": data, "method": method, "budget": budget, **vars(cost)}
            for (data, method, budget), cost in results.costs.items()
        ],
        "tuning": results.tuning,
    }


def _plain(estimate: Estimate) -> dict[str, float | int | None]:
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: round(v, 5) if math.isfinite(v) else None for name, v in numbers.items()} | {"seeds": estimate.seeds}
