"""Decoding on all cores, in processes that may crash or hang."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.worker import HEADER, READY, UNREADABLE

JOBS_AT_ONCE = 32
WINDOW_BYTES = 256 << 20
"""Decoded pixels that may wait for an earlier image before the other processes are held back."""

PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from s2r2.images.worker import main; main()"


class Job(NamedTuple):
    """A file to decode.

    Attributes:
        path: The file.
        offset: Where the image begins in it.
        size: Its bytes; -1 to the file's end.
        checksum: CRC-32 of the file as it is known; if that is still so, it is not decoded. -1 if unknown.
        kind: ``"pixels"``, or ``"size"`` to read the header only.
    """

    path: str
    offset: int
    size: int
    checksum: int = -1
    kind: str = "pixels"


class Answer(NamedTuple):
    """What became of a job: one of the worker's statuses, and pixels or a reason."""

    status: int
    height: int
    width: int
    content_checksum: int
    pixel_checksum: int
    payload: bytes | memoryview

    @property
    def reason(self) -> str:
        """Why the image cannot be read."""
        return bytes(self.payload).decode("utf-8", "replace") if self.status == UNREADABLE else ""


class DecodingPool:
    """Worker processes that decode files.

    Args:
        workers: How many.
        short_side: Images are reduced to this shorter side; None keeps their size.
        max_pixels: Larger images are refused.
        seconds: A process that shows no progress for this long is ended, and its image refused.
    """

    def __init__(self, workers: int, short_side: int | None, max_pixels: int, seconds: float = 60.0) -> None:
        self.workers = workers
        self.seconds = seconds
        # Pillow's 4 bytes a pixel, several times over while it is converted.
        memory = max(4 << 30, 32 * max_pixels)
        self.settings = json.dumps([short_side, max_pixels, memory])

    def run(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Answers in the order of the jobs.

        Raises:
            S2R2Error: The processes cannot be started.
        """
        workers = max(1, min(self.workers, -(-len(jobs) // 4)))
        queue = _InOrder(jobs, min(JOBS_AT_ONCE, -(-len(jobs) // workers)))
        members = [_Member(queue, self.settings, self.seconds) for _ in range(workers)]
        watchdog = threading.Thread(target=_watch, args=(queue, members), daemon=True)
        try:
            for thread in (*members, watchdog):
                thread.start()
            yield from queue
        finally:
            queue.close()
            for member in members:
                member.kill()
            for thread in (*members, watchdog):
                if thread.ident is not None:
                    thread.join()


class _InOrder:
    """Hands out jobs in order and gives their answers back in order, holding back those who are far ahead."""

    def __init__(self, jobs: Sequence[Job], at_once: int) -> None:
        self.jobs = jobs
        self.at_once = at_once
        self.closed = False
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._next_job = 0
        self._head = 0
        self._waiting: dict[int, list[Answer]] = {}
        self._waiting_bytes = 0

    def take(self) -> tuple[int, Sequence[Job]] | None:
        """The next few jobs and the number of the first; None when there are no more."""
        with self._changed:
            start = self._next_job
            if self.closed or start >= len(self.jobs):
                return None
            self._next_job = start + self.at_once
            return start, self.jobs[start : start + self.at_once]

    def put(self, start: int, answers: list[Answer]) -> None:
        """Give answers to the jobs from ``start`` on; waits while too much waits for an earlier job."""
        size = sum(len(answer.payload) for answer in answers)
        with self._changed:
            while self._waiting_bytes + size > WINDOW_BYTES and start > self._head and not self.closed:
                self._changed.wait()
            self._waiting[start] = answers
            self._waiting_bytes += size
            if start == self._head:
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the iteration with an error."""
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more and hold nobody back."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Answer]:
        while self._head < len(self.jobs):
            with self._changed:
                while self._head not in self._waiting and self.error is None:
                    self._changed.wait()
                if self.error is not None:
                    raise self.error
                answers = self._waiting.pop(self._head)
                self._waiting_bytes -= sum(len(answer.payload) for answer in answers)
                self._head += len(answers)
                self._changed.notify_all()
            yield from answers


class _Member(threading.Thread):
    """A thread that keeps one worker process busy and starts another when it dies."""

    def __init__(self, queue: _InOrder, settings: str, seconds: float) -> None:
        super().__init__(daemon=True, name="s2r2-decode")
        self.queue = queue
        self.settings = settings
        self.seconds = seconds
        self.deadline: float | None = None
        self.overdue = False
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        try:
            while (task := self.queue.take()) is not None:
                self._do(*task)
        except BaseException as error:
            if not self.queue.closed:
                self.queue.fail(error)
        finally:
            self._forget()

    def kill(self) -> None:
        """End the process, if it runs."""
        process = self.process
        if process is not None:
            process.kill()
            process.wait()

    def _forget(self) -> None:
        """End the process and close its pipes."""
        self.kill()
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):  # what was not written yet has nowhere to go
                    pipe.close()  # type: ignore[union-attr]
        self.process = None

    def _do(self, start: int, jobs: Sequence[Job]) -> None:
        """Have jobs done; after a death, the rest one by one, so that it is known which image was the cause."""
        done = 0
        if self.queue.closed:
            return
        try:
            process = self.process or self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(jobs).encode() + b"\n")
            process.stdin.flush()
            while done < len(jobs):
                answers = self._receive(process)
                self.queue.put(start + done, answers)
                done += len(answers)
        except (EOFError, OSError):
            reason = self._post_mortem()
            if self.queue.closed:
                return
            if done == len(jobs) - 1:
                self.queue.put(start + done, [Answer(UNREADABLE, 0, 0, 0, 0, reason.encode())])
            else:
                for number in range(done, len(jobs)):
                    self._do(start + number, jobs[number : number + 1])

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), self.settings]
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=environment
            )
            self.process = process
            assert process.stdout is not None
            _widen(process.stdout.fileno())
            if process.stdout.read(1) != READY and not self.queue.closed:
                process.wait()
                complaints.seek(0)
                lines = complaints.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), f"exit status {process.returncode}")
                raise S2R2Error(f"cannot start a decoding process: {last}")
        return process

    def _receive(self, process: subprocess.Popen[bytes]) -> list[Answer]:
        self.deadline = time.monotonic() + self.seconds
        try:
            count = int.from_bytes(self._read(process, 4), "little")
            headers = np.frombuffer(self._read(process, count * HEADER.itemsize), HEADER)
            body = self._read(process, int(headers["bytes"].sum()))
        finally:
            self.deadline = None
        ends = np.cumsum(headers["bytes"]).tolist()
        return [
            Answer._make((*header[:5], body[end - header[5] : end]))
            for header, end in zip(headers.tolist(), ends, strict=True)
        ]

    def _read(self, process: subprocess.Popen[bytes], size: int) -> memoryview:
        assert process.stdout is not None
        buffer = np.empty(size, np.uint8).data
        filled = 0
        while filled < size:
            count = process.stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        return buffer.toreadonly()

    def _post_mortem(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired, AttributeError):
            self.process.wait(1.0)  # type: ignore[union-attr]  # it has closed its pipe: let it say how it ended
        self.kill()
        code = self.process.returncode if self.process is not None else 0
        self._forget()
        overdue, self.overdue = self.overdue, False
        if overdue:
            return f"took more than {self.seconds:g} s to decode"
        return f"the decoder crashed on it ({f'signal {-code}' if code < 0 else f'exit status {code}'})"


def _widen(pipe: int) -> None:
    """Let a pipe hold a megabyte, where the system allows it: fewer switches between the processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _watch(queue: _InOrder, members: Sequence[_Member]) -> None:
    """End processes that are overdue."""
    while not queue.closed:
        now = time.monotonic()
        for member in members:
            deadline = member.deadline
            if deadline is not None and now > deadline and member.process is not None:
                member.overdue = True
                member.process.kill()
        time.sleep(0.1)
