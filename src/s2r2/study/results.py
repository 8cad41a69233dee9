"""From evaluated cells to figures, differences and costs, as plain data."""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.study.claims import read_failure
from s2r2.study.plan import RESULT_FILE, RUN_FOLDER, SCORES_FILE, Cell, damaged, full_size, is_done, read_result
from s2r2.study.spec import UNTRAINED, Study
from s2r2.study.statistics import Estimate, estimate, holm, resampled_run
from s2r2.study.tasks import TARGETS, targets_of

TITLES = {"map": "mAP", "knn": "kNN", "linear": "linear"}
"""Of figures in cells of earlier versions, which did not write them down."""
_NO_FIGURES = (TARGETS, "effective_rank")  # the second: in cells of earlier versions

GALLERY_FIXED = (
    "The mAP intervals hold the ranked images fixed, as the earlier version did that evaluated some of these runs, and "
    "are 2 to 3 times too narrow."
)

Scores = Mapping[str, np.ndarray]


@dataclass
class Comparison:
    """Figures of one task at one budget.

    Attributes:
        data: Name of the data set.
        task: Name of the task.
        budget: Encoded views of full size.
        several: Whether images have several labels: kNN and linear are then mean AP over labels.
        images: Test images.
        titles: Of the figures, by name.
        explanations: Likewise; cells of earlier versions have none.
        notes: What a reader must know to read the figures.
        figures: By method and figure.
        differences: Reference minus the method, by method and figure; paired by seed and image.
        pairs: The differences that the study asks for beside those, by the two methods and figure.
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
    pairs: dict[tuple[str, str], dict[str, Estimate]] = field(default_factory=dict)


@dataclass
class Costs:
    """What a run of a method cost, mean over seeds: views of full size encoded, seconds of training, peak bytes."""

    views: float
    seconds: float
    memory: float
    seeds: int


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run the last time: its title, the last line of its error, and its folder."""

    title: str
    reason: str
    folder: str


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
    failures: list[Failure] = field(default_factory=list)
    """Of trials and of final cells."""

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return self.study.reference or next(iter(self.study.methods))

    @property
    def differences(self) -> list[Estimate]:
        """All differences of all comparisons that have an interval, those of the same two methods once."""
        return [gaps[0] for gaps in self._by_pair]

    @property
    def no_chance(self) -> set[Estimate]:
        """Those that Holm's correction for all of them leaves."""
        kept = holm([gap.p_value for gap in self.differences])
        return {gap for gaps, holds in zip(self._by_pair, kept, strict=True) if holds for gap in gaps}

    @property
    def _by_pair(self) -> list[list[Estimate]]:
        """Of each pair of methods and figure the difference, and its opposite where a study asks for that as well."""
        found: dict[tuple[int, frozenset[str], str], list[Estimate]] = {}
        for number, c in enumerate(self.comparisons):
            rows = [((self.reference, method), row) for method, row in c.differences.items()]
            for pair, row in [*rows, *c.pairs.items()]:
                for name, gap in row.items():
                    if math.isfinite(gap.p_value):
                        found.setdefault((number, frozenset(pair), name), []).append(gap)
        return list(found.values())


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
            scores = {(c.method, c.seed): read_scores(c, out) for c in chosen}
            records = [_result(c, out) for c in chosen]
            for task in spec.tasks if scores else ():
                found = [record["tasks"][task] for record in records if "tasks" in record]
                refuse_other_images([s[f"{task}/{TARGETS}"] for s in scores.values()], found)
                comparison = _comparison(data, task, budget, scores, found)
                _compare(comparison, study, results.reference, scores)
                results.comparisons.append(comparison)
            for method in study.methods:
                mine = [record for cell, record in zip(chosen, records, strict=True) if cell.method == method]
                if mine:
                    results.costs[data, method, budget] = _costs(mine, full_size(study))
        for method in study.methods:
            runs = [c for c in done if c.data == data and c.method == method and c.budget == max(study.budgets)]
            results.curves[data, method] = [curve for c in runs if len(curve := _curve(c, out))]
    return results


def find_failures(cells: list[Cell], out: Path) -> list[Failure]:
    """Those of cells that have failed and were not done since."""
    found = [(cell, cell.folder(out)) for cell in cells]
    return [
        Failure(cell.title.replace("  ", ", "), reason, str(folder))
        for cell, folder in found
        if (reason := read_failure(folder)) and not is_done(cell, out)
    ]


