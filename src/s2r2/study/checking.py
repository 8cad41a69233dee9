"""Before the first cell: everything in which one could fail that can be known by then, all of it at once."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s2r2.distributed.processes import Processes
from s2r2.encoder import store_side
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.protocols.register import find_protocols
from s2r2.images import PixelStore, open_source
from s2r2.images.grades import read_grades
from s2r2.images.store.direct import DIRECT
from s2r2.settings.values import Where
from s2r2.study.cell import training_source
from s2r2.study.plan import (
    RESULT_FILE,
    Cell,
    final_cells,
    has_diverged,
    merged_settings,
    settle,
    trained_on,
    tuning_cells,
)
from s2r2.study.spec import Study
from s2r2.study.tasks import check_tasks
from s2r2.system.console import PlainConsole
from s2r2.training.methods import build_method
from s2r2.training.parallel.sharding import refuse_what_cannot_be_sharded
from s2r2.training.run.trust import refuse_unnamed


def check_study(study: Study, out: Path | None = None) -> list[Cell]:
    """Look at the settings of all cells, the methods' options too, and at whether the data is there.

    Args:
        study: The study.
        out: Its folder; without it, or when nothing is left to be run there, the data is not looked for.

    Returns:
        All cells, with settings that tuning may change yet; none when nothing is left to be run.

    Raises:
        S2R2Error: All mistakes, with key and line; a method that is a file of code the user has not named is one.
    """
    mistakes = study.mistakes
    mistakes.found.clear()
    for row in study.methods:
        places: list[tuple[Where, dict[str, Any]]] = [(("methods", row), {})]
        places += [(("settings", data, row), rows[row]) for data, rows in study.settings.items() if row in rows]
        trials = study.tuning.settings(row) if study.tuning is not None else []
        places += [(("tuning", "search", row), tried) for tried in trials]
        for where, tried in places:
            try:
                refuse_settings(study, row, tried)
            except S2R2Error as error:
                mistakes.add_error(where, error)
                break  # a trial of it would say the same
    for protocol in study.protocols:
        try:
            refuse_unnamed(protocol, "the study", f"add `trust_methods=[{protocol!r}]`")
            find_protocols([protocol])
        except S2R2Error as error:
            mistakes.add_error(("protocols",), error)
    cells: list[Cell] = []
    if out is not None and not mistakes.found:
        planned = [*tuning_cells(study), *final_cells(study, study.settings)]
        finished = ((cell.folder(out) / RESULT_FILE).is_file() or has_diverged(cell, out) for cell in planned)
        cells = [] if all(finished) else planned
    for where, path in _paths(study) if cells or (out is not None and mistakes.found) else ():
        try:
            open_source(path)
        except S2R2Error as error:
            mistakes.add_error(where, error)
    mistakes.refuse()
    return cells


def refuse_settings(study: Study, method: str, tried: dict[str, Any]) -> None:
    """Look at the settings of one method, with those of a trial.

    Raises:
        S2R2Error: They cannot be, or the method is a file of code that the user has not named.
    """
    config = merged_settings(study, study.methods[method], tried, study.seeds[0])
    refuse_unnamed(config.method, "the study", f"add `trust_methods=[{config.method!r}]`")
    config = settle(config)
    build_method(config, config.batch_size)
    refuse_what_cannot_be_sharded(config, Processes())
    read_grades(config.grades)


def prepare_images(study: Study, cells: Sequence[Cell], out: Path, console: PlainConsole) -> None:
    """Decode all images once, before several cells want them, and check that they are enough and have labels.

    What cells in the study's folder ``out`` have been trained on already must be the same images.

    Raises:
        S2R2Error: All that is wrong with them.
    """
    mistakes, stores, seen = study.mistakes, dict[str, PixelStore | None](), set[tuple[str, int]]()
    mistakes.found.clear()
    for cell in cells:
        content = cell.content
        side, batch = store_side(content["config"]["image_size"]), content["config"]["batch_size"]
        key = json.dumps([content[k] for k in ("train", "copies", "tasks")] + [side])
        if key not in stores:
            stores[key] = _decoded(study, cell, side, console)
        store = stores[key]
        if store is None or content["untrained"]:
            continue
        before = trained_on(cell, out)
        if before and not before.startswith(DIRECT) and before not in (store.fingerprint, store.former_fingerprint):
            raise ArgumentError(
                f"{cell.folder(out)} was trained on other photos than {store.name} has now: choose another `out`, or "
                "delete what was trained on those"
            )
        if len(store) < batch and (key, batch) not in seen:
            message = f"batch_size {batch} is larger than {cell.data} ({len(store)} images)"
            mistakes.add(("methods", cell.method), message)
        seen.add((key, batch))
    mistakes.refuse()


def _decoded(study: Study, cell: Cell, side: int, console: PlainConsole) -> PixelStore | None:
    """The images a cell trains on, decoded now; None if something is wrong with them, which is then noted."""
    try:
        store = PixelStore.build(training_source(cell.content), side, progress=not console.quiet)
        check_tasks(cell.content["tasks"], side, cell.content.get("protocols", []), study.held_out)
    except S2R2Error as error:
        study.mistakes.add_error(("data", cell.data), error)
        return None
    console.say(f"images    {cell.data}: {len(store):,} to train on")
    return store


def _paths(study: Study) -> Iterator[tuple[Where, str]]:
    """The places of all data in the study, and what stands there."""
    for name, spec in study.data.items():
        yield from ((("data", name, "train"), path) for path in spec.train)
        for task, parts in spec.tasks.items():
            yield ("data", name, "tasks", task, "train"), parts.train
            yield ("data", name, "tasks", task, "test"), parts.test
