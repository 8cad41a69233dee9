"""A run folder: its files, reading and writing them, and who may write to it.

::

    config.yaml          settings of the run, and what was found and used: data, counts, versions
    metrics.jsonl        figures of the steps and of the online checks, one JSON object a line
    tensorboard/         the same curves for TensorBoard
    views.png            some photos, and random views of them
    skipped.csv          photos that could not be read, and why
    checkpoints/         last.ckpt and the one before, previous.ckpt
    encoder.safetensors  the encoder
    evaluation.json      what s2r2 evaluate found; its pictures are in pictures/
    report.html          all of it on one page
    non_finite.json      the step whose loss was not a number, if there was one
"""

import contextlib
import csv
import json
import re
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2r2.distributed.launching import restarts
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.settings.renamed import with_current_names
from s2r2.settings.values import Mistakes, fitted
from s2r2.settings.yaml_documents import read_yaml, write_yaml
from s2r2.system.files import make_folder, remove_temporaries, sync_folder, why_not_written, write_text
from s2r2.system.locking import LOCK, locked
from s2r2.system.terminal import csv_plain

ENCODER_FILE = "encoder.safetensors"
EVALUATION_VERSION = 3
SECONDS_AFTER_RESTART = 10.0
"""How long the processes that torchrun started anew wait for the lost ones' lock."""
_TENSORBOARD_FILE = re.compile(r"events\.out\.tfevents\..+")
_ABOUT: dict[str, Any] = {
    "data": str,
    "recipe": dict[str, Any],
    "images": int,
    "skipped": int,
    "labels": int,
    "steps": int,
    "pixels_per_step": int,
    "learning_rate": float,
}

Claim = Callable[[Path, bool], None]


@dataclass(frozen=True)
class RunConfig:
    """What ``config.yaml`` says.

    Attributes:
        settings: Of training, by name; not checked.
        about: What was found and used: data, recipe, counts, versions.
        mistakes: Where to note what is wrong with the settings; it knows the lines of the file.
    """

    settings: dict[str, Any]
    about: dict[str, Any]
    mistakes: Mistakes


