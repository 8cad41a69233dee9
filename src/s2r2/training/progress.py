"""What a person sees while a run trains: a bar on a terminal, a line an epoch elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from s2r2.system.terminal import PlainConsole

QUIET_SECONDS = 5.0


class TrainingProgress:
    """Shows loss, views per second, time left and the share of time spent waiting for data."""

    def __init__(self, console: PlainConsole, steps: int, done: int, epochs: int) -> None:
        self.console = console
        self.steps = steps
        self.epochs = epochs
        self._bar: Progress | None = None
        self._said = 0.0
        self._began = time.monotonic()
        self._first = done
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[speed]} views/s  waiting {task.fields[wait]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=steps, completed=done, epoch="-", loss="-", speed="-", wait="-")

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, epoch: int, loss: float, views_per_second: float, wait_share: float) -> None:
        """Show the state after a step (counted from 1) of an epoch (counted from 0)."""
        figures: dict[str, Any] = {
            "loss": f"{loss:.4f}",
            "speed": f"{views_per_second:,.0f}",
            "wait": f"{wait_share:.0%}",
        }
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=f"{epoch + 1}/{self.epochs}", **figures)
            return
        now = time.monotonic()
        if now - self._said < QUIET_SECONDS and step < self.steps:
            return
        self._said = now
        left = (now - self._began) / max(1, step - self._first) * (self.steps - step)
        self.console.say(
            f"epoch {epoch + 1}/{self.epochs}  step {step}/{self.steps}  loss {figures['loss']}  "
            f"{figures['speed']} views/s  waiting {figures['wait']}  left {format_seconds(left)}",
        )


def format_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
