"""Decoding on all cores, in processes that may crash or hang. They stay, so that a single image starts none."""

import atexit
import contextlib
import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.decoder import Part, max_pixels_allowed
from s2r2.images.decoding.facts import PhotoFacts
from s2r2.images.decoding.member import Budget, Member, start_process
from s2r2.images.decoding.protocol import SIZE, UNREADABLE, Answer, Job, Settings
from s2r2.system.prefetch import InOrder

JOBS_AT_ONCE = 32
JOBS_AHEAD = 1 << 14
"""Far more than are in work: what holds the processes back is the memory that results take."""
PIXELS_AT_ONCE = 100_000_000
"""Pixels that large images may have in the memory of all processes together; a larger image has it to itself."""
IDLE_SECONDS = 30.0
"""Processes that had nothing to do for so long are ended, but for one."""


class DecodingPool:
    """Worker processes that decode files, started when they are needed; threads may share it.

    Args:
        workers: How many at most.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        budget = Budget(PIXELS_AT_ONCE)
        # One more than may run through lists, so that what consumes a list can always have a single image decoded.
        self._members = [Member(budget, self._start) for _ in range(workers + 1)]
        self._free = deque(self._members)
        self._changed = threading.Condition()
        self._for_lists = threading.Semaphore(workers)
        self._to_start: queue.SimpleQueue[Future[subprocess.Popen[bytes]]] = queue.SimpleQueue()
        self._keeper: threading.Thread | None = None

    def run(self, jobs: Sequence[Job], settings: Settings, workers: int | None = None) -> Iterator[Answer]:
        """Answers in the order of the jobs.

        Args:
            jobs: The files.
            settings: What is wanted of them.
            workers: How many processes do them at most.

        Raises:
            S2R2Error: The processes cannot be started.
        """
        workers = max(1, min(workers or self.workers, self.workers, -(-len(jobs) // 4)))
        ordered: InOrder[Job, Answer] = InOrder(
            jobs,
            ahead=JOBS_AHEAD,
            at_once=min(JOBS_AT_ONCE, -(-len(jobs) // workers)),
            size=lambda answer: len(answer.payload),
        )
        working, lock = set[Member](), threading.Lock()

        def work() -> None:
            with self._for_lists, self._member() as member:
                with lock:
                    working.add(member)
                try:
                    _work(ordered, member, settings)
                finally:
                    with lock:
                        working.remove(member)

        def stop() -> None:
            with lock:
                for member in working:
                    member.kill()

        yield from ordered.run(work, workers, "s2r2-decode", stop)

    def one(self, job: Job, settings: Settings) -> Answer:
        """The answer to a single job, in the calling thread.

        Raises:
            S2R2Error: The process cannot be started.
        """
        with self._member() as member:
            return next(answer for answers in member.do([job], settings) for answer in answers)

    def close(self) -> None:
        """End the processes; they are started again when they are needed."""
        for member in self._members:
            member.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        """A new process, from the one thread that stays: the system may end a process with the thread it came from."""
        with self._changed:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True, name="s2r2-decoders")
                self._keeper.start()
        started: Future[subprocess.Popen[bytes]] = Future()
        self._to_start.put(started)
        return started.result()

    @contextlib.contextmanager
    def _member(self) -> Iterator[Member]:
        """A member for oneself; the one that worked last, so that the others can be ended."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            member = self._free.pop()
        try:
            yield member
        except BaseException:
            member.forget()  # it may be in the middle of a job
            raise
        finally:
            member.idle_since = time.monotonic()
            with self._changed:
                self._free.append(member)
                self._changed.notify()

    def _keep(self) -> None:
        """Start processes, and end those that are overdue or have nothing to do."""
        since = time.monotonic()  # a process just started may not be its member's yet
        while True:
            alive = [member for member in self._members if member.process is not None]
            with contextlib.suppress(queue.Empty):
                started = self._to_start.get(timeout=0.1 if alive or time.monotonic() - since < IDLE_SECONDS else None)
                since = time.monotonic()
                try:
                    started.set_result(start_process())
                except Exception as error:
                    started.set_exception(error)
            now = time.monotonic()
            for member in alive:
                member.end_if_overdue(now)
            with self._changed:
                idle = [m for m in self._free if m.process is not None and now - m.idle_since > IDLE_SECONDS]
                for member in idle[: max(0, len(alive) - 1)]:
                    member.forget()


def _work(ordered: InOrder[Job, Answer], member: Member, settings: Settings) -> None:
    """Have a member do jobs until there are none, or nobody wants them any more."""
    while (task := ordered.take()) is not None:
        start, jobs = task
        for answers in member.do(jobs, settings, unwanted=lambda: ordered.closed):
            ordered.put(start, answers)
            start += len(answers)
            if ordered.closed:
                member.forget()
                return


_shared: DecodingPool | None = None
_lock = threading.Lock()


def shared_pool() -> DecodingPool:
    """The pool of this process: a process for each core at most."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = DecodingPool(max(2, os.cpu_count() or 1))
            atexit.register(_shared.close)
        return _shared


def _forget_shared() -> None:
    """In a forked process: the workers belong to the other one."""
    global _shared, _lock
    _shared, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared)


def decode_expendable(
    image: "bytes | tuple[str, int, int]",
    *,
    short_side: int | None = None,
    max_pixels: int | None = None,
    part: Part | None = None,
    seconds: float = 60.0,
) -> np.ndarray:
    """What :func:`s2r2.images.decode` gives, made in a process that may crash, hang or grow; threads may call at once.

    Args:
        image: The file's content, or path, offset and size (-1: to the end) of it.
        short_side: As in ``decode``.
        max_pixels: As in ``decode``.
        part: As in ``decode``.
        seconds: Longer it may not take.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImage: It cannot be decoded, or not in time.
        S2R2Error: No process can be started.
    """
    allowed = max_pixels_allowed()
    try:
        return _pixels(_one(image, "pixels", Settings(short_side, max_pixels or allowed, part, seconds)))
    except UnreadableImage as error:
        if max_pixels in (None, allowed):
            raise
        raise UnreadableImage(
            str(error).removesuffix(" (S2R2_MAX_PIXELS)")
        ) from error  # the caller's limit is another one


def decode_with_facts(content: bytes, *, short_side: int | None = None) -> tuple[np.ndarray, PhotoFacts]:
    """What :func:`decode_expendable` gives, and what the file says of the photo.

    Raises:
        UnreadableImage: It cannot be decoded, or not in time.
        S2R2Error: No process can be started.
    """
    answer = _one(content, "pixels", Settings(short_side, max_pixels_allowed(), facts=True))
    return _pixels(answer), answer.facts or PhotoFacts()


def _pixels(answer: Answer) -> np.ndarray:
    return np.frombuffer(answer.payload, np.uint8).reshape(answer.height, answer.width, 3)


def size_expendable(image: "bytes | tuple[str, int, int]", *, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height of the upright image, from its header alone, found in such a process.

    Raises:
        UnreadableImage: The header is that of no image, or of one that is too large.
    """
    answer = _one(image, "size", Settings(None, max_pixels or max_pixels_allowed()))
    assert answer.status == SIZE
    return answer.width, answer.height


def _one(image: "bytes | tuple[str, int, int]", kind: str, settings: Settings) -> Answer:
    if isinstance(image, bytes):
        job = Job("", kind=kind, content=image)
    else:
        path, offset, size = image
        job = Job(os.path.abspath(path), offset, size, kind=kind)  # the process may have been started elsewhere
    answer = shared_pool().one(job, settings)
    if answer.status == UNREADABLE:
        raise UnreadableImage(answer.reason)
    return answer
