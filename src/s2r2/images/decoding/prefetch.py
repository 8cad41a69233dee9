"""Work that several threads do, with its results in order."""

import threading
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

WINDOW_BYTES = 256 << 20
"""Results that may wait for an earlier one before the other threads are held back."""


class Sized(Protocol):
    """A result that takes memory."""

    @property
    def payload(self) -> bytes | memoryview: ...  # noqa: D102 (said by the result)


Job = TypeVar("Job")
Result = TypeVar("Result", bound=Sized)


class InOrder(Generic[Job, Result]):
    """Hands out jobs in order and gives their results back in order, holding back those who are far ahead.

    Args:
        jobs: What is to be done.
        at_once: How many a thread takes at once.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int) -> None:
        self.jobs = jobs
        self.at_once = at_once
        self.closed = False
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._next_job = 0
        self._head = 0
        self._waiting: dict[int, list[Result]] = {}
        self._waiting_bytes = 0

    def take(self) -> tuple[int, Sequence[Job]] | None:
        """The next few jobs and the number of the first; None when there are no more."""
        with self._changed:
            start = self._next_job
            if self.closed or start >= len(self.jobs):
                return None
            self._next_job = start + self.at_once
            return start, self.jobs[start : start + self.at_once]

    def put(self, start: int, results: list[Result]) -> None:
        """Give results of the jobs from ``start`` on; waits while too much waits for an earlier job."""
        size = sum(len(result.payload) for result in results)
        with self._changed:
            while self._waiting_bytes + size > WINDOW_BYTES and start > self._head and not self.closed:
                self._changed.wait()
            self._waiting[start] = results
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

    def __iter__(self) -> Iterator[Result]:
        while self._head < len(self.jobs):
            with self._changed:
                while self._head not in self._waiting and self.error is None:
                    self._changed.wait()
                if self.error is not None:
                    raise self.error
                results = self._waiting.pop(self._head)
                self._waiting_bytes -= sum(len(result.payload) for result in results)
                self._head += len(results)
                self._changed.notify_all()
            yield from results
