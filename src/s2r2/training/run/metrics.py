"""A run's figures: one JSON object a line in ``metrics.jsonl``, and the same curves for TensorBoard."""

import contextlib
import io
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.system.files import sync_file, sync_folder, why_not_written, write_text

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
        self._curves: Path | None = None
        if folder is None:
            return
        self._run = RunFolder(folder)
        self.path = self._run.metrics_file
        if resume_at is not None:
            self._drop_after(resume_at)
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{time.monotonic_ns()}"
        self._curves = self._run.tensorboard / name
        with _what_helps_is_said(self._curves):
            self._curves.parent.mkdir(exist_ok=True)
            first = [Event(wall_time=time.time(), file_version="brain.Event:2")]
            if resume_at is not None:  # what other files have of later steps does not count
                first.append(Event(step=resume_at + 1, session_log=SessionLog(status=SessionLog.START)))
            _append_events(self._curves, first)

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
        if self._curves is None:
            self._pending.clear()
            return
        lines, events, now = [], [], time.time()
        for entry in self._pending:
            plain: dict[str, Any] = {
                key: value.item() if isinstance(value, Tensor) else value for key, value in entry.items()
            }
            lines.append(json.dumps(plain) + "\n")
            curves = {f"check/{k}": v for k, v in plain["check"].items()} if "check" in plain else plain
            points = [Summary.Value(tag=k, simple_value=v) for k, v in curves.items() if k not in ("step", "epoch")]
            events.append(Event(wall_time=now, step=plain["step"], summary=Summary(value=points)))
        self._pending.clear()
        with _what_helps_is_said(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        with _what_helps_is_said(self._curves):
            _append_events(self._curves, events)

    def make_durable(self) -> None:
        """Write what is pending so that a power cut cannot take it: a checkpoint is about to say that it is there.

        Raises:
            S2R2Error: The disk is full or the folder cannot be written to.
        """
        self.flush()
        for path in (self.path, self._curves) if self._curves is not None else ():
            with _what_helps_is_said(path):
                sync_file(path)
                sync_folder(path.parent)

    def _drop_after(self, step: int) -> None:
        kept = [json.dumps(entry) + "\n" for entry in self._run.read_metrics() if entry["step"] <= step]
        write_text(self.path, "".join(kept))


def _append_events(path: Path, events: list[Event]) -> None:
    """In TensorBoard's format; its own writer has a thread, whose errors come late and with a traceback."""
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event.SerializeToString())
    with path.open("ab") as file:
        file.write(content.getvalue())


@contextlib.contextmanager
def _what_helps_is_said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise S2R2Error(f"cannot write {path}: {why_not_written(error, 'and')}continue with `resume=True`") from error
