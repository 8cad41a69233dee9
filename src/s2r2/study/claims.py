"""Taking a cell so that nobody else runs it, and what a cell that failed has left."""

import contextlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2r2.runs import RunFolder
from s2r2.study.plan import CELL_FILE, DIVERGED_FILE, RUN_FOLDER, Cell, changes, with_all_settings
from s2r2.system.files import make_folder, stamp, write_text
from s2r2.system.locking import LOCK, locked

ERROR_FILE = "error.txt"
"""Why a cell failed: the last line of its error, then all of it."""
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Claim:
    """A cell that this process may run, and no other on any machine: its lock is held until :meth:`release`.

    Attributes:
        cell: The cell.
        folder: Where it lives.
        descriptor: Of the lock; a child that inherits it goes on holding the lock when this process is killed.
    """

    cell: Cell
    folder: Path
    descriptor: int
    _lock: ExitStack

    @classmethod
    def take(cls, cell: Cell, out: Path) -> "Claim":
        """Lock a cell.

        Raises:
            HeldError: Another process runs it.
            S2R2Error: Its folder cannot be written to.
        """
        folder, lock = cell.folder(out), ExitStack()
        make_folder(folder)
        descriptor = lock.enter_context(locked(folder / LOCK, f"running {cell.title}", "wait until it has finished"))
        return cls(cell, folder, descriptor, lock)

    def begin(self) -> None:
        """Write down what is to be run, and remove what a failure, or training with other settings, has left."""
        before = self._before()
        if before is not None and changes(before, self.cell.content):
            RunFolder(self.folder / RUN_FOLDER).clear()
        for left in (ERROR_FILE, DIVERGED_FILE):
            (self.folder / left).unlink(missing_ok=True)
        write_text(self.folder / CELL_FILE, json.dumps(self.cell.content, indent=1) + "\n")

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()

    def _before(self) -> Any:
        """What was run here before; None where nothing was."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return with_all_settings(json.loads((self.folder / CELL_FILE).read_text(encoding="utf-8")))
        return None


def write_failure(folder: Path, reason: str, details: str = "") -> None:
    """Leave the reason why a cell failed, in one line, and all that is known of it; with its lock held."""
    write_text(folder / ERROR_FILE, f"{' '.join(reason.split())}\n" + (f"\n{details.strip()}\n" if details else ""))


def read_failure(folder: Path) -> str:
    """Why a cell failed the last time, in one line; empty if it did not."""
    with contextlib.suppress(OSError):
        return (folder / ERROR_FILE).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    return ""


def failure_stamp(folder: Path) -> Stamp | None:
    """Tells one failure of a cell from the next."""
    with contextlib.suppress(OSError):
        return stamp(folder / ERROR_FILE)
    return None
