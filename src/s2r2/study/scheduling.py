"""Cells in processes of their own, as many at once as there are GPUs or cores, until all are done or time is up."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

from s2r2.errors import S2R2Error
from s2r2.study.plan import CELL_FILE, Cell, is_done
from s2r2.system.child_processes import known_to_children, module_command, module_environment
from s2r2.system.console import PlainConsole
from s2r2.system.files import make_folder, write_text
from s2r2.system.progress import format_seconds

INTERRUPTED = 130
SECONDS_TO_STOP = 60.0
_POLL = 0.2


@dataclass
class _Slot:
    """A place where one cell at a time runs: a GPU, or a share of the cores."""

    environment: dict[str, str]
    cell: Cell | None = None
    process: subprocess.Popen[bytes] | None = None
    errors: IO[bytes] | None = None
    began: float = 0.0


@dataclass
class Scheduler:
    """Runs cells.

    Args:
        out: The study's folder.
        processes: Cells at once; 0: one for each GPU, without GPUs one for each core.
        deadline: When to stop, on the monotonic clock; what is running then saves and goes on at the next call.
        console: Where to say what goes on.
    """

    out: Path
    processes: int
    deadline: float
    console: PlainConsole
    _slots: list[_Slot] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> bool:
        """Run those that are not done yet; whether all of them are done at the end.

        Raises:
            S2R2Error: A cell cannot be run: its reason. The others are stopped, saving.
        """
        waiting = [cell for cell in cells if not is_done(cell, self.out)]
        done = len(cells) - len(waiting)
        self._slots = _slots(self.processes)
        try:
            while True:
                for slot in self._slots:
                    if slot.process is not None and slot.process.poll() is not None:
                        finished = self._finish(slot)
                        done += finished
                        if finished:
                            self._say(slot, done, len(cells))
                    if slot.process is None and waiting and time.monotonic() < self.deadline:
                        self._begin(slot, waiting.pop(0))
                running = [slot for slot in self._slots if slot.process is not None]
                if not running:
                    return done == len(cells)
                if time.monotonic() >= self.deadline:
                    self._stop()
                time.sleep(_POLL)
        finally:
            self._stop()

    def _begin(self, slot: _Slot, cell: Cell) -> None:
        folder = cell.folder(self.out)
        make_folder(folder)
        write_text(folder / CELL_FILE, json.dumps(cell.content, indent=1) + "\n")
        slot.errors = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        slot.process = subprocess.Popen(
            [*module_command("s2r2.study.cell"), str(folder)],
            env={**os.environ, **slot.environment, **known_to_children(), **module_environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slot.errors,
            start_new_session=True,  # Ctrl-C reaches the scheduler, which tells the cells
        )
        slot.cell, slot.began = cell, time.monotonic()

    def _finish(self, slot: _Slot) -> bool:
        """Whether the cell that has ended is done."""
        assert slot.process is not None
        assert slot.errors is not None
        assert slot.cell is not None
        code, slot.process = slot.process.returncode, None
        slot.errors.seek(0)
        lines = slot.errors.read().decode(errors="replace").strip().splitlines()
        slot.errors.close()
        if code == 0:
            return True
        if code in (INTERRUPTED, -signal.SIGINT):
            return False
        said = " ".join(lines) if code == 2 else lines[-1] if lines else ""  # 2: a line of its own, else a traceback
        reason = said or f"its process ended with code {code}"
        raise S2R2Error(f"{slot.cell.title}: {reason} (folder {slot.cell.folder(self.out)}); call again to go on")

    def _say(self, slot: _Slot, done: int, count: int) -> None:
        assert slot.cell is not None
        self.console.say(
            f"{done:>4}/{count}  {slot.cell.title}  {format_seconds(time.monotonic() - slot.began)}",
        )

    def _stop(self) -> None:
        """Tell what runs to save and stop, and wait for it."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + SECONDS_TO_STOP
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _slots(processes: int) -> list[_Slot]:
    gpus = torch.cuda.device_count()
    cores = os.cpu_count() or 1
    count = processes or gpus or cores
    threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}
    return [
        _Slot({**threads, **({"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {})}) for number in range(count)
    ]