def figure_names(scores: Scores, task: str) -> list[str]:
    """Names of a task's figures."""
    found = [name.removeprefix(f"{task}/") for name in scores if name.startswith(f"{task}/")]
    return [name for name in found if name not in _NO_FIGURES and not name.startswith(f"{TARGETS} ")]


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
    names = [name for name in figure_names(first, task) if all(f"{task}/{name}" in other for other in scores.values())]
    figures: dict[str, Any] = records[0]["figures"] if records else {}
    notes = [note for record in records for note in record["notes"]]
    if "map" in names and not (len(records) == len(scores) and all(r.get("gallery_resampled") for r in records)):
        notes.append(GALLERY_FIXED)
    return Comparison(
        data,
        task,
        budget,
        targets.ndim == 2,
        len(targets),
        {name: figures[name]["title"] if name in figures else TITLES.get(name, name) for name in names},
        {name: figures[name]["explanation"] for name in names if name in figures},
        list(dict.fromkeys(notes)),
    )


def _compare(comparison: Comparison, study: Study, reference: str, scores: Mapping[tuple[str, int], Scores]) -> None:
    """Fill a comparison with figures and differences."""
    for name in comparison.titles:
        draws = {
            key: resampled_run(found[f"{comparison.task}/{name}"], targets_of(found, comparison.task, name))
            for key, found in scores.items()
        }

        def less(first: str, second: str, draws: Mapping[tuple[str, int], np.ndarray] = draws) -> Estimate | None:
            shared = [seed for seed in study.seeds if (first, seed) in draws and (second, seed) in draws]
            return estimate([draws[first, seed] - draws[second, seed] for seed in shared]) if shared else None

        for method in [UNTRAINED, *study.methods]:
            if seeds := [seed for seed in study.seeds if (method, seed) in draws]:
                found = estimate([draws[method, seed] for seed in seeds])
                comparison.figures.setdefault(method, {})[name] = found
            if method != reference and (gap := less(reference, method)):
                comparison.differences.setdefault(method, {})[name] = gap
        for first, second in study.differences:
            if gap := less(first, second):
                comparison.pairs.setdefault((first, second), {})[name] = gap


def read_scores(cell: Cell, out: Path) -> dict[str, np.ndarray]:
    """What a cell's evaluation left for resampling, by task and figure.

    Raises:
        S2R2Error: The file is gone or damaged.
    """
    path = cell.folder(out) / SCORES_FILE
    try:
        with np.load(path) as content:
            scores = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path) from error
    if not all(f"{task}/{TARGETS}" in scores for task in cell.content["tasks"]):
        raise damaged(path)
    return scores


def refuse_other_images(labels: list[np.ndarray], records: list[dict[str, Any]]) -> None:
    """Look at whether cells were evaluated on the same images: their labels, and their hashes where they are known.

    Raises:
        S2R2Error: They were not, so that no figure of one can be compared with that of another.
    """
    hashes = [record["images"] for record in records if "images" in record]
    if not all(np.array_equal(labels[0], other) for other in labels) or any(one != hashes[0] for one in hashes):
        raise S2R2Error("runs of a study were evaluated on different images or labels: choose another `out`")


def _result(cell: Cell, out: Path) -> dict[str, Any]:
    return read_result(cell.folder(out) / RESULT_FILE)


def _costs(results: list[dict[str, Any]], size: int) -> Costs:
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
    """Plain values for JSON: every figure as value, low, high (None where not known), and seeds.

    ``images`` is half of the interval over test images alone, which a table gives a single seed in brackets;
    ``certain``, of a difference, whether Holm's correction for all ``differences`` of the study leaves it.
    """
    kept = results.no_chance

    def gaps(row: Mapping[str, Estimate]) -> dict[str, Any]:
        return {name: {**_plain(gap), "certain": gap in kept} for name, gap in row.items()}

    return {
        "study": results.study.name,
        "reference": results.reference,
        "differences": len(results.differences),
        "cells": results.cells,
        "done": results.done,
        "failures": [vars(failure) for failure in results.failures],
        "comparisons": [
            {
                "data": c.data,
                "task": c.task,
                "budget": c.budget,
                "images": c.images,
                "several_labels": c.several,
                "titles": c.titles,
                "explanations": c.explanations,
                "notes": c.notes,
                "figures": {m: {n: _plain(e) for n, e in row.items()} for m, row in c.figures.items()},
                "differences": {m: gaps(row) for m, row in c.differences.items()},
                "pairs": [
                    {"first": first, "second": second, "figures": gaps(row)} for (first, second), row in c.pairs.items()
                ],
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
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "images": estimate.images}
    return {name: round(v, 5) if math.isfinite(v) else None for name, v in numbers.items()} | {"seeds": estimate.seeds}
