"""Cells in processes of this machine, as many at once as there are GPUs or cores."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import torch

from s2r2.study.claims import Claim
from s2r2.study.forking import CAN_FORK, CellServer, ForkedCell
from s2r2.study.plan import Cell
from s2r2.system.child_processes import known_to_children, module_command, module_environment

SECONDS_TO_STOP = 60.0


@dataclass
class _Slot:
    """A place where one cell at a time runs: a GPU, or a share of the cores."""

    environment: dict[str, str]
    claim: Claim | None = None
    process: subprocess.Popen[bytes] | ForkedCell | None = None
    errors: IO[bytes] | None = None

    def begin(self, claim: Claim, server: CellServer | None) -> None:
        """Start a process that holds the cell's lock as this one does, and longer should this one be killed."""
        self.claim, self.errors = claim, tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        if server:
            with contextlib.suppress(OSError):  # the server is gone: the cell goes without
                self.process = server.start(claim.folder, claim.descriptor, self.errors.fileno())
                return
        self.process = subprocess.Popen(
            [*module_command("s2r2.study.cell"), str(claim.folder)],
            env={**os.environ, **self.environment, **known_to_children(), **module_environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C reaches the scheduler, which tells the cells
            pass_fds=(claim.descriptor,) if os.name == "posix" else (),
        )

    def finish(self) -> tuple[Cell, str]:
        """The cell whose process has ended, and the last line that it said, or how it ended."""
        assert self.claim is not None
        assert self.process is not None
        assert self.errors is not None
        cell, code = self.claim.cell, self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        self.errors.close()
        self.claim.release()
        self.claim = self.process = self.errors = None
        ended = f"its process was ended by {_signal_name(-code)}" if code < 0 else f"its process ended with code {code}"
        return cell, lines[-1] if lines and code > 0 else ended


class LocalExecutor:
    """Runs cells on this machine.

    Args:
        processes: Cells at once; 0: one for each GPU, without GPUs one for each core.
    """

    def __init__(self, processes: int = 0) -> None:
        gpus = torch.cuda.device_count()
        cores = os.cpu_count() or 1
        count = processes or gpus or cores
        self._threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}
        self._forks = CAN_FORK and not gpus  # CUDA does not bear it
        self._server: CellServer | None = None
        self._slots = [
            _Slot({**self._threads, **({"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {})})
            for number in range(count)
        ]

    def room(self) -> int:
        """Slots that are free."""
        return len(self._slots) - self.running()

    def start(self, claims: Sequence[Claim]) -> None:
        """Start a process for each cell; there are as many free slots."""
        free = (slot for slot in self._slots if slot.process is None)
        if self._forks and not self._server:
            self._server = CellServer(self._threads)
        for claim, slot in zip(claims, free, strict=False):
            slot.begin(claim, self._server)

    def ended(self) -> list[tuple[Cell, str]]:
        """Cells whose processes have ended since the last call, and their last lines."""
        return [slot.finish() for slot in self._slots if slot.process is not None and slot.process.poll() is not None]

    def running(self) -> int:
        """Processes that have not been seen to end."""
        return sum(slot.process is not None for slot in self._slots)

    def stop(self) -> None:
        """Tell what runs to save and stop, and wait for it."""
        running = [slot for slot in self._slots if slot.process is not None]
        for slot in running:
            assert slot.process is not None
            slot.process.send_signal(signal.SIGINT)
        until = time.monotonic() + SECONDS_TO_STOP
        for slot in running:
            assert slot.process is not None
            try:
                slot.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
            slot.finish()
        if self._server:
            self._server.stop()
            self._server = None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
