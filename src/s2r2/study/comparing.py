"""``s2r2 compare``: tune, run, evaluate, and write down what was found so far."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from s2r2.encoder import store_side
from s2r2.errors import S2R2Error
from s2r2.images import PixelStore
from s2r2.study.cell import training_source
from s2r2.study.plan import Cell, check_cells, final_cells, is_done, tuning_cells
from s2r2.study.report_page import write_page
from s2r2.study.results import Results, collect, to_dict
from s2r2.study.scheduling import Scheduler
from s2r2.study.spec import Study, folder_name, read_study
from s2r2.study.tables import to_markdown
from s2r2.study.tasks import check_tasks
from s2r2.study.tuning import choose_settings, wider_cells
from s2r2.system.console import PlainConsole
from s2r2.system.files import make_folder, write_text
from s2r2.system.locking import LOCK, locked
from s2r2.training.run.trust import name_method


def compare(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    minutes: float | None = None,
    processes: int = 0,
    trust_methods: Sequence[str | Path] = (),
    quiet: bool = False,
) -> Results:
    """Compare methods side by side: same images, encoder and encoded pixels; tuned alike; several seeds.

    Every run is a cell in a folder of its own. A call does what is not done yet, so an interrupted study, even one
    that was killed, goes on with the same call; the tables hold what there is so far.

    Args:
        study: A ``.yaml`` file, see docs/study.md, or the study itself.
        out: The study's folder; by default ``runs/NAME``.
        data: Folder that paths of images in the file start from; by default ``S2R2_DATA``, else the working folder.
        minutes: Stop after about so long, saving; call again to go on.
        processes: Runs at once; 0: one for each GPU, without GPUs one for each core.
        trust_methods: Files of code that the study names, as methods or protocols, and that may run; once named, they
            may always.
        quiet: Print nothing.

    Returns:
        What was found so far; ``table.md``, ``results.json``, plots and ``study.html`` in the folder say it as well.

    Raises:
        S2R2Error: The study is not well formed, its images are not there, or a run cannot work.
    """
    began = time.monotonic()
    deadline = began + 60 * minutes if minutes is not None else math.inf
    console = PlainConsole(quiet=quiet)
    spec = study if isinstance(study, Study) else read_study(Path(study), Path(data) if data else None)
    folder = Path(out) if out else Path("runs") / folder_name(spec.name)
    for method in trust_methods:
        name_method(str(method))
    check_cells(spec)
    try:
        make_folder(folder)
        doing = f"running the study in {folder}"
        with locked(folder / LOCK, doing, "wait for it, or choose another `out`", wait=5):
            return _compare(spec, folder, deadline, processes, console)
    except OSError as error:
        raise S2R2Error(f"cannot write to {folder}: {error.strerror or error}; choose another `out`") from error


def _compare(study: Study, folder: Path, deadline: float, processes: int, console: PlainConsole) -> Results:
    scheduler = Scheduler(folder, processes, deadline, console)
    trials = tuning_cells(study)
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    record: dict[str, Any] = {}
    planned = [*trials, *final_cells(study, {})]
    if any(not is_done(cell, folder) for cell in trials) or not (folder / "results.json").exists():
        _prepare_images(planned, console)
    tuned = scheduler.run(trials)
    if study.tuning is not None and study.tuning.widen and tuned and (more := wider_cells(study, trials, folder)):
        trials += more
        tuned = scheduler.run(trials)
    if trials and tuned:
        chosen, record = choose_settings(study, trials, folder)
        plain = json.loads(json.dumps(record))  # no aliases for settings that occur twice
        write_text(folder / "tuning.yaml", yaml.safe_dump(plain, sort_keys=False))
    cells = final_cells(study, chosen)
    try:
        if tuned:
            scheduler.run(cells)
    finally:  # whatever stopped it, the tables hold what there is
        results = collect(study, cells, folder, record) if tuned else Results(study, len(cells), 0)
        _write(results, folder)
    _close(results, len(trials), sum(is_done(c, folder) for c in trials), folder, console)
    return results


def _prepare_images(cells: list[Cell], console: PlainConsole) -> None:
    """Decode all images once, before several cells want them, and check that the tasks have labels."""
    seen = set()
    for cell in cells:
        content, side = cell.content, store_side(cell.content["config"]["image_size"])
        key = json.dumps([content[k] for k in ("train", "copies", "tasks")] + [side, content["config"]["batch_size"]])
        if key not in seen:
            seen.add(key)
            store = PixelStore.build(training_source(content), side, progress=not console.quiet)
            if len(store) < (batch := content["config"]["batch_size"]):
                raise S2R2Error(f"{cell.method}: batch_size {batch} is larger than {cell.data} ({len(store)} images)")
            check_tasks(content["tasks"], side, content.get("protocols", []))
            console.say(f"images    {cell.data}: {len(store):,} to train on")


def _write(results: Results, folder: Path) -> None:
    write_text(folder / "results.json", json.dumps(to_dict(results), indent=1) + "\n")
    write_text(folder / "table.md", to_markdown(results))
    write_page(results, folder)


def _close(results: Results, trials: int, tried: int, folder: Path, console: PlainConsole) -> None:
    """Say where things stand."""
    if tried < trials:
        state = f"{tried} of {trials} trials; call again to go on"
    elif results.done < results.cells:
        state = f"{results.done} of {results.cells} runs; call again to go on"
    else:
        state = f"all {results.cells} runs"
    console.say(f"done      {state}")
    for name in ("table.md", "results.json", "study.html"):
        console.say(f"written   {folder / name}")
