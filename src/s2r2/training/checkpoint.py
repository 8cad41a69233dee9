"""Everything a run needs to go on: written atomically, read back with a clear word when it cannot be."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from s2r2.errors import S2R2Error
from s2r2.files import atomic_write

CHECKPOINT_VERSION = 3
_CHECKSUM_BYTES = 16


def checkpoint_path(folder: Path) -> Path:
    """Where a run folder keeps its newest checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def previous_path(folder: Path) -> Path:
    """Where a run folder keeps the checkpoint before the newest."""
    return folder / "checkpoints" / "previous.ckpt"


def save_checkpoint(
    folder: Path,
    *,
    encoder: dict[str, Any],
    method: dict[str, Any],
    optimiser: dict[str, Any],
    epoch: int,
    step: int,
    random: list[dict[str, Any]],
    lr_scale: float,
    facts: dict[str, Any],
) -> None:
    """Write weights, optimiser, random state and position to ``checkpoints/last.ckpt``, with a checksum.

    The one before is kept as ``previous.ckpt``. Killed at any moment, it leaves at least one of them whole.

    Args:
        folder: The run folder.
        encoder: State of the module that is trained, whole.
        method: State of what turns embeddings into a loss: prototypes, queues and banks where it has them.
        optimiser: State of the optimiser, whole.
        epoch: Epoch of the next step.
        step: Steps taken in the whole run.
        random: :func:`random_state` of every process.
        lr_scale: What learning rates are multiplied by since a retry, else 1.
        facts: Plain values to compare at resume (the store's fingerprint, versions, threads).

    Raises:
        S2R2Error: The disk is full or the folder cannot be written to.
    """
    path = checkpoint_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise S2R2Error(f"cannot make {path.parent}: {error.strerror}") from error
    state = {
        "version": CHECKPOINT_VERSION,
        "encoder": encoder,
        "method": method,
        "optimiser": optimiser,
        "epoch": epoch,
        "step": step,
        "random": random,
        "lr_scale": lr_scale,
        "facts": facts,
    }
    content = io.BytesIO()  # torch.save hides a full disk behind an error of its own
    torch.save(state, content)
    _remove_leftovers(path)
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
    last, previous = checkpoint_path(folder), previous_path(folder)
    if not last.is_file() and not previous.is_file():
        raise S2R2Error(f"no checkpoint at {last}: nothing to resume; start without --resume")
    try:
        return _read(last), ""
    except _DamagedError as damage:
        with contextlib.suppress(_DamagedError):
            return _read(previous), f"{damage}: going on from the one before"
        raise S2R2Error(f"{damage}: start again with another --out") from damage


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _DamagedError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if _checksum(memoryview(body)) != checksum:
        raise _DamagedError(f"checkpoint {path} is damaged (its checksum does not fit)")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if state["version"] != CHECKPOINT_VERSION:
        age = "a newer" if state["version"] > CHECKPOINT_VERSION else "an older"
        raise S2R2Error(f"checkpoint {path} was written by {age} s2r2 (format {state['version']}): use that one")
    return state


def _checksum(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


def _remove_leftovers(path: Path) -> None:
    """Half-written files of a process that was killed; only one process writes."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _keep_previous(folder: Path) -> None:
    """Give the newest checkpoint a second name; where the file system has no links, only the newest is kept."""
    last, previous = checkpoint_path(folder), previous_path(folder)
    link = previous.with_name(".previous.tmp")
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(last, link)
        os.replace(link, previous)


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