class RunFolder:
    """The files of a run by name, and how to read and write those that are not images, weights or pages.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.views_file = path / "views.png"
        self.skipped_file = path / "skipped.csv"
        self.checkpoint = path / "checkpoints" / "last.ckpt"
        self.previous_checkpoint = path / "checkpoints" / "previous.ckpt"
        self.encoder_file = path / ENCODER_FILE
        self.evaluation_file = path / "evaluation.json"
        self.report_file = path / "report.html"
        self.non_finite_file = path / "non_finite.json"
        self.lock_file = path / LOCK
        self.unfinished_start = path / ".beginning"
        """There until the first checkpoint: what lies beside it was left by a start that failed."""

    @property
    def is_run(self) -> bool:
        """Whether ``s2r2 train`` made this folder."""
        return self.config_file.is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return self.checkpoint.is_file() or self.previous_checkpoint.is_file()

    def write_config(self, settings: dict[str, Any], about: dict[str, Any]) -> None:
        """Write the settings of training, and what was found and used."""
        write_text(self.config_file, write_yaml({"config": settings, "run": about}))

    def read_config(self) -> RunConfig:
        """What :meth:`write_config` wrote; it may have been edited, or come from strangers.

        Raises:
            S2R2Error: There is no such file, or what it says of the data cannot be: all mistakes, with lines.
        """
        if not self.is_run:
            raise S2R2Error(f"cannot read {self.config_file}: {self.path} is not a run folder of s2r2 train")
        content, mistakes = read_yaml(self.config_file)
        for part in ("config", "run"):
            if not isinstance(content.get(part), dict):
                mistakes.add((), f"{part} is missing: {self.path} is not a run folder of s2r2 train, or it is damaged")
        mistakes.refuse()
        about = content["run"]
        for name, kind in _ABOUT.items():
            if name in about:
                about[name] = fitted(about[name], kind, mistakes, ("run", name))
            elif name in ("data", "recipe"):
                mistakes.add(("run",), f"{name} is missing")
        return RunConfig(content["config"], about, mistakes)

    def read_whatever_config(self) -> RunConfig:
        """The same for people to look at: what is missing or damaged is left out."""
        content: dict[str, Any] = {}
        with contextlib.suppress(S2R2Error):
            content, _ = read_yaml(self.config_file)
        settings, about = (part if isinstance(part := content.get(name), dict) else {} for name in ("config", "run"))
        return RunConfig(with_current_names(settings), about, Mistakes())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a line torn by a crash, or of another kind, is left out.

        Raises:
            S2R2Error: The file is there and cannot be read.
        """
        try:
            lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise S2R2Error(f"cannot read {self.metrics_file}: {error.strerror or error}") from error
        entries: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                    entries.append(entry)
        return entries

    def read_skipped(self) -> list[tuple[str, str]]:
        """``(key, reason)`` of the photos that could not be read; empty where the list is not there."""
        try:
            with self.skipped_file.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = [row for row in csv.reader(file) if len(row) >= 2]
        except OSError:
            return []
        return [(csv_plain(key), csv_plain(reason)) for key, reason, *_ in rows[1:]]

    def write_evaluation(self, content: dict[str, Any]) -> None:
        """Write ``evaluation.json`` from plain values."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(self.evaluation_file, text + "\n")

    def read_evaluation(self) -> dict[str, Any]:
        """What :meth:`write_evaluation` was given, as this version writes it.

        Raises:
            S2R2Error: There is none, it cannot be read, or a newer version wrote it.
        """
        try:
            content = json.loads(self.evaluation_file.read_text(encoding="utf-8"))
            return current_evaluation(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise S2R2Error(f"cannot read {self.evaluation_file}: run s2r2 evaluate again") from error

    def clear_failed_start(self) -> None:
        """Remove what a start has written, file by file, if it did not come to a checkpoint; nothing else."""
        if self.unfinished_start.exists() and not self.has_checkpoint:
            self.clear()

    def clear(self) -> None:
        """Remove what training has written, file by file; nothing else."""
        with contextlib.suppress(OSError):
            for file in (*self._of_a_start(), self.checkpoint, self.previous_checkpoint):
                file.unlink(missing_ok=True)
            for curves in self.tensorboard.glob("events*"):
                if _TENSORBOARD_FILE.fullmatch(curves.name):
                    curves.unlink()
            self.unfinished_start.unlink(missing_ok=True)
        for inner in (self.tensorboard, self.checkpoint.parent):
            with contextlib.suppress(OSError):
                inner.rmdir()

    def start_is_over(self) -> None:
        """There is a checkpoint: from here on a failure leaves the folder as it is."""
        with contextlib.suppress(OSError):
            self.unfinished_start.unlink(missing_ok=True)

    def remove_temporaries(self) -> None:
        """Remove half-written files of a process that was killed; only for the one writer."""
        remove_temporaries(self.path, *(file.name for file in (*self._of_a_start(), self.report_file)))
        remove_temporaries(self.checkpoint.parent, self.checkpoint.name)
        with contextlib.suppress(OSError):
            self.previous_checkpoint_link.unlink()

    @property
    def previous_checkpoint_link(self) -> Path:
        """A name that the newest checkpoint has for a moment, on its way to become the previous one."""
        return self.checkpoint.with_name(".previous.tmp")

    def _of_a_start(self) -> tuple[Path, ...]:
        return (
            self.config_file,
            self.metrics_file,
            self.views_file,
            self.skipped_file,
            self.non_finite_file,
            self.encoder_file,
        )


def current_evaluation(content: dict[str, Any]) -> dict[str, Any]:
    """The content of an ``evaluation.json`` of any version, as this one writes it.

    Raises:
        S2R2Error: A newer version wrote it.
    """
    version = content.get("version", 0)
    if version > EVALUATION_VERSION:
        raise S2R2Error(f"the evaluation was written by a newer s2r2 (format {version}): upgrade s2r2")
    if version < EVALUATION_VERSION:
        content = {**content, "rows": [_with_kind(row, version) for row in content["rows"]]}
    parts = {key: content[key] for key in ("about", "columns", "rows", "notes")}
    return {"version": EVALUATION_VERSION, **parts, "pictures": content.get("pictures", {})}


def _with_kind(row: dict[str, Any], version: int) -> dict[str, Any]:
    """Say of a row of version 1, which knew it by the name, or 2 what made its vectors."""
    row = dict(row)
    trained = row.pop("trained", True) if version > 1 else not row["encoder"].startswith("untrained")
    return {**row, "kind": "pixels" if row["output"] == "pixels" else "trained" if trained else "untrained"}


def shown(folder: Path) -> str:
    """The folder, as a shell takes it."""
    return shlex.quote(str(folder))


def claiming(held: ExitStack) -> Claim:
    """What makes this process the one writer of a run folder, as long as the stack is open.

    It takes the folder, and whether it was made for this run: if the run does not come to a checkpoint, it goes again.

    Raises:
        S2R2Error: Another process trains there; the message says which.
    """

    def claim(folder: Path, made: bool) -> None:
        run = RunFolder(folder)
        if made:
            held.callback(_remove_empty, folder)
        wait = SECONDS_AFTER_RESTART if restarts() else 0.0
        remedy = "wait until it has finished, or choose another `out`"
        held.enter_context(locked(run.lock_file, f"training in {folder}", remedy, wait=wait))
        held.callback(run.clear_failed_start)
        run.remove_temporaries()

    return claim


def make_run_folder(folder: Path | None, name: str, claim: Claim) -> Path:
    """Make the folder of a new run, or clear the one of a start that failed; without a folder the first free one.

    Args:
        folder: Where; None chooses ``runs/NAME``, or ``runs/NAME-2`` and so on.
        name: For that.
        claim: See :func:`claiming`.

    Raises:
        S2R2Error: It holds files already, cannot be made or written to, or another process trains there.
    """
    place = folder or Path("runs") / name
    try:
        if folder is None:
            make_folder(place.parent)
            place = _free_folder(name)
        made = folder is None or not place.exists()
        make_folder(place)
        claim(place, made)
        run = RunFolder(place)
        _refuse_used(run)
        run.clear_failed_start()
        run.unfinished_start.write_bytes(b"")
    except OSError as error:
        raise S2R2Error(f"cannot write to run folder {place}: {why_not_written(error)}choose another `out`") from error
    return place


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _refuse_used(run: RunFolder) -> None:
    used = sorted(entry.name for entry in run.path.iterdir() if entry != run.lock_file)
    if run.has_checkpoint:
        raise ArgumentError(f"run folder {run.path} exists: continue it with `resume=True`, or choose another `out`")
    if used and run.unfinished_start.name not in used:
        raise ArgumentError(
            f"folder {run.path} is not empty ({used[0]}) and holds no run to continue: choose another `out`"
        )


def _free_folder(name: str) -> Path:
    """Made here, so that two commands do not take the same."""
    for number in range(1, 10_000):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_folder(folder.parent)
            return folder
    raise S2R2Error(f"no free folder runs/{name}-N: name one with `out`")
