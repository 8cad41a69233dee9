"""Threads that work ahead of their consumer, and give it their results in order.

Decoding into a pixel store, reading photos for an index, embedding and making views for training all go through here.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

WINDOW_BYTES = 256 << 20
"""Results that may wait for an earlier one before the threads that make them are held back."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    threads: int,
    ahead: int,
    at_once: int = 1,
    size: Callable[[Result], int] = lambda result: 0,
    name: str = "s2r2-ahead",
) -> Generator[Result, None, None]:
    """What a function makes of each job, in order, made by threads a few jobs ahead of whoever consumes it.

    Closing the generator waits until the threads have ended. An error in one of them ends the iteration.

    Args:
        function: Called in the threads.
        jobs: Drawn one by one in the consumer's thread, as late as ``ahead`` allows.
        threads: How many.
        ahead: Jobs that are handed out before the first of them is consumed.
        at_once: Jobs that a thread takes at once: for short ones it costs less.
        size: Bytes of a result; a thread whose results are not the next ones waits while too many bytes wait.
        name: What the threads are called.
    """
    ordered: InOrder[Job, Result] = InOrder(jobs, ahead=ahead, at_once=at_once, size=size)

    def work() -> None:
        while (taken := ordered.take()) is not None:
            start, some = taken
            ordered.put(start, [function(job) for job in some])

    yield from ordered.run(work, threads, name)


class InOrder(Generic[Job, Result]):
    """Hands out jobs in order and gives their results back in order.

    Args:
        jobs: As for :func:`in_order`.
        ahead: Likewise.
        at_once: Likewise.
        size: Likewise.
    """

    def __init__(
        self, jobs: Iterable[Job], *, ahead: int, at_once: int = 1, size: Callable[[Result], int] = lambda result: 0
    ) -> None:
        self.closed = False
        self._jobs, self._ahead, self._at_once, self._size = iter(jobs), ahead, at_once, size
        self._lock = threading.Lock()
        self._has_job, self._has_room, self._has_result = (threading.Condition(self._lock) for _ in range(3))
        self._drawn: deque[Job] = deque()
        self._all_drawn = False
        self._given = 0  # jobs that threads may take
        self._taken = 0  # jobs that they have taken
        self._head = 0  # number of the job whose result is consumed next
        self._waiting: dict[int, list[Result]] = {}
        self._waiting_bytes = 0
        self._error: BaseException | None = None

    def take(self) -> tuple[int, Sequence[Job]] | None:
        """The next few jobs and the number of the first; waits for them. None when there are no more."""
        with self._lock:
            while not (self._drawn or self._all_drawn or self.closed):
                self._has_job.wait()
            if self.closed or not self._drawn:
                return None
            start = self._taken
            jobs = [self._drawn.popleft() for _ in range(min(self._at_once, len(self._drawn)))]
            self._taken += len(jobs)
            return start, jobs

    def put(self, start: int, results: list[Result]) -> None:
        """Give results of the jobs from ``start`` on; waits while too much waits for an earlier job."""
        size = sum(map(self._size, results))
        with self._lock:
            while self._waiting_bytes + size > WINDOW_BYTES and start > self._head and not self.closed:
                self._has_room.wait()
            self._waiting[start] = results
            self._waiting_bytes += size
            if start == self._head:
                self._has_result.notify()

    def run(
        self, work: Callable[[], None], threads: int, name: str, stop: Callable[[], None] = lambda: None
    ) -> Generator[Result, None, None]:
        """Have threads do the jobs, and yield the results.

        Args:
            work: What each thread does: :meth:`take` and :meth:`put` until there is nothing to take.
            threads: How many.
            name: What they are called.
            stop: Called when nobody wants more results, so that no thread goes on for long.
        """

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._fail(error)

        running = [threading.Thread(target=guarded, daemon=True, name=name) for _ in range(threads)]
        try:
            for thread in running:
                thread.start()
            yield from self._results()
        finally:
            self._close()
            stop()
            for thread in running:
                if thread.ident is not None:
                    thread.join()

    def _results(self) -> Iterator[Result]:
        while True:
            self._draw()
            with self._lock:
                if self._all_drawn and self._head == self._given:
                    return
                while self._head not in self._waiting and self._error is None:
                    self._has_result.wait()
                if self._error is not None:
                    raise self._error
                results = self._waiting.pop(self._head)
                self._waiting_bytes -= sum(map(self._size, results))
                self._head += len(results)
                self._has_room.notify_all()
            yield from results

    def _draw(self) -> None:
        """Hand out jobs as far ahead as is allowed."""
        while not self._all_drawn and self._given < self._head + self._ahead:
            try:
                job = next(self._jobs)
            except StopIteration:
                with self._lock:
                    self._all_drawn = True
                    self._has_job.notify_all()
                return
            with self._lock:
                self._drawn.append(job)
                self._given += 1
                self._has_job.notify()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            self._has_result.notify()

    def _close(self) -> None:
        """Hand out nothing more and hold nobody back."""
        with self._lock:
            self.closed = True
            self._has_job.notify_all()
            self._has_room.notify_all()
