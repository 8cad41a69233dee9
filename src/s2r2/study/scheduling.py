"""Cells to be run, taken one by one from among the calls that share a study, until all have ended or time is up."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from s2r2.study.claims import Claim, Stamp, failure_stamp, read_failure, write_failure
from s2r2.study.plan import Cell, has_diverged, is_done
from s2r2.system.console import PlainConsole
from s2r2.system.locking import HeldError
from s2r2.system.progress import format_seconds

_POLL = 0.2
_LOOK_AGAIN = 1.0
"""Seconds between two looks at cells that other calls run."""


class Executor(Protocol):
    """Where cells run."""

    def room(self) -> int:
        """How many more can be started now."""

    def start(self, claims: Sequence[Claim]) -> None:
        """Run cells; their claims are released when they have ended, or by whoever takes them over."""

    def ended(self) -> list[tuple[Cell, str]]:
        """Those that have ended since the last call, and why, should they have left neither a result nor an error."""

    def running(self) -> int:
        """How many have been started and have not ended."""

    def stop(self) -> None:
        """Tell what runs to save and stop, and wait for it."""


@dataclass
class Scheduler:
    """Runs the cells of one call; other calls, on other machines too, may run others of the same study.

    Args:
        out: The study's folder.
        executor: Where cells run.
        deadline: When to stop, on the monotonic clock; what is running then saves and goes on at the next call.
        console: Where to say what goes on.

    Attributes:
        failures: Those of cells that were there when the call began: these cells are tried again, once.
    """

    out: Path
    executor: Executor
    deadline: float
    console: PlainConsole
    failures: dict[Path, Stamp | None] = field(default_factory=dict)
    _waiting: list[Cell] = field(default_factory=list)
    _began: dict[Path, float] = field(default_factory=dict)
    _ended: int = 0
    _count: int = 0
    _said_waiting: bool = False

    def run(self, cells: Sequence[Cell]) -> None:
        """Run those that are not done yet, until each of them is done or has failed, here or in another call."""
        self._waiting = [cell for cell in cells if not is_done(cell, self.out) and not self._has_failed(cell)]
        self._count, self._ended, self._said_waiting = len(cells), len(cells) - len(self._waiting), False
        look_at = 0.0
        try:
            while self._waiting or self.executor.running():
                for cell, reason in self.executor.ended():
                    self._settle(cell, reason)
                now = time.monotonic()
                if now >= self.deadline:
                    break
                if now >= look_at and not self._start():
                    look_at = now + _LOOK_AGAIN
                time.sleep(_POLL)
        finally:
            self.executor.stop()

    def _start(self) -> bool:
        """Start as many cells as there is room for; whether there were any."""
        claims: list[Claim] = []
        room = self.executor.room()
        for cell in self._waiting[:] if room else ():
            try:
                claim = Claim.take(cell, self.out)
            except HeldError as error:
                if not (self._said_waiting or self.executor.running() or claims):
                    self.console.say(f"waiting   {str(error).rpartition(':')[0]}")
                    self._said_waiting = True
                continue
            if self._has_ended(cell):
                claim.release()
                continue
            claim.begin()
            claims.append(claim)
            if len(claims) == room:
                break
        for claim in claims:
            self._waiting.remove(claim.cell)
            self._began[claim.folder] = time.monotonic()
        if claims:
            self.executor.start(claims)
        return bool(claims)

    def _has_failed(self, cell: Cell) -> bool:
        """Whether a cell has failed since this call began."""
        folder = cell.folder(self.out)
        found = failure_stamp(folder)
        return found not in (None, self.failures.setdefault(folder, found))

    def _has_ended(self, cell: Cell) -> bool:
        """Whether a cell that waits was run by another call in the meantime; then it is counted."""
        done = is_done(cell, self.out)
        if not done and not self._has_failed(cell):
            return False
        self._waiting.remove(cell)
        self._say(cell, "" if done else read_failure(cell.folder(self.out)), "by another call")
        return True

    def _settle(self, cell: Cell, reason: str) -> None:
        """Count a cell whose process has ended: it is done, has failed, or has been taken over by another call."""
        folder = cell.folder(self.out)
        if not is_done(cell, self.out) and not read_failure(folder):
            try:
                claim = Claim.take(cell, self.out)
            except HeldError:
                self._waiting.append(cell)
                return
            write_failure(folder, reason)
            claim.release()
        failure = "" if is_done(cell, self.out) else read_failure(folder)
        ending = ", diverged" if has_diverged(cell, self.out) else ""
        self._say(cell, failure, f"{format_seconds(time.monotonic() - self._began[folder])}{ending}")

    def _say(self, cell: Cell, failure: str, how: str) -> None:
        self._ended += 1
        self.console.say(f"{self._ended:>4}/{self._count}  {cell.title}  {f'failed: {failure}' if failure else how}")
