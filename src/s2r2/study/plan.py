"""The cells of a study: one training run and its evaluation each, as plain data."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import absolute_data
from s2r2.runs import RunFolder
from s2r2.settings.renamed import with_current_names
from s2r2.study.spec import UNTRAINED, Study, folder_name
from s2r2.system.code_files import is_code_file
from s2r2.system.console import PlainConsole
from s2r2.training import TrainConfig
from s2r2.training.methods import resolve
from s2r2.training.setup.encoder import with_recipe, with_start
from s2r2.views import RECIPES, get_recipe, view_sizes

_COSTS = ("pixels", "seconds", "steps", "peak_memory")
CELL_FILE, RESULT_FILE, SCORES_FILE, RUN_FOLDER = "cell.json", "judged.json", "scores.npz", "run"
DIVERGED_FILE = "diverged.json"
"""What a cell was whose loss, or whose encoder's embeddings, were no numbers."""
_HELD = ("files", "recipe")
"""What files that a cell names held: earlier versions did not write it down."""


@dataclass(frozen=True)
class Cell:
    """A run to be made and evaluated.

    Attributes:
        stage: tuning or final.
        data: Name of the data set.
        method: Name of the row.
        seed: Of the run.
        budget: Encoded views of full size.
        trial: Number of the settings tried; -1 in the final stage.
        content: All that decides the result, as it is written into ``cell.json``.
    """

    stage: str
    data: str
    method: str
    seed: int
    budget: int
    trial: int
    content: dict[str, Any]

    def folder(self, out: Path) -> Path:
        """Where the cell lives in the study's folder."""
        last = f"trial-{self.trial}-seed-{self.seed}" if self.stage == "tuning" else f"{self.budget}-seed-{self.seed}"
        return out / self.stage / folder_name(self.data) / folder_name(self.method) / last

    @property
    def title(self) -> str:
        """For people."""
        which = f"trial {self.trial + 1}, seed {self.seed}" if self.stage == "tuning" else f"seed {self.seed}"
        return f"{self.stage}  {self.data}  {self.method}, {self.budget:,} views, {which}"


def tuning_cells(study: Study) -> list[Cell]:
    """A cell for every seed of every trial of every method on every data set; none where nothing is tuned."""
    tuning = study.tuning
    if tuning is None:
        return []
    return [
        tuning_cell(study, data, method, seed, trial, settings)
        for seed in tuning.seeds
        for trial in range(tuning.trials)
        for method in study.methods
        for data in study.data
        for settings in [tuning.settings(method)[trial]]
    ]


def tuning_cell(study: Study, data: str, method: str, seed: int, trial: int, settings: dict[str, Any]) -> Cell:
    """One run of one trial."""
    assert study.tuning is not None
    return _cell(study, "tuning", data, method, seed, study.tuning.budget, trial, settings)


def final_cells(study: Study, chosen: dict[str, dict[str, dict[str, Any]]]) -> list[Cell]:
    """The cells of the final table, seed by seed, so that an unfinished study has whole rows.

    Args:
        study: The study.
        chosen: By data set and method: the settings that tuning chose.
    """
    return [
        _cell(study, "final", data, method, seed, budget, -1, chosen.get(data, {}).get(method, {}))
        for seed in study.seeds
        for budget in study.budgets
        for method in [UNTRAINED, *study.methods]
        for data in study.data
        if method != UNTRAINED or budget == study.budgets[0]
    ]


def is_done(cell: Cell, out: Path) -> bool:
    """Whether the cell has been run and evaluated, or is a trial that has diverged.

    Raises:
        S2R2Error: It was run with other settings than the study now asks for.
    """
    path = cell.folder(out) / RESULT_FILE
    if not path.is_file():
        return has_diverged(cell, out)
    if changed := ", ".join(changes(read_result(path)["cell"], cell.content)):
        raise ArgumentError(
            f"{path.parent} was run with another {changed}: choose another `out`, or delete that folder to run it again"
        )
    return True


def has_diverged(cell: Cell, out: Path) -> bool:
    """Whether a trial has ended in numbers that are not finite: it would again, so that is a result, the worst one."""
    try:
        text = (cell.folder(out) / DIVERGED_FILE).read_text(encoding="utf-8")
        return cell.stage == "tuning" and not changes(with_all_settings(json.loads(text)), cell.content)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_result(path: Path) -> dict[str, Any]:
    """What a cell has written down of itself: ``cell`` and ``costs``.

    Raises:
        S2R2Error: The file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        costs, cell = content["costs"], content["cell"]
        if all(isinstance(costs[name], int | float) for name in _COSTS) and isinstance(cell["config"], dict):
            return {**content, "cell": with_all_settings(cell)}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise damaged(path)


def trained_on(cell: Cell, out: Path) -> str:
    """Hash of the photos that a finished cell was trained on; empty where none is known."""
    path = cell.folder(out) / RESULT_FILE
    return str(read_result(path).get("photos", "")) if path.is_file() else ""


def damaged(path: Path) -> S2R2Error:
    """What to say of a cell's file that is gone or not what was written."""
    return S2R2Error(f"{path} is damaged: delete {path.parent} to run it again")


