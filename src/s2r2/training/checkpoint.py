"""Everything a run needs to go on: written atomically, read back with a clear word when it cannot be."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from s2r2.errors import S2R2Error
from s2r2.files import atomic_write

CHECKPOINT_VERSION = 2


def checkpoint_path(folder: Path) -> Path:
    """Where a run folder keeps its newest checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def save_checkpoint(
    folder: Path,
    *,
    encoder: nn.Module,
    method: nn.Module,
    optimiser: optim.Optimizer,
    epoch: int,
    step: int,
    facts: dict[str, Any],
) -> None:
    """Write weights, optimiser, random state and position to ``checkpoints/last.ckpt``.

    Args:
        folder: The run folder.
        encoder: The module that is trained.
        method: What turns embeddings into a loss, with prototypes, queues and banks where it has them.
        optimiser: Its optimiser.
        epoch: Epoch of the next step.
        step: Steps taken in the whole run.
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
        "encoder": encoder.state_dict(),
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "epoch": epoch,
        "step": step,
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        "facts": facts,
    }
    content = io.BytesIO()  # torch.save hides a full disk behind an error of its own
    torch.save(state, content)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read ``checkpoints/last.ckpt``; tensors come back on the CPU.

    Raises:
        S2R2Error: There is none, it is damaged, or a newer s2r2 wrote it.
    """
    path = checkpoint_path(folder)
    if not path.is_file():
        raise S2R2Error(f"no checkpoint at {path}: nothing to resume; start without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise S2R2Error(
            f"checkpoint {path} is damaged ({type(error).__name__}): start again with another --out"
        ) from error
    if state["version"] != CHECKPOINT_VERSION:
        age = "a newer" if state["version"] > CHECKPOINT_VERSION else "an older"
        raise S2R2Error(f"checkpoint {path} was written by {age} s2r2 (format {state['version']}): use that one")
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put torch's generators back to where the checkpoint found them."""
    torch.set_rng_state(state["random"]["cpu"])
    if state["random"]["cuda"] and torch.cuda.device_count() == len(state["random"]["cuda"]):
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
