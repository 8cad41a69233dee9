"""``s2r2 compare``: tune, run, evaluate, and write down what was found so far."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from s2r2.errors import S2R2Error
from s2r2.settings.values import whole_number
from s2r2.study.checking import check_study, prepare_images
from s2r2.study.local import LocalExecutor
from s2r2.study.plan import final_cells, is_done, tuning_cells
from s2r2.study.report_page import write_page
from s2r2.study.results import Results, collect, find_failures, to_dict
from s2r2.study.scheduling import Scheduler
from s2r2.study.slurm import Slurm, SlurmExecutor
from s2r2.study.spec import MOST_CELLS, UNTRAINED, Study, folder_name, only_with, read_study
from s2r2.study.tables import to_markdown
from s2r2.study.tuning import choose_settings, wider_cells
from s2r2.system.console import PlainConsole
from s2r2.system.files import make_folder, why_not_written, write_text
from s2r2.system.wording import amount
from s2r2.training.run.trust import name_method


def compare(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    only: Sequence[str] = (),
    minutes: float | None = None,
    processes: int = 0,
    slurm: Slurm | None = None,
    trust_methods: Sequence[str | Path] = (),
    quiet: bool = False,
) -> Results:
    """Compare methods side by side: same images, encoder and encoded pixels; tuned alike; several seeds.

    Every run is a cell in a folder of its own. A call does what is not done yet, so an interrupted study, even one
    that was killed, goes on with the same call. Several calls, on machines that share the folder, share the work. A
    cell that fails does not keep the others from being run, and the next call tries it again; the tables hold what
    there is so far.

    Args:
        study: A ``.yaml`` file, see docs/study.md, or the study itself.
        out: The study's folder; by default ``runs/NAME``.
        data: Folder that paths of images in the file start from; by default ``S2R2_DATA``, else the working folder.
        only: Names of data sets of the study, to leave out all others; the differences of those are then all that a
            correction counts.
        minutes: Stop after about so long, saving; call again to go on.
        processes: Runs at once; 0: one for each GPU, without GPUs one for each core; on a cluster as many as it lets.
        slurm: Run the cells as jobs of the SLURM cluster that this machine belongs to, and what to ask it for.
        trust_methods: Files of code that the study names, as methods or protocols, and that may run; once named, they
            may always.
        quiet: Print nothing.

    Returns:
        What was found so far; ``table.md``, ``results.json``, plots and ``study.html`` in the folder say it as well.

    Raises:
        S2R2Error: The study is not well formed, or its images are not there; or, when everything else has been run and
            written, cells have failed.
    """
    began, processes = time.monotonic(), whole_number(processes, 0, MOST_CELLS, "processes")
    deadline = began + 60 * minutes if minutes is not None else math.inf
    console = PlainConsole(quiet=quiet)
    spec = study if isinstance(study, Study) else read_study(Path(study), Path(data) if data else None)
    spec = only_with(spec, only) if only else spec
    folder = Path(out) if out else Path("runs") / folder_name(spec.name)
    for method in trust_methods:
        name_method(str(method))
    unfinished = check_study(spec, folder)
    try:
        make_folder(folder)
        executor = (
            SlurmExecutor(folder, folder_name(spec.name), slurm, processes) if slurm else LocalExecutor(processes)
        )
        prepare_images(spec, unfinished, folder, console)
        return _compare(spec, folder, Scheduler(folder, executor, deadline, console), console)
    except OSError as error:
        raise S2R2Error(f"cannot write to {folder}: {why_not_written(error)}choose another `out`") from error


def _compare(study: Study, folder: Path, scheduler: Scheduler, console: PlainConsole) -> Results:
    trials = tuning_cells(study)
    scheduler.run(trials)
    if study.tuning is not None and study.tuning.widen and (more := wider_cells(study, trials, folder)):
        trials += more
        scheduler.run(trials)
    chosen, record = choose_settings(study, trials, folder)
    if trials:
        plain = json.loads(json.dumps(record))  # no aliases for settings that occur twice
        write_text(folder / "tuning.yaml", yaml.safe_dump(plain, sort_keys=False))
    cells = final_cells(study, chosen if trials else study.settings)
    ready = [cell for cell in cells if not trials or cell.method in (UNTRAINED, *chosen[cell.data])]
    try:
        scheduler.run(ready)
    finally:  # whatever stopped it, the tables hold what there is
        results = collect(study, ready, folder, record)
        results.cells, results.failures = len(cells), find_failures([*trials, *ready], folder)
        _write(results, folder)
    _close(results, len(trials), sum(is_done(c, folder) for c in trials), folder, console)
    return results


def _write(results: Results, folder: Path) -> None:
    write_text(folder / "results.json", json.dumps(to_dict(results), indent=1) + "\n")
    write_text(folder / "table.md", to_markdown(results))
    write_page(results, folder)


def _close(results: Results, trials: int, tried: int, folder: Path, console: PlainConsole) -> None:
    """Say where things stand.

    Raises:
        S2R2Error: Cells have failed: how many, and why the first one did; or all trials of a method diverged.
    """
    failed = results.failures
    hopeless = [
        (method, data)
        for data, methods in results.tuning.items()
        for method, record in methods.items()
        if record["chosen"] is None
    ]
    if tried < trials:
        state = f"{tried} of {trials} trials; call again to go on"
    elif results.done < results.cells and hopeless:
        state = f"{results.done} of {results.cells} runs"
    elif results.done < results.cells:
        state = f"{results.done} of {results.cells} runs; call again to go on"
    else:
        state = f"all {amount(results.cells, 'run')}"
    console.say(f"done      {state}")
    for name in ("table.md", "results.json", "study.html"):
        console.say(f"written   {folder / name}")
    if failed:
        count = f"{len(failed)} of {trials + results.cells} runs failed" + (", such as" if len(failed) > 1 else ":")
        raise S2R2Error(
            f"{count} {failed[0].title}: {failed[0].reason} (folder {failed[0].folder}); call again to try "
            f"{'them' if len(failed) > 1 else 'it'} again"
        )
    if hopeless:
        method, data = hopeless[0]
        raise S2R2Error(f"every trial of {method} on {data} diverged: give it other settings, such as a lower lr")