def with_all_settings(content: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote of a cell, with the settings that are newer: as they were."""
    return {**content, "config": {**_of_cells(TrainConfig()), **with_current_names(content["config"])}}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what decides a cell's result and is not as it was; what an earlier version did not note is left out."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # paths may stand there as the study had them
        tasks = {name: {k: absolute_data(v) for k, v in parts.items()} for name, parts in before["tasks"].items()}
        before = {**before, "train": [absolute_data(part) for part in before["train"]], "tasks": tasks}
    now = {name: value for name, value in now.items() if name in before or name not in _HELD}
    return sorted(set(_differences(before, now))) if before != now else []


def _cell(
    study: Study, stage: str, data: str, method: str, seed: int, budget: int, trial: int, settings: dict[str, Any]
) -> Cell:
    images = study.data[data]
    untrained = method == UNTRAINED
    config = _config(study, {} if untrained else study.methods[method], settings, seed, budget)
    content = {
        "train": images.train,
        "copies": images.copies,
        "tasks": {name: dataclasses.asdict(task) for name, task in images.tasks.items()},
        "held_out": study.tuning.held_out if study.tuning is not None and stage == "tuning" else study.held_out,
        "untrained": untrained,
        "config": _of_cells(config),
        "settings": settings,
        **({"protocols": study.protocols} if study.protocols else {}),
        **({} if config.recipe in RECIPES else {"recipe": get_recipe(config.recipe).to_dict()}),
        **({"files": files} if (files := _hashes([config.method, *study.protocols], config.start)) else {}),
    }
    return Cell(stage, data, method, seed, budget, trial, json.loads(json.dumps(content)))


def _of_cells(config: TrainConfig) -> dict[str, Any]:
    """The settings that a cell is known by."""
    return {name: value for name, value in config.to_dict().items() if name not in ("store", "device")}


def _hashes(code: list[str], start: str) -> dict[str, str]:
    """Of files of code and of an encoder to start from: a result is that of what they held."""
    files = {name: Path(name) for name in code if is_code_file(name)}
    encoder = RunFolder(start).encoder_file if Path(start).is_dir() else Path(start)
    if start and encoder.is_file():
        files[start] = encoder
    about = {name: path.stat() for name, path in files.items()}
    return {name: _hash(path, about[name].st_size, about[name].st_mtime_ns) for name, path in files.items()}


@functools.lru_cache
def _hash(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _config(study: Study, method: dict[str, Any], settings: dict[str, Any], seed: int, budget: int) -> TrainConfig:
    """The resolved config whose steps use up the budget."""
    config = settle(merged_settings(study, method, settings, seed))
    sizes = view_sizes(get_recipe(config.recipe), config.image_size, config.views)
    steps = steps_for(budget, config.batch_size * sum(size**2 for size in sizes), full_size(study))
    return dataclasses.replace(config, steps=steps)


def full_size(study: Study) -> int:
    """Side of the views that budgets and costs count in: that of the config which all rows share."""
    return settle(merged_settings(study, {}, {}, study.seeds[0])).image_size


def settle(config: TrainConfig) -> TrainConfig:
    """The config as a run will have it: what its encoder to start from, its method and its backbone decide filled in.

    Raises:
        S2R2Error: It cannot be.
    """
    text = json.dumps({**config.to_dict(), "seed": 0}, sort_keys=True)
    return dataclasses.replace(_settled(text, config.given), seed=config.seed)


@functools.lru_cache(maxsize=1024)
def _settled(text: str, given: frozenset[str]) -> TrainConfig:
    """As :func:`settle`; an encoder to start from is read once for all cells."""
    quiet = PlainConsole(quiet=True)
    config, _ = with_start(TrainConfig.from_dict(json.loads(text)), given, quiet)
    return with_recipe(resolve(config), config.recipe, quiet)


def steps_for(budget: int, pixels_per_step: int, side: int) -> int:
    """Steps whose encoded pixels come nearest to so many views of full size; at least one."""
    return max(1, math.floor(budget * side**2 / pixels_per_step + 0.5))


def merged_settings(study: Study, method: dict[str, Any], settings: dict[str, Any], seed: int) -> TrainConfig:
    """What all share, with a method's settings and those of a trial on top."""
    values: dict[str, Any] = {}
    for part in (study.config, method, settings):
        options = {**values.get("options", {}), **part.get("options", {})}
        values = {**values, **part, "options": options}
    config = TrainConfig.from_dict({**values, "seed": seed})
    return config.only([*with_current_names(values), "seed"])


def _differences(before: Any, now: Any, name: str = "setting") -> Iterator[str]:
    """Names of the innermost values that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            if before.get(key) != now.get(key):
                yield from _differences(before.get(key), now.get(key), key)
    else:
        yield name
