"""A run's figures: one JSON object a line in ``metrics.jsonl``, and the same curves for TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from s2r2.errors import S2R2Error
from s2r2.files import write_text

MAXIMUM_LINES = 20_000


class MetricsLog:
    """Collects figures without waiting for the device, and writes them every few steps.

    Args:
        folder: The run folder; None writes nothing.
        steps: Steps of the whole run; a longer one than 20,000 is thinned to about that many lines.
        resume_at: Steps already taken: lines of later ones, from after the checkpoint, are dropped. None: a new run.
    """

    FLUSH_EVERY = 10

    def __init__(self, folder: Path | None, steps: int, resume_at: int | None = None) -> None:
        self.every = max(1, math.ceil(steps / MAXIMUM_LINES))
        self._pending: list[dict[str, Any]] = []
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        self.path = folder / "metrics.jsonl"
        if resume_at is not None:
            self._drop_after(resume_at)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at)

    def wants(self, step: int) -> bool:
        """Whether the step (counted from 1) gets a line."""
        return step % self.every == 0 or step == 1

    def add(self, step: int, epoch: int, **values: float | Tensor) -> None:
        """Note a step's figures; tensors are read only when the lines are written."""
        self._pending.append({"step": step, "epoch": epoch, **values})
        if len(self._pending) >= self.FLUSH_EVERY:
            self.flush()

    def add_check(self, step: int, epoch: int, check: dict[str, float]) -> None:
        """Note the result of an online check."""
        self._pending.append({"step": step, "epoch": epoch, "check": check})
        self.flush()

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            S2R2Error: The disk is full or the folder cannot be written to.
        """
        if self._writer is None:
            self._pending.clear()
            return
        lines = []
        for entry in self._pending:
            plain: dict[str, Any] = {
                key: value.item() if isinstance(value, Tensor) else value for key, value in entry.items()
            }
            lines.append(json.dumps(plain) + "\n")
            curves = {f"check/{k}": v for k, v in plain["check"].items()} if "check" in plain else plain
            for key, value in curves.items():
                if key not in ("step", "epoch"):
                    self._writer.add_scalar(key, value, plain["step"])
        self._pending.clear()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise S2R2Error(
                f"cannot write {self.path}: {error.strerror}; free space, then go on with --resume"
            ) from error

    def close(self) -> None:
        """Write what is pending and close the TensorBoard file."""
        self.flush()
        if self._writer is not None:
            self._writer.close()

    def _drop_after(self, step: int) -> None:
        kept = [json.dumps(entry) + "\n" for entry in read_metrics(self.path) if entry["step"] <= step]
        write_text(self.path, "".join(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a line torn by a crash is left out."""
    entries: list[dict[str, Any]] = []
    if not path.is_file():
        return entries
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries
