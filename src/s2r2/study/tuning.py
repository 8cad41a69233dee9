"""The tuning stage: which settings were best, whether they lie at an edge of those tried, and a step beyond it."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.study.cell import training_source
from s2r2.study.checking import refuse_settings
from s2r2.study.plan import Cell, has_diverged, is_done, tuning_cell
from s2r2.study.results import figure_names, read_scores
from s2r2.study.spec import DataSpec, Study
from s2r2.study.statistics import value_of
from s2r2.study.tasks import targets_of

Settings = dict[str, Any]


def choose_settings(study: Study, cells: list[Cell], out: Path) -> tuple[dict[str, dict[str, Settings]], Settings]:
    """The best settings of each method on each data set, and the record of all trials.

    A method with a trial that is not done is left out: what would be chosen now might not be in the end. A trial of
    which a run diverged is worse than all others; if every one did, nothing is chosen.

    Returns:
        By data set and method the chosen settings; and the same with every trial's settings and figure (None for one
        that diverged), and the names of chosen numbers that lie at the edge of those tried.
    """
    chosen: dict[str, dict[str, Settings]] = {data: {} for data in study.data}
    record: Settings = {data: {} for data in study.data}
    if study.tuning is None:
        return chosen, {}
    for data, spec in study.data.items():
        for method in study.methods:
            runs: dict[int, list[Cell]] = {}
            mine = [cell for cell in cells if cell.data == data and cell.method == method]
            if not all(is_done(cell, out) for cell in mine):
                continue
            for cell in mine:
                runs.setdefault(cell.trial, []).append(cell)
            tried = [runs[trial][0].content["settings"] for trial in sorted(runs)]
            values = [
                float(np.mean([_figure(cell, study.tuning.figure, spec, out) for cell in runs[trial]]))
                for trial in sorted(runs)
            ]
            best = tried[int(np.argmax(values))] if max(values) > -math.inf else None
            if best is not None:
                chosen[data][method] = best
            record[data][method] = {
                "chosen": best,
                "edges": [] if best is None else list(beyond_edges(tried, best)),
                "trials": [
                    {"settings": s, study.tuning.figure: round(v, 5) if math.isfinite(v) else None}
                    for s, v in zip(tried, values, strict=True)
                ],
            }
    return chosen, record


def wider_cells(study: Study, cells: list[Cell], out: Path) -> list[Cell]:
    """One more trial for each number of the best settings that lies at the edge of those tried, a step beyond it.

    What cannot be, such as a temperature that a method refuses or more images in a batch than there are, is left out.
    """
    assert study.tuning is not None
    chosen, _ = choose_settings(study, cells, out)
    more = []
    for data, methods in chosen.items():
        for method in methods:
            tried = study.tuning.settings(method)
            beyond = beyond_edges(tried, chosen[data][method]).values()
            possible = [settings for settings in beyond if _is_possible(study, data, method, settings)]
            more += [
                tuning_cell(study, data, method, seed, study.tuning.trials + number, settings)
                for seed in study.tuning.seeds
                for number, settings in enumerate(possible)
            ]
    return more


def _is_possible(study: Study, data: str, method: str, settings: Settings) -> bool:
    """Whether a trial that nobody has asked for could be run."""
    assert study.tuning is not None
    try:
        refuse_settings(study, method, settings)
    except S2R2Error:
        return False
    cell = tuning_cell(study, data, method, study.tuning.seeds[0], study.tuning.trials, settings)
    batch: int = cell.content["config"]["batch_size"]
    return "batch_size" not in settings or batch <= len(training_source(cell.content))


def beyond_edges(tried: list[Settings], best: Settings) -> dict[str, Settings]:
    """For each number of the best settings that is the smallest or largest of several tried: settings a step beyond.

    A step is the ratio of the two values at that edge, or their distance where one of them is not above 0. Whole
    numbers stay whole.
    """
    out = {}
    for name, value in _numbers(best).items():
        values = sorted({found[name] for found in map(_numbers, tried) if name in found})
        if len(values) < 2 or value not in (values[0], values[-1]):
            continue
        inner = values[1] if value == values[0] else values[-2]
        step = value * value / inner if min(value, inner) > 0 else 2 * value - inner
        further = round(step) if all(isinstance(v, int) for v in values) else float(f"{step:.4g}")
        settings = copy.deepcopy(best)
        place = settings["options"] if name.startswith("options.") else settings
        place[name.removeprefix("options.")] = further
        if settings not in tried:
            out[name] = settings
    return out


def _numbers(settings: Settings) -> dict[str, float]:
    """Settings that are numbers; those of the method itself as ``options.NAME``."""
    options = {f"options.{name}": value for name, value in settings.get("options", {}).items()}
    values = {**settings, **options}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _figure(cell: Cell, name: str, data: DataSpec, out: Path) -> float:
    """Mean of a figure over the tasks of a trial's run; of one that diverged, minus infinity."""
    if has_diverged(cell, out):
        return -math.inf
    scores = read_scores(cell, out)
    values = []
    for task in data.tasks:
        found = {
            there: value_of(scores[f"{task}/{there}"], targets_of(scores, task, there))
            for there in figure_names(scores, task)
        }
        usable = [there for there, value in found.items() if math.isfinite(value)]
        if not usable:
            raise S2R2Error(
                f"no figure can be given on {task} (n/a), so trials cannot be compared: give it more images"
            )
        if name not in usable:
            raise S2R2Error(
                f"tuning.figure {name}: the protocols give no such figure on {task}, or it is n/a there; use "
                f"{', '.join(usable)}"
            )
        values.append(found[name])
    return float(np.mean(values))
