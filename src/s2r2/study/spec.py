"""A study as plain data: which methods, on which images, with which budget, evaluated how."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import data_under
from s2r2.settings.renamed import with_current_names
from s2r2.settings.values import Mistakes, Where, fitted, plain, show
from s2r2.settings.yaml_documents import read_yaml
from s2r2.system.files import fitting_name
from s2r2.training.config import TrainConfig

UNTRAINED = "untrained"
FIGURES = ("map", "knn", "linear")
"""Of the usual protocols, by which trials can be compared."""
MOST_CELLS = 100_000
_NOT_SHARED = ("seed", "steps", "epochs", "minutes", "store", "device", "threads")


@dataclass(frozen=True)
class TaskSpec:
    """Labeled images to evaluate encoders on: kNN and the probe learn from ``train``."""

    train: str
    test: str


@dataclass(frozen=True)
class DataSpec:
    """Images to train on, without labels, and tasks by name to evaluate on.

    Attributes:
        train: Paths as :func:`s2r2.images.open_source` takes them.
        tasks: The final figures come from these.
        copies: Share of the training images that is added again, slightly changed (near-duplicates).
    """

    train: list[str]
    tasks: dict[str, TaskSpec]
    copies: float = 0.0


@dataclass(frozen=True)
class TuningSpec:
    """How settings are chosen before the final runs.

    Attributes:
        trials: Settings tried for each method and data set, the same number for all.
        budget: Encoded views of full size in a trial.
        figure: What decides: knn, linear or map, the mean over the tasks.
        held_out: Share of each task's training labels to evaluate on; its test images are never looked at.
        search: For each method, either a list of settings or lists of values of which combinations are drawn.
        seeds: Of each trial's runs, none of them a final seed; a trial counts with the mean over its seeds.
        widen: Whether a method whose best trial has a number at the edge of those tried gets one more trial, a step
            beyond that edge: as far in proportion as the two values next to it are apart.
    """

    trials: int
    budget: int
    search: dict[str, Any]
    figure: str = "knn"
    held_out: float = 0.25
    seeds: list[int] = field(default_factory=lambda: [1000])
    widen: bool = False

    def settings(self, method: str) -> list[dict[str, Any]]:
        """The settings to try for a method.

        Raises:
            S2R2Error: There are fewer of them than trials, or two are the same.
        """
        space = self.search.get(method)
        if isinstance(space, list):
            candidates = space
        elif isinstance(space, Mapping) and all(isinstance(values, list) for values in space.values()):
            if math.prod(map(len, space.values())) > MOST_CELLS:
                raise S2R2Error(f"more than {MOST_CELLS:,} combinations: give fewer values")
            candidates = [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*space.values())]
            if len(candidates) > self.trials:
                chosen = np.random.default_rng(self.seeds[0]).permutation(len(candidates))[: self.trials]
                candidates = [candidates[i] for i in sorted(chosen)]
        else:
            raise S2R2Error("must be a list of settings, or settings with lists of values")
        if len(candidates) != self.trials:
            raise S2R2Error(f"has {len(candidates)} settings for {self.trials} trials")
        for number, tried in enumerate(candidates):
            if tried in candidates[:number]:
                raise S2R2Error(f"{show(tried)} would be tried twice: give other settings in its place")
        return candidates


@dataclass(frozen=True)
class Study:
    """What ``s2r2 compare`` is asked to do.

    Attributes:
        name: Title.
        data: Data sets by name.
        methods: Settings of each method by the name of its row, over ``config``.
        seeds: Of the final runs.
        budgets: Encoded views of full size in a run, each with its own learning-rate schedule; small views count by
            their pixels.
        config: Settings of :class:`~s2r2.training.TrainConfig` that all share.
        reference: The method that the others are compared with; by default the first.
        differences: Pairs of methods whose difference is given as well: the first less the second.
        settings: By data set and method, what an earlier study's tuning has chosen there; over those of ``methods``.
        tuning: How settings are chosen; None: they stand as they are.
        held_out: Share of the tasks' training labels to evaluate the final stage on in place of the test images:
            for a search, whose winner another study tests. 0: the test images.
        protocols: What encoders are evaluated by beside the usual protocols, by name or as ``FILE.py``.
        about: A paragraph for the reader.
    """

    name: str
    data: dict[str, DataSpec]
    methods: dict[str, dict[str, Any]]
    seeds: list[int]
    budgets: list[int]
    config: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    differences: list[list[str]] = field(default_factory=list)
    settings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuning: TuningSpec | None = None
    held_out: float = 0.0
    protocols: list[str] = field(default_factory=list)
    about: str = ""
    mistakes: Mistakes = field(default_factory=lambda: Mistakes("the study"), init=False, repr=False, compare=False)
    """Knows the lines of the file that the study was read from."""


def read_study(path: Path, root: Path | None = None) -> Study:
    """Read a study from YAML.

    Args:
        path: The file.
        root: Folder that relative paths of data start from; by default ``S2R2_DATA``, else the working folder.

    Raises:
        S2R2Error: It cannot be read, or asks for what cannot be: all mistakes, with key and line; or there is no such
            folder.
    """
    folder = root or Path(os.environ.get("S2R2_DATA") or ".")
    if not folder.is_dir():
        given = "`data`" if root else "S2R2_DATA"
        raise ArgumentError(f"{given}: there is no folder {folder}: give the one that the study's images are in")
    content, mistakes = read_yaml(path)
    return parse_study(content, folder, mistakes)


def parse_study(content: Any, root: Path, mistakes: Mistakes | None = None) -> Study:
    """A study from plain data, checked.

    Args:
        content: The data.
        root: Folder that relative paths of data start from.
        mistakes: Those of the file it was read from.

    Raises:
        S2R2Error: Keys are unknown, or values cannot be: all of them.
    """
    found = mistakes or Mistakes("the study")
    values = plain(content)
    if isinstance(values, dict):
        values = _with_current_keys(values, found)
        values = {**values, "data": _with_lists(values.get("data"))}
        _check_settings(values, found)
    study: Study | None = fitted(values, Study, found)
    if study is not None:
        _check(study, found)
    found.refuse()
    assert study is not None
    data = {name: _placed(spec, root) for name, spec in study.data.items()}
    study = dataclasses.replace(study, data=data)
    object.__setattr__(study, "mistakes", found)
    return study


def only_with(study: Study, names: Sequence[str]) -> Study:
    """The study on some of its data sets.

    Raises:
        S2R2Error: It has no data set of such a name.
    """
    for name in names:
        if name not in study.data:
            raise ArgumentError(f"`only`: the study has no data set {show(name)}: use {', '.join(study.data)}")
    return dataclasses.replace(
        study,
        data={name: spec for name, spec in study.data.items() if name in names},
        settings={name: rows for name, rows in study.settings.items() if name in names},
    )


def _with_current_keys(values: dict[str, Any], mistakes: Mistakes) -> dict[str, Any]:
    """The study under the keys of this version; mistakes in values of former keys keep their lines."""
    lines = mistakes.lines
    lines |= {("budgets", *where[1:]): line for where, line in lines.items() if where[:1] == ("views",)}
    lines[("tuning", "budget")] = lines.get(("tuning", "views"), lines.get(("tuning", "budget"), 1))
    values = with_current_names(values, {"views": "budgets"}, announced=True)
    if isinstance(tuning := values.get("tuning"), dict):
        values["tuning"] = with_current_names(tuning, {"views": "budget"}, announced=True)
    return values


def _with_lists(data: Any) -> Any:
    """``train`` may be a single path."""
    if not isinstance(data, dict):
        return data
    return {
        name: {**spec, "train": [spec["train"]]}
        if isinstance(spec, dict) and isinstance(spec.get("train"), str)
        else spec
        for name, spec in data.items()
    }


def _placed(spec: DataSpec, root: Path) -> DataSpec:
    tasks = {
        name: TaskSpec(data_under(root, task.train), data_under(root, task.test)) for name, task in spec.tasks.items()
    }
    return DataSpec([data_under(root, part) for part in spec.train], tasks, spec.copies)


def _check_settings(values: dict[str, Any], mistakes: Mistakes) -> None:
    """Types and ranges of all settings of training, wherever they stand."""
    parts: list[tuple[Any, Where]] = [(values.get("config", {}), ("config",))]
    methods = values.get("methods")
    parts += [(part, ("methods", name)) for name, part in methods.items()] if isinstance(methods, dict) else []
    chosen = values.get("settings")
    for data, rows in chosen.items() if isinstance(chosen, dict) else ():
        parts += [(part, ("settings", data, name)) for name, part in rows.items()] if isinstance(rows, dict) else []
    tuning = values.get("tuning")
    search = tuning.get("search") if isinstance(tuning, dict) else None
    for name, space in search.items() if isinstance(search, dict) else ():
        where: Where = ("tuning", "search", name)
        if isinstance(space, list):
            parts += [(settings, (*where, number)) for number, settings in enumerate(space)]
        elif isinstance(space, dict):
            parts += [({key: one}, where) for key, tried in space.items() if isinstance(tried, list) for one in tried]
    for settings, where in parts:
        if isinstance(settings, dict):
            with_current_names(settings, announced=True)
        TrainConfig.from_dict(settings, mistakes, where)
        for name in _NOT_SHARED if isinstance(settings, dict) else ():
            if name in settings:
                mistakes.add((*where, name), f"{name} is set by the study itself: leave it out")


def _check(study: Study, mistakes: Mistakes) -> None:
    tuning = study.tuning
    rules: list[tuple[bool, Where, str]] = [
        (bool(study.data) and bool(study.methods), (), "it needs data and methods"),
        (study.reference in ("", *study.methods), ("reference",), f"{show(study.reference)} is none of the methods"),
        *[
            (
                len(pair) == 2 and pair[0] != pair[1] and set(pair) <= {UNTRAINED, *study.methods},
                ("differences", number),
                f"{show(pair)} must be the names of two methods",
            )
            for number, pair in enumerate(study.differences)
        ],
        (UNTRAINED not in study.methods, ("methods",), f"{UNTRAINED} is evaluated in any case"),
        (0 <= study.held_out < 1, ("held_out",), "must be a share between 0 and 1"),
        (tuning is None or not study.held_out, (), "tuning and held_out would use the same images: leave one out"),
        (tuning is None or not study.settings, ("settings",), "tuning would choose them anew: leave one out"),
        *[
            (data in study.data, ("settings", data), f"{show(data)} is none of the data sets")
            for data in study.settings
        ],
        *[
            (name in study.methods, ("settings", data, name), f"{show(name)} is none of the methods")
            for data, rows in study.settings.items()
            for name in rows
        ],
        *_seeds_and_budgets(study.seeds, study.budgets, (), "budgets"),
        *[(bool(spec.tasks), ("data", name), "it needs at least one task") for name, spec in study.data.items()],
        *[(bool(spec.train), ("data", name, "train"), "it needs images") for name, spec in study.data.items()],
        *[
            ("/" not in task, ("data", name, "tasks", task), "a task's name has no /")
            for name, spec in study.data.items()
            for task in spec.tasks
        ],
        *[
            (0 <= spec.copies <= 1, ("data", name, "copies"), "must be a share between 0 and 1")
            for name, spec in study.data.items()
        ],
    ]
    named: list[tuple[Where, Iterable[str]]] = [(("methods",), study.methods), (("data",), study.data)]
    named += [(("data", name, "tasks"), spec.tasks) for name, spec in study.data.items()]
    for part, names in named:
        folders = [folder_name(name) for name in names]
        rules += [
            (
                folders.count(folder_name(name)) == 1,
                (*part, name),
                f"another one has the same folder {folder_name(name)}",
            )
            for name in names
        ]
    if tuning is not None:
        rules += [
            (set(tuning.search) == set(study.methods), ("tuning", "search"), "must name every method, and no other"),
            (1 <= tuning.trials <= MOST_CELLS, ("tuning", "trials"), f"must be 1 to {MOST_CELLS:,}"),
            (
                bool(study.protocols) or tuning.figure in FIGURES,
                ("tuning", "figure"),
                f"use {', '.join(FIGURES)}",
            ),
            (0 < tuning.held_out < 1, ("tuning", "held_out"), "must be a share between 0 and 1"),
            (not set(tuning.seeds) & set(study.seeds), ("tuning", "seeds"), "must not be among the final seeds"),
            *_seeds_and_budgets(tuning.seeds, [tuning.budget], ("tuning",), "budget"),
        ]
    for holds, where, message in rules:
        if not holds:
            mistakes.add(where, message)
    for method in study.methods if tuning is not None and not mistakes.found else ():
        assert tuning is not None
        try:
            tuning.settings(method)
        except S2R2Error as error:
            mistakes.add_error(("tuning", "search", method), error)


def _seeds_and_budgets(seeds: list[int], budgets: list[int], where: Where, key: str) -> list[tuple[bool, Where, str]]:
    return [
        (0 < len(set(seeds)) == len(seeds) <= MOST_CELLS, (*where, "seeds"), "give at least one, each once"),
        (all(0 <= seed < 1 << 63 for seed in seeds), (*where, "seeds"), "must be at least 0 and below 2^63"),
        (
            0 < len(set(budgets)) == len(budgets) and all(0 < budget < 1 << 50 for budget in budgets),
            (*where, key),
            "give at least one budget above 0, each once",
        ),
    ]


def folder_name(name: str) -> str:
    """A name as a folder."""
    folder = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name).strip("-")
    return fitting_name(folder) if folder.strip(".") else "unnamed"
