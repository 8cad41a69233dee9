"""Threads that work ahead: results in order, not too far ahead, and nothing left running."""

import threading
import time
from collections.abc import Iterator

import pytest

from s2r2.system import prefetch
from s2r2.system.prefetch import InOrder, in_order


@pytest.mark.parametrize(("threads", "ahead", "at_once"), [(1, 1, 1), (4, 3, 1), (4, 40, 8), (3, 7, 5)])
def test_results_come_in_order(threads: int, ahead: int, at_once: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number * number

    found = list(in_order(work, range(50), threads=threads, ahead=ahead, at_once=at_once))
    assert found == [number * number for number in range(50)]
    assert list(in_order(work, [], threads=threads, ahead=ahead)) == []


def test_jobs_are_drawn_in_the_consumers_thread_and_no_further_ahead_than_asked() -> None:
    drawn: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(100):
            assert threading.current_thread() is threading.main_thread()
            drawn.append(number)
            yield number

    results = in_order(lambda number: number, jobs(), threads=2, ahead=5)
    for consumed in range(10):
        assert next(results) == consumed
        assert len(drawn) <= consumed + 5
    results.close()
    assert len(drawn) < 20


def test_an_error_reaches_the_consumer_and_threads_end() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    before = threading.active_count()
    with pytest.raises(ValueError, match="the third"):
        list(in_order(work, range(100), threads=4, ahead=10))
    assert threading.active_count() == before


def test_results_that_take_much_memory_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow first job must not let the others fill the memory; nor must they be held back for ever."""
    monkeypatch.setattr(prefetch, "WINDOW_BYTES", 10)
    go, made, made_before = threading.Event(), set[int](), list[int]()
    ordered: InOrder[int, bytes] = InOrder(range(40), ahead=1000, size=len)

    def work() -> None:
        while (taken := ordered.take()) is not None:
            start, _ = taken
            if start == 0:
                go.wait(10)
            made.add(start)
            ordered.put(start, [b"1234"])

    results = ordered.run(work, 4, "test")

    def release() -> None:
        made_before.append(len(made))
        go.set()

    threading.Timer(0.1, release).start()
    assert list(results) == [b"1234"] * 40
    assert 2 <= made_before[0] <= 2 + 3  # what fits, and what each of the other threads holds
