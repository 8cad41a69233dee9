"""One worker process: what is sent to it, what comes back, and what becomes of it."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.decoding.facts import read_facts
from s2r2.images.decoding.protocol import ASKING, HEADER, READY, UNREADABLE, Answer, Job, Settings
from s2r2.system.child_processes import known_to_children

PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from s2r2.images.decoding.worker import main
main()
"""


@dataclass
class Budget:
    """Pixels that may be in memory, given out in the order in which they are asked for."""

    total: int
    used: int = 0
    waiting: deque[object] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, pixels: int) -> None:
        """Wait until so many are free, or all of them."""
        ticket = object()
        with self.changed:
            self.waiting.append(ticket)
            while self.waiting[0] is not ticket or (self.used and self.used + pixels > self.total):
                self.changed.wait()
            self.waiting.popleft()
            self.used += pixels
            self.changed.notify_all()

    def give(self, pixels: int) -> None:
        """Give them back."""
        if pixels:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


class Member:
    """A worker process, started anew when it has died; used by one thread at a time.

    Args:
        budget: Pixels that it shares with others.
        start: Starts a process by :func:`start_process`, in a thread that stays.
    """

    def __init__(self, budget: Budget, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.idle_since = 0.0
        self._budget, self._start = budget, start
        self._deadline: float | None = None
        self._seconds = 0.0
        self._overdue = False
        self._pixels = 0

    def do(
        self, jobs: Sequence[Job], settings: Settings, *, unwanted: Callable[[], bool] = bool, again: bool = True
    ) -> Iterator[list[Answer]]:
        """Have jobs done; after a death, the rest again one by one: it is known then which image was the cause.

        Args:
            jobs: The files.
            settings: What is wanted of them.
            unwanted: Whether nobody wants the answers any more.
            again: Whether a job that ends the process is done once more.
        """
        done = 0
        process = self._running()
        try:
            self._send(process, jobs, settings)
            while done < len(jobs):
                answers = self._receive(process, settings.seconds)
                done += len(answers)
                yield answers
        except (EOFError, OSError):
            overdue, reason = self._post_mortem()
            if unwanted():
                return
            if len(jobs) == 1 and (overdue or not again):
                yield [Answer(UNREADABLE, 0, 0, 0, 0, reason.encode())]
                return
            for job in jobs[done:]:
                yield from self.do([job], settings, unwanted=unwanted, again=False)
        finally:
            self._release()

    def kill(self) -> None:
        """End the process, if it runs: whoever waits for its answer is told."""
        process = self.process
        if process is not None:
            process.kill()

    def forget(self) -> None:
        """End the process and close its pipes."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not written yet has nowhere to go
                    pipe.close()  # type: ignore[union-attr]

    def end_if_overdue(self, now: float) -> None:
        """End the process if its image takes too long."""
        deadline = self._deadline
        if deadline is not None and now > deadline:
            self._overdue = True
            self.kill()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.process is not None and self.process.poll() is not None:
            self.forget()
        if self.process is None:
            self.process = self._start()
            _await(self.process)
        return self.process

    def _send(self, process: "subprocess.Popen[bytes]", jobs: Sequence[Job], settings: Settings) -> None:
        lines = [(*job[:5], -1 if job.content is None else len(job.content)) for job in jobs]
        assert process.stdin is not None
        self._deadline, self._seconds, self._overdue = time.monotonic() + settings.seconds, settings.seconds, False
        process.stdin.write(json.dumps([settings, lines]).encode() + b"\n")
        for job in jobs:
            if job.content:
                process.stdin.write(job.content)
        process.stdin.flush()

    def _receive(self, process: "subprocess.Popen[bytes]", seconds: float) -> list[Answer]:
        while True:
            self._deadline = time.monotonic() + seconds
            try:
                count = int.from_bytes(self._read(process, 4), "little")
                headers = np.frombuffer(self._read(process, count * HEADER.itemsize), HEADER)
                body = self._read(process, int(headers["bytes"].sum() + headers["facts"].sum()))
            finally:
                self._deadline = None
            self._release()
            asking = headers["status"][-1] == ASKING
            if asking:
                wanted = 1000 * int(headers["content"][-1])
                headers = headers[:-1]
                self._budget.take(wanted)
                self._pixels = wanted
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            if len(headers):
                ends = np.cumsum(headers["bytes"] + headers["facts"]).tolist()
                return [
                    Answer._make((*header, body[end - size - told : end - told], read_facts(body[end - told : end])))
                    for (*header, size, told), end in zip(headers.tolist(), ends, strict=True)
                ]

    def _read(self, process: "subprocess.Popen[bytes]", size: int) -> memoryview:
        assert process.stdout is not None
        buffer = np.empty(size, np.uint8).data
        filled = 0
        while filled < size:
            count = process.stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        return buffer

    def _release(self) -> None:
        pixels, self._pixels = self._pixels, 0
        self._budget.give(pixels)

    def _post_mortem(self) -> tuple[bool, str]:
        """Whether it took too long, and a line that says how the process ended."""
        process = self.process
        with contextlib.suppress(subprocess.TimeoutExpired, AttributeError):
            process.wait(1.0)  # type: ignore[union-attr]  # it has closed its pipe: let it say how it ended
        self.forget()
        self._deadline = None
        code = process.returncode if process is not None else 0
        overdue, self._overdue = self._overdue or code == -_SIGXCPU, False
        if overdue:
            return True, f"took more than {self._seconds:g} s to decode"
        return False, f"the decoder crashed on it ({f'signal {-code}' if code < 0 else f'exit status {code}'})"


_SIGXCPU = 24


def start_process() -> "subprocess.Popen[bytes]":
    """A worker process, not ready yet.

    Raises:
        S2R2Error: It cannot be started.
    """
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **alone, **known_to_children()}
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path)]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    except OSError as error:
        raise S2R2Error(f"cannot start a decoding process: {error.strerror or error}") from error
    assert process.stdout is not None
    _widen(process.stdout.fileno())
    return process


def _await(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process is ready.

    Raises:
        S2R2Error: It ended instead.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stderr as complaints:
        if process.stdout.read(1) != READY:
            lines = complaints.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), f"exit status {process.wait()}")
            raise S2R2Error(f"cannot start a decoding process: {last}")


def _widen(pipe: int) -> None:
    """Let a pipe hold a megabyte, where the system allows it: fewer switches between the processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
