"""Everything that a run needs to resume: written atomically; what cannot be read back is explained in one line."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.runs import RunFolder
from s2r2.system.files import atomic_write, make_folder, why_not_written
from s2r2.training.config import MOST_STEPS

CHECKPOINT_VERSION = 3
_CHECKSUM_BYTES = 16
_OPTIMIZER = "optimiser"  # the spelling of format 3


def save_checkpoint(
    folder: Path,
    *,
    encoder: dict[str, Any],
    method: dict[str, Any],
    optimizer: dict[str, Any],
    epoch: int,
    step: int,
    random: list[dict[str, Any]],
    lr_scale: float,
    seconds: float,
    facts: dict[str, Any],
) -> None:
    """Write weights, optimizer, random state and position to ``checkpoints/last.ckpt``, with a checksum.

    The one before is kept as ``previous.ckpt``. Killed at any moment, it leaves at least one of them whole.

    Args:
        folder: The run folder.
        encoder: State of the module that is trained, whole.
        method: State of what turns embeddings into a loss: prototypes, queues and banks where it has them.
        optimizer: State of the optimizer, whole.
        epoch: Epoch of the next step.
        step: Steps taken in the whole run.
        random: :func:`random_state` of every process.
        lr_scale: What learning rates are multiplied by since a retry, else 1.
        seconds: Time trained so far.
        facts: Plain values to compare at resume (the store's fingerprint, versions, threads).

    Raises:
        S2R2Error: The disk is full or the folder cannot be written to.
    """
    path = RunFolder(folder).checkpoint
    try:
        make_folder(path.parent)
    except OSError as error:
        raise S2R2Error(f"cannot make {path.parent}: {why_not_written(error)}choose another `out`") from error
    state = {
        "version": CHECKPOINT_VERSION,
        "encoder": encoder,
        "method": method,
        _OPTIMIZER: optimizer,
        "epoch": epoch,
        "step": step,
        "random": random,
        "lr_scale": lr_scale,
        "seconds": seconds,
        "facts": facts,
    }
    content = io.BytesIO()  # torch.save hides a full disk behind an error of its own
    torch.save(state, content)
    _keep_previous(folder)
    with atomic_write(path) as file:
        file.write(content.getbuffer())
        file.write(_checksum(content.getbuffer()))


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], str]:
    """Read the newest whole checkpoint; tensors come back on the CPU.

    Returns:
        The state, and a warning: empty, or why it is the one before the newest.

    Raises:
        S2R2Error: There is none, all are damaged, or another s2r2 wrote it.
    """
    run = RunFolder(folder)
    last, previous = run.checkpoint, run.previous_checkpoint
    if not run.has_checkpoint:
        raise ArgumentError(f"no checkpoint at {last}, so there is nothing to resume: leave out `resume`")
    try:
        return _read(last), ""
    except _DamagedError as damage:
        with contextlib.suppress(_DamagedError):
            return _read(previous), f"{damage}: going on from the one before"
        raise S2R2Error(f"{damage}: start again with another `out`") from damage


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _DamagedError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if _checksum(memoryview(body)) != checksum:
        raise _DamagedError(f"checkpoint {path} is damaged (its checksum does not match)")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's file does to the reader; it runs no code
        raise _DamagedError(f"checkpoint {path} cannot be read ({_first_line(error)})") from error
    version = state.get("version") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise _DamagedError(f"checkpoint {path} is none of s2r2's")
    if version != CHECKPOINT_VERSION:
        age = "a newer" if version > CHECKPOINT_VERSION else "an older"
        raise S2R2Error(f"checkpoint {path} was written by {age} s2r2 (format {version}): use that one")
    state.setdefault("seconds", 0.0)  # not in checkpoints of version 0.1
    for name, fits in _PARTS.items():
        if name not in state or not fits(state[name]):
            raise _DamagedError(f"checkpoint {path} is damaged ({name} is not what it should be)")
    state["optimizer"] = state.pop(_OPTIMIZER)
    return dict(state)


def _all_tensors(part: Any) -> bool:
    return isinstance(part, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in part.items()
    )


def _is_count(part: Any) -> bool:
    return isinstance(part, int) and not isinstance(part, bool) and 0 <= part < MOST_STEPS


def _is_random(part: Any) -> bool:
    return isinstance(part, list) and all(
        isinstance(one, dict) and isinstance(one.get("cpu"), Tensor) and isinstance(one.get("cuda"), Tensor | None)
        for one in part
    )


def _is_optimizer(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("state"), dict)
        and all(isinstance(values, dict) for values in part["state"].values())
        and isinstance(part.get("param_groups"), list)
        and all(isinstance(group, dict) for group in part["param_groups"])
    )


def _are_facts(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("store"), str) and isinstance(part.get("images"), int)


_PARTS: dict[str, Callable[[Any], bool]] = {
    "encoder": _all_tensors,
    "method": lambda part: isinstance(part, dict),
    _OPTIMIZER: _is_optimizer,
    "epoch": _is_count,
    "step": _is_count,
    "random": _is_random,
    "lr_scale": lambda part: isinstance(part, (int, float)) and 0 < part <= 1,
    "seconds": lambda part: isinstance(part, (int, float)) and 0 <= part < MOST_STEPS,
    "facts": _are_facts,
}


@contextlib.contextmanager
def fits_its_config(folder: Path) -> Iterator[None]:
    """Say in one line that what a checkpoint holds does not fit the run that ``config.yaml`` describes.

    Raises:
        S2R2Error: One of them was changed.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise S2R2Error(
            f"the checkpoint of {folder} does not fit its settings or its method ({_first_line(error)}): "
            "one of them was changed; restore it, or start a new run"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0])[:200]
        if lines
        else type(error).__name__
    )


def _checksum(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


def _keep_previous(folder: Path) -> None:
    """Give the newest checkpoint a second name; where the file system has no links, only the newest is kept."""
    run = RunFolder(folder)
    link = run.previous_checkpoint_link
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(run.checkpoint, link)
        os.replace(link, run.previous_checkpoint)


def random_state() -> dict[str, Any]:
    """State of torch's generators in this process: on the CPU, and on the GPU that it uses."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any], rank: int = 0, world_size: int = 1) -> None:
    """Put torch's generators back to where the checkpoint found them in this process.

    With another number of processes there is nothing to go back to: each then begins a sequence of its own.
    """
    if len(state["random"]) != world_size:
        torch.manual_seed(torch.initial_seed() + state["step"] * world_size + rank)
        return
    mine = state["random"][rank]
    torch.set_rng_state(mine["cpu"])
    if mine["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
