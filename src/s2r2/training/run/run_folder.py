"""The folder of a run: one writer, and no trace of a start that failed."""

import contextlib
import re
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from s2r2.distributed.launching import restarts
from s2r2.errors import S2R2Error
from s2r2.system.files import make_folder, remove_temporaries, sync_folder
from s2r2.system.locking import LOCK, locked
from s2r2.training.run.checkpoint import has_checkpoint

BEGINNING = ".beginning"
"""A file that is there until the first checkpoint: what lies beside it was left by a start that failed."""
_OF_A_START = ("config.yaml", "metrics.jsonl", "views.png", "skipped.csv", "non_finite.json", "encoder.safetensors")
_CURVES = re.compile(r"events\.out\.tfevents\..+")
SECONDS_AFTER_RESTART = 10.0
"""How long the processes that torchrun started anew wait for the lost ones' lock."""

Claim = Callable[[Path, bool], None]


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
        if made:
            held.callback(_remove_empty, folder)
        wait = SECONDS_AFTER_RESTART if restarts() else 0.0
        remedy = "wait until it has finished, or choose another --out"
        held.enter_context(locked(folder / LOCK, f"training in {folder}", remedy, wait=wait))
        held.callback(clear_start, folder)
        remove_leftovers(folder)

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
        _refuse_used(place)
        clear_start(place)
        (place / BEGINNING).write_bytes(b"")
    except OSError as error:
        raise S2R2Error(
            f"cannot write to run folder {place}: {error.strerror or error}; choose another --out"
        ) from error
    return place


def clear_start(folder: Path) -> None:
    """Remove what a start has written, file by file, if it did not come to a checkpoint; nothing else."""
    if not (folder / BEGINNING).exists() or has_checkpoint(folder):
        return
    with contextlib.suppress(OSError):
        for name in _OF_A_START:
            (folder / name).unlink(missing_ok=True)
        for curves in (folder / "tensorboard").glob("events*"):
            if _CURVES.fullmatch(curves.name):
                curves.unlink()
        (folder / BEGINNING).unlink()
    for inner in ("tensorboard", "checkpoints"):
        with contextlib.suppress(OSError):
            (folder / inner).rmdir()


def begun(folder: Path) -> None:
    """There is a checkpoint now: from here on the folder is a run's."""
    with contextlib.suppress(OSError):
        (folder / BEGINNING).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a process that was killed; only for the one writer."""
    remove_temporaries(folder, *_OF_A_START, "report.html")
    remove_temporaries(folder / "checkpoints", "last.ckpt")
    with contextlib.suppress(OSError):
        (folder / "checkpoints" / ".previous.tmp").unlink()


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _refuse_used(folder: Path) -> None:
    used = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK)
    if has_checkpoint(folder):
        raise S2R2Error(f"run folder {folder} exists: go on with --resume, or choose another --out")
    if used and BEGINNING not in used:
        raise S2R2Error(
            f"folder {folder} is not empty ({used[0]}), and holds no run to go on with: choose another --out"
        )


def _free_folder(name: str) -> Path:
    """Made here, so that two commands do not take the same."""
    for number in range(1, 10_000):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_folder(folder.parent)
            return folder
    raise S2R2Error(f"no free folder runs/{name}-N: give one with --out")
