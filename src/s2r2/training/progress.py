"""What is shown while a run trains: a bar on a terminal, a line every few seconds elsewhere."""

import time

from s2r2.system.console import PlainConsole
from s2r2.system.progress import ProgressLine, format_seconds
from s2r2.views import ViewLoader

SECONDS_BETWEEN_LINES = 5.0


class StepClock:
    """Speed of the last step, and how much of its time was spent waiting for views."""

    def __init__(self, loader: ViewLoader) -> None:
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
    """Shows loss, views per second, the share of time spent waiting for views, and the time left."""

    def __init__(self, console: PlainConsole, steps: int, done: int, epochs: int) -> None:
        super().__init__("training", steps, done=done, console=console, kept=True)
        self.console, self.steps, self.epochs = console, steps, epochs
        self._first, self._began, self._last_line = done, time.monotonic(), 0.0

    def show(self, step: int, epoch: int, loss: float, clock: StepClock) -> None:
        """Show the state after a step (counted from 1) of an epoch (counted from 0)."""
        where = f"epoch {epoch + 1}/{self.epochs}"
        figures = f"loss {loss:.4f}  {clock.views_per_second:,.0f} views/s  waiting {clock.wait_share:.0%}"
        self.update(step, where, figures)
        now = time.monotonic()
        if self.shown or (now - self._last_line < SECONDS_BETWEEN_LINES and step < self.steps):
            return
        self._last_line = now
        left = (now - self._began) / max(1, step - self._first) * (self.steps - step)
        self.console.say(f"{where}  step {step}/{self.steps}  {figures}  left {format_seconds(left)}")
