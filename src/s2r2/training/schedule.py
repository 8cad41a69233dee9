"""How far a run is, from 0 to 1, and what follows from it: by steps, or by the time it has trained."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from s2r2.distributed.processes import Processes
from s2r2.system.wording import amount
from s2r2.training.optimizer import WARMUP_SHARE, learning_rate_at
from s2r2.training.setup.plan import Preparation

Clock = Callable[[], float]
PAUSE, UNUSUAL = 30.0, 10.0
"""Seconds between two looks at the clock, and how many times the longest so far: more than both is a pause."""


class Stopwatch:
    """Seconds that a run has trained, over all its resumes.

    Slow steps, checks and checkpoints count. What does not: the time before the first step (decoding photos), from
    an interruption to its resume, and while the process is stopped or the machine suspended.

    Args:
        seconds: Trained before.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, seconds: float = 0.0, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self._clock, self._moment = clock, clock()
        self._usual = self._longest = 0.0

    def start(self, *, counting: bool = False) -> None:
        """Begin to count now, or count the time since this was made as well."""
        moment = self._clock()
        self.seconds += (moment - self._moment) if counting else 0.0
        self._moment = moment

    def look(self) -> float:
        """Count the time since the last look, and return it."""
        moment = self._clock()
        passed, self._moment = moment - self._moment, moment
        if self._longest and passed > max(PAUSE, UNUSUAL * self._longest):
            passed = self._usual
        self._usual, self._longest = passed, max(self._longest, passed)
        self.seconds += passed
        return passed


class Schedule(ABC):
    """Where a run stands before a step (counted from 0): the same in all processes.

    Attributes:
        watch: The time trained so far; that of the first process counts.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    @abstractmethod
    def progress(self, step: int) -> float:
        """Share of the run that is done, 0 to 1."""

    @abstractmethod
    def learning_rate(self, step: int, peak: float) -> float:
        """Learning rate of the step: a linear rise to the peak, then half a cosine towards zero."""

    @abstractmethod
    def steps(self, step: int) -> int:
        """Steps of the whole run, as far as that is known."""

    @abstractmethod
    def bar(self, step: int) -> tuple[int, int]:
        """What a progress bar shows: so many done, of so many."""

    @abstractmethod
    def describe(self, step: int) -> str:
        """The steps taken and what there is in all, for people."""

    def ended(self, step: int) -> bool:
        """Whether no step is left."""
        return self.progress(step) >= 1

    def look(self, step: int) -> None:
        """So many steps have been taken; called in all processes after the same step."""
        self.watch.look()

    def look_at_ending(self, what: str) -> None:
        """What has been done since the last look is done once more after the last step: a check, a checkpoint."""
        self.watch.look()

    def finish(self) -> None:
        """The last step has been taken; a resume finds nothing left to do."""
        self.watch.look()


class StepSchedule(Schedule):
    """A run of so many steps, of which the first are a warm-up."""

    def __init__(self, steps: int, warmup: int, watch: Stopwatch) -> None:
        super().__init__(watch)
        self._steps, self._warmup = steps, warmup

    def progress(self, step: int) -> float:  # noqa: D102 (as in Schedule)
        return step / self._steps

    def learning_rate(self, step: int, peak: float) -> float:  # noqa: D102
        return learning_rate_at(step, peak=peak, steps=self._steps, warmup=self._warmup)

    def steps(self, step: int) -> int:  # noqa: D102
        return self._steps

    def bar(self, step: int) -> tuple[int, int]:  # noqa: D102
        return step, self._steps

    def describe(self, step: int) -> str:  # noqa: D102
        return f"step {step:,} of {self._steps:,}"


class TimeSchedule(Schedule):
    """A run that ends when its time does, whatever number of steps it has taken.

    The first process tells the time, and all count on from there, until the next look, with the same length of a step.

    Args:
        limit: Seconds of the run, the last check and checkpoint included.
        warmup: The most steps of warm-up; it ends with a tenth of the time in any case.
        watch: The time trained so far.
        processes: All that train.
        done: Steps taken before.
    """

    def __init__(self, limit: float, warmup: int, watch: Stopwatch, processes: Processes, done: int = 0) -> None:
        super().__init__(watch)
        self._limit, self._warmup, self._processes = limit, warmup, processes
        self._step, self._seconds, self._step_seconds, self._ending = done, watch.seconds, 0.0, 0.0
        self._least = 0.0
        self._endings: dict[str, float] = {}

    def progress(self, step: int) -> float:
        """Share of the time that is over; it never goes back, even where the end turns out to take longer."""
        reached = self._seconds + (step - self._step) * self._step_seconds
        return max(self._least, min(1.0, reached / (self._limit - self._ending)))

    def ended(self, step: int) -> bool:
        """Whether another step would end farther from the limit than this one did."""
        return self.progress(step) + 0.5 * self._step_seconds / (self._limit - self._ending) >= 1

    def learning_rate(self, step: int, peak: float) -> float:
        """The rise of a warm-up, times half a cosine."""
        progress = self.progress(step)
        rise = min(1.0, max(progress / WARMUP_SHARE, (step + 1) / self._warmup))
        return 0.5 * peak * rise * (1.0 + math.cos(math.pi * progress))

    def steps(self, step: int) -> int:
        """As many as the time allows if all take as long as those so far."""
        progress = self.progress(step)
        return step + 1 if not progress else max(step + 1, round(step / progress))

    def bar(self, step: int) -> tuple[int, int]:
        """In seconds."""
        return round(self.progress(step) * self._limit), round(self._limit)

    def describe(self, step: int) -> str:  # noqa: D102
        return f"step {step:,}, {self.progress(step) * self._limit / 60:.1f} of {amount(self._limit / 60, 'minute')}"

    def look(self, step: int) -> None:  # noqa: D102
        passed, self._least = self.watch.look(), self.progress(step)
        each = self._step_seconds
        if step > self._step:
            now = passed / (step - self._step)
            each = 0.9 * each + 0.1 * now if each else now
        heard = self._processes.numbers_of_leader(self.watch.seconds, each, sum(self._endings.values()))
        self._step, (self._seconds, self._step_seconds, self._ending) = step, heard

    def look_at_ending(self, what: str) -> None:  # noqa: D102
        self._endings[what] = min(self.watch.look(), 0.25 * self._limit)

    def finish(self) -> None:  # noqa: D102
        super().finish()
        self.watch.seconds = max(self.watch.seconds, self._limit)


def build_schedule(prepared: Preparation, processes: Processes, clock: Clock) -> Schedule:
    """The schedule of a run, by its ``minutes`` or by its steps, from where it stopped."""
    config, watch = prepared.config, Stopwatch(prepared.seconds_done, clock)
    if not config.minutes:
        return StepSchedule(prepared.steps, prepared.warmup_steps, watch)
    warmup = max(1, round(config.warmup_epochs * prepared.steps_per_epoch))
    return TimeSchedule(60 * config.minutes, warmup, watch, processes, prepared.steps_done)
