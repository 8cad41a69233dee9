"""A study as plain data: which methods, on which images, with which budget, judged how."""

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from s2r2.errors import S2R2Error

UNTRAINED = "untrained"
FIGURES = ("map", "knn", "linear")
_NOT_SHARED = ("seed", "steps", "epochs", "store", "device", "threads")


@dataclass(frozen=True)
class TaskSpec:
    """Labelled images to judge encoders by: ``train`` teaches kNN and the probe, ``test`` is judged."""

    train: str
    test: str


@dataclass(frozen=True)
class DataSpec:
    """Images to train on, without labels, and tasks by name to judge on.

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
        views: Encoded views of full size in a trial.
        figure: What decides: knn, linear or map, the mean over the tasks.
        held_out: Share of each task's training labels that is judged; its test images are never looked at.
        search: For each method, either a list of settings or lists of values of which combinations are drawn.
        seeds: Of each trial's runs, none of them a final seed; a trial counts with the mean over its seeds.
    """

    trials: int
    views: int
    search: dict[str, Any]
    figure: str = "knn"
    held_out: float = 0.25
    seeds: list[int] = field(default_factory=lambda: [1000])

    def settings(self, method: str) -> list[dict[str, Any]]:
        """The settings to try for a method.

        Raises:
            S2R2Error: There are fewer of them than trials.
        """
        space = self.search.get(method)
        if isinstance(space, list):
            candidates = space
        elif isinstance(space, Mapping) and all(isinstance(values, list) for values in space.values()):
            candidates = [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*space.values())]
            if len(candidates) > self.trials:
                chosen = np.random.default_rng(self.seeds[0]).permutation(len(candidates))[: self.trials]
                candidates = [candidates[i] for i in sorted(chosen)]
        else:
            raise S2R2Error(f"tuning: search.{method} must be a list of settings, or settings with lists of values")
        if len(candidates) != self.trials:
            raise S2R2Error(f"tuning: search.{method} has {len(candidates)} settings for {self.trials} trials")
        return candidates


@dataclass(frozen=True)
class Study:
    """What ``s2r2 compare`` is asked to do.

    Attributes:
        name: Title.
        data: Data sets by name.
        methods: Settings of each method by the name of its row, over ``config``.
        seeds: Of the final runs.
        views: Budgets: encoded views of full size, each with its own learning-rate schedule; small views count by
            their pixels.
        config: Settings of :class:`~s2r2.training.TrainConfig` that all share.
        reference: The method that the others are compared with; by default the first.
        tuning: How settings are chosen; None: they stand as they are.
        held_out: Share of the tasks' training labels that the final stage judges in the place of the test images:
            for a search, whose winner another study tests. 0: the test images.
        about: A paragraph for the reader.
    """

    name: str
    data: dict[str, DataSpec]
    methods: dict[str, dict[str, Any]]
    seeds: list[int]
    views: list[int]
    config: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    tuning: TuningSpec | None = None
    held_out: float = 0.0
    about: str = ""


def read_study(path: Path, root: Path | None = None) -> Study:
    """Read a study from YAML.

    Args:
        path: The file.
        root: Folder that relative paths of data start from; by default ``S2R2_DATA``, else the working folder.

    Raises:
        S2R2Error: It cannot be read, or asks for what cannot be; the message names the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        study = parse_study(content, root or Path(os.environ.get("S2R2_DATA", ".")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise S2R2Error(f"cannot read the study {path}: {str(error).splitlines()[0]}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise S2R2Error(f"the study {path} is not well formed: {error}") from error
    except S2R2Error as error:
        raise S2R2Error(f"the study {path}: {error}") from error
    return study


def parse_study(content: dict[str, Any], root: Path) -> Study:
    """A study from plain data, checked.

    Raises:
        S2R2Error: A key is unknown, or a value cannot be.
    """
    _known(content, Study, "the study")
    data = {name: _data(name, value, root) for name, value in content["data"].items()}
    tuning = None
    if content.get("tuning"):
        _known(content["tuning"], TuningSpec, "tuning")
        tuning = TuningSpec(**content["tuning"])
    study = Study(**{**content, "data": data, "tuning": tuning})
    _check(study)
    return study


def _data(name: str, value: dict[str, Any], root: Path) -> DataSpec:
    _known(value, DataSpec, f"data.{name}")
    train = value["train"] if isinstance(value["train"], list) else [value["train"]]
    tasks = {}
    for task, parts in value["tasks"].items():
        _known(parts, TaskSpec, f"data.{name}.tasks.{task}")
        tasks[task] = TaskSpec(_place(parts["train"], root), _place(parts["test"], root))
    return DataSpec([_place(part, root) for part in train], tasks, float(value.get("copies", 0.0)))


def _place(path: str, root: Path) -> str:
    """The path under the root if something is there, else as it is (a built-in name, an absolute path)."""
    under = root / path
    return str(under) if under.exists() or (root / path.rpartition(":")[0]).is_file() else path


def _known(values: Mapping[str, Any], kind: type, what: str) -> None:
    names = [f.name for f in fields(kind)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise S2R2Error(f"{what}: {', '.join(unknown)} is not among its keys ({', '.join(names)})")


def _check(study: Study) -> None:
    rules = [
        (bool(study.data) and bool(study.methods), "it needs data and methods"),
        (bool(study.seeds) and len(set(study.seeds)) == len(study.seeds), "seeds: give at least one, each once"),
        (bool(study.views) and min(study.views) > 0, "views: give at least one budget above 0"),
        (study.reference in ("", *study.methods), f"reference: {study.reference} is none of the methods"),
        (UNTRAINED not in study.methods, f"methods: {UNTRAINED} is judged in any case"),
        (all(d.tasks for d in study.data.values()), "data: each needs at least one task"),
        (0 <= study.held_out < 1, "held_out is a share between 0 and 1"),
        (study.tuning is None or not study.held_out, "tuning and held_out would judge the same images: leave one out"),
        (all(0 <= d.copies <= 1 for d in study.data.values()), "data: copies is a share between 0 and 1"),
    ]
    tuning = study.tuning
    if tuning is not None:
        rules += [
            (set(tuning.search) == set(study.methods), "tuning: search must name every method"),
            (tuning.trials >= 1 and tuning.views > 0, "tuning: trials and views must be above 0"),
            (tuning.figure in FIGURES, f"tuning: figure is one of {', '.join(FIGURES)}"),
            (0 < tuning.held_out < 1, "tuning: held_out is a share between 0 and 1"),
            (
                bool(tuning.seeds) and len(set(tuning.seeds)) == len(tuning.seeds),
                "tuning: seeds: at least one, each once",
            ),
            (not set(tuning.seeds) & set(study.seeds), "tuning: its seeds must not be among the final seeds"),
        ]
    for holds, message in rules:
        if not holds:
            raise S2R2Error(message)
    if tuning is not None:
        for method in study.methods:
            tuning.settings(method)
    for values in (study.config, *study.methods.values()):
        wrong = [name for name in _NOT_SHARED if name in values]
        if wrong:
            raise S2R2Error(f"{', '.join(wrong)} is set by the study itself: leave it out of config and methods")


def folder_name(name: str) -> str:
    """A name as a folder."""
    return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name).strip("-") or "unnamed"


def steps_for(views: int, pixels_per_step: int, image_size: int) -> int:
    """Steps whose encoded pixels come nearest to so many views of full size; at least one."""
    return max(1, math.floor(views * image_size**2 / pixels_per_step + 0.5))
