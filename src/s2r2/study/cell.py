"""One cell: train, evaluate, write down. In a process of its own: ``python -m s2r2.study.cell FOLDER``."""

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2r2.distributed.devices import peak_memory
from s2r2.encoder import Encoder
from s2r2.errors import NonFiniteError, S2R2Error
from s2r2.images import ImageSource, open_source
from s2r2.runs import RunFolder
from s2r2.study.claims import write_failure
from s2r2.study.near_duplicates import CopiesSource
from s2r2.study.plan import CELL_FILE, DIVERGED_FILE, RESULT_FILE, RUN_FOLDER, SCORES_FILE, read_result
from s2r2.study.spec import TaskSpec
from s2r2.study.tasks import evaluate_task
from s2r2.system.child_processes import end_with_parent
from s2r2.system.files import atomic_write, write_text
from s2r2.system.locking import LOCK, locked
from s2r2.system.terminal import say
from s2r2.training import TrainConfig, read_config, train
from s2r2.training.run.trust import refuse_unnamed
from s2r2.training.setup.encoder import first_encoder
from s2r2.views import get_recipe

SECONDS_FOR_LOCK = 120.0
"""Longer than a file server takes to let go of the locks of a machine that is gone: NFS 4 takes 90."""


def run_cell(folder: Path) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write ``judged.json``, unless it is there; its content is returned.

    Raises:
        HeldError: Another process runs it.
        S2R2Error: The cell cannot be run.
        Interrupted: Ctrl-C or a scheduler's time limit; what was trained is saved.
    """
    with locked(folder / LOCK, f"running {folder}", "wait until it has finished", wait=SECONDS_FOR_LOCK):
        return read_result(folder / RESULT_FILE) if (folder / RESULT_FILE).is_file() else _run(folder)


def training_source(content: dict[str, Any]) -> ImageSource:
    """The images that a cell trains on."""
    source = open_source(content["train"])
    return CopiesSource(source, content["copies"]) if content["copies"] else source


def _run(folder: Path) -> dict[str, Any]:
    """Run a cell whose lock is held; should it fail, the reason is left in its folder."""
    try:
        return _train_and_evaluate(folder)
    except Exception as error:
        if isinstance(error, NonFiniteError):
            shutil.copyfile(folder / CELL_FILE, folder / DIVERGED_FILE)
        line = str(error) if isinstance(error, S2R2Error) else traceback.format_exception_only(error)[-1]
        write_failure(folder, line, traceback.format_exc())
        raise


def _train_and_evaluate(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / CELL_FILE).read_text(encoding="utf-8"))
    config = TrainConfig.from_dict({**content["config"], "threads": torch.get_num_threads()})
    if config.start:  # which would decide these anew unless they are given
        config = config.with_given(("image_size", "recipe", "check_every", "steps"))
    if content["untrained"]:
        encoder = first_encoder(config, get_recipe(config.recipe)).eval()
        costs: dict[str, Any] = {"pixels": 0, "seconds": 0.0, "steps": 0}
        photos = ""
    else:
        encoder, costs, photos = _trained(content, config, folder / RUN_FOLDER)
    began = time.monotonic()
    scores: dict[str, np.ndarray] = {}
    protocols = content.get("protocols", [])
    for protocol in protocols:
        refuse_unnamed(protocol, str(folder / CELL_FILE), "name it again: s2r2 compare --trust-method FILE")
    tasks: dict[str, Any] = {}
    for name, parts in content["tasks"].items():
        found = evaluate_task(encoder, TaskSpec(**parts), held_out=content["held_out"], protocols=protocols)
        scores |= {f"{name}/{figure}": values for figure, values in found.scores.items()}
        tasks[name] = found.record
    with atomic_write(folder / SCORES_FILE) as file:
        np.savez_compressed(file, **scores)  # type: ignore[arg-type]
    result = {
        "cell": content,
        "photos": photos,
        "tasks": tasks,
        "costs": {**costs, "evaluation_seconds": time.monotonic() - began, "peak_memory": peak_memory()},
    }
    write_text(folder / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def _trained(content: dict[str, Any], config: TrainConfig, folder: Path) -> tuple[Encoder, dict[str, Any], str]:
    """Train in the run folder, from its last checkpoint if there is one: the encoder, costs and hash of the photos."""
    resume = RunFolder(folder).has_checkpoint
    result = train(training_source(content), config, out=folder, resume=resume, quiet=True)
    lines = [line for line in RunFolder(folder).read_metrics() if "loss" in line]
    costs = {
        "pixels": result.steps * read_config(folder)[1]["pixels_per_step"],
        "seconds": sum(config.batch_size * config.views / line["views_per_second"] for line in lines),
        "steps": result.steps,
    }
    return result.encoder, costs, result.photos


def main(folder: str) -> int:
    """Run a cell whose lock this process has inherited; the exit code says how it ended, stderr the reason."""
    end_with_parent()  # whoever goes on with the study would run the cell twice
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    try:
        _run(Path(folder))
    except S2R2Error as error:
        say(error, error=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
