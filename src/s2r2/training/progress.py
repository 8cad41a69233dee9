"""What is shown while a run trains: a bar on a terminal, a line every few seconds elsewhere."""

import time

from s2r2.system.console import PlainConsole
from s2r2.system.progress import ProgressLine, format_seconds
from s2r2.training.schedule import Schedule
from s2r2.training.setup.images import Loader

SECONDS_BETWEEN_LINES = 5.0


class StepClock:
    """Speed of the last step, and how much of its time was spent waiting for views."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._moment, self._waited = time.perf_counter(), loader.wait_seconds
        self.views_per_second = self.wait_share = 0.0

    def stop(self, views: int) -> None:
        """A step of so many views has ended."""
        now, waited = time.perf_counter(), self._loader.wait_seconds
        seconds = now - self._moment
        self.views_per_second, self.wait_share = views / seconds, (waited - self._waited) / seconds
        self._moment, self._waited = now, waited


class TrainingProgress(ProgressLine):
    """Shows loss, views per second, the share of time spent waiting for views, and the time left.

    Args:
        console: Where.
        schedule: Of the run.
        step: Steps taken before.
        epochs: Of the whole run; 0 where nobody knows.
    """

    def __init__(self, console: PlainConsole, schedule: Schedule, step: int, epochs: int) -> None:
        done, total = schedule.bar(step)
        super().__init__("training", total, done=done, console=console, kept=True)
        self.console, self.schedule, self.epochs = console, schedule, epochs
        self._first, self._began, self._last_line = schedule.progress(step), time.monotonic(), 0.0

    def show(self, step: int, epoch: int, loss: float, clock: StepClock) -> None:
        """Show the state after a step (counted from 1) of an epoch (counted from 0)."""
        where = f"epoch {epoch + 1}/{self.epochs}" if self.epochs else f"epoch {epoch + 1}"
        figures = f"loss {loss:.4f}  {clock.views_per_second:,.0f} views/s  waiting {clock.wait_share:.0%}"
        self.update(self.schedule.bar(step)[0], where, figures)
        now, progress = time.monotonic(), self.schedule.progress(step)
        if self.shown or (now - self._last_line < SECONDS_BETWEEN_LINES and progress < 1):
            return
        self._last_line = now
        left = (now - self._began) / max(1e-9, progress - self._first) * (1 - progress)
        of = f"/{self.schedule.steps(step)}" if self.epochs else ""
        self.console.say(f"{where}  step {step}{of}  {figures}  left {format_seconds(left)}")
