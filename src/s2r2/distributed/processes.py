"""The processes of a command: one, or as many as torchrun started, which then agree on everything."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from s2r2.distributed import messages
from s2r2.distributed.launching import agent_serves, launched_number, meeting_file, restarts, secret
from s2r2.distributed.roll_call import Caller, answer, caller_and_address, meet
from s2r2.errors import S2R2Error, SharedError

T = TypeVar("T")

TIMEOUT_MINUTES = 30.0
"""Embedding a few hundred photos, which may come from a slow address, takes less."""
AT_ONCE = 8
"""Results of each process that travel together: fewer messages, and nobody waits for the slower one at each result."""
_FIRST_TO_FAIL = "first to fail"
_ANSWER_SECONDS = 5.0
_NO_TIMEOUT = timedelta(days=30)  # decoding a data set for the first time may take long; the others wait
_LOST = ("timed out", "timeout", "connection", "peer", "gloo", "nccl")
_SOURCE = re.compile(r"\[?[\w./-]+\.(cc|cpp|cu|h|hpp):\d+\]?[,:]?\s*")
_LONGEST = 120


def _readable(text: str) -> str:
    """The first line of an error of gloo or NCCL, without the places in their sources, cut between words."""
    line = _SOURCE.sub("", next(iter(text.strip().splitlines()), "")).strip().rstrip(".:,")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rpartition(' ')[0] or line[:_LONGEST]} ..."


@dataclass(frozen=True)
class Processes:
    """This process among those of the command.

    Attributes:
        rank: Its number; process 0 leads: it writes and speaks.
        world_size: How many there are.
        local_rank: Its number on this machine.
        local_world_size: How many there are on this machine.
        timed: A group for what takes moments, where a process that does not answer is lost; None in a single process.
        untimed: A group for waits that may be long.
        store: Where the first to fail leaves word; None if the caller made the processes known to each other.
        timeout_minutes: How long a process may fail to answer before the others give up.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    timed: dist.ProcessGroup | None = None
    untimed: dist.ProcessGroup | None = None
    store: dist.Store | None = None
    timeout_minutes: float = TIMEOUT_MINUTES

    @classmethod
    @contextlib.contextmanager
    def joined(cls, timeout_minutes: float = TIMEOUT_MINUTES) -> "Iterator[Processes]":
        """Join the processes that torchrun (or the caller, by ``init_process_group``) has started, if any.

        Args:
            timeout_minutes: How long a process may fail to answer before the others give up.

        Raises:
            S2R2Error: There is no secret; another process ended, or did not answer in time.
            SharedError: Another process failed first, and says why.
        """
        store: dist.Store | None = None
        started = launched_number("WORLD_SIZE", 1) > 1 and not dist.is_initialized()
        local_rank = launched_number("LOCAL_RANK", 0)
        if started or (dist.is_initialized() and dist.get_world_size() > 1):
            secret()  # asked for before anybody waits for anybody
        if started:
            if torch.cuda.is_available():
                torch.cuda.set_device(local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            timeout = timedelta(minutes=timeout_minutes)
            store, caller = _meet(timeout_minutes)
            waiting = cls(caller.rank, caller.world_size, store=store, timeout_minutes=timeout_minutes)
            if waiting.leader:
                store.set(_FIRST_TO_FAIL, "")
            with waiting.errors_said_once("start the same command again"):
                answer(caller, store)
                dist.init_process_group(
                    backend, store=store, rank=caller.rank, world_size=caller.world_size, timeout=timeout
                )
        if not dist.is_initialized() or dist.get_world_size() == 1:
            yield cls()
            return
        limits = (timedelta(minutes=timeout_minutes), _NO_TIMEOUT)
        timed, untimed = (dist.new_group(backend="gloo", timeout=limit) for limit in limits)
        assert isinstance(timed, dist.ProcessGroup)
        assert isinstance(untimed, dist.ProcessGroup)
        world = dist.get_world_size()
        processes = cls(
            rank=dist.get_rank(),
            world_size=world,
            local_rank=local_rank,
            local_world_size=launched_number("LOCAL_WORLD_SIZE", world),
            timed=timed,
            untimed=untimed,
            store=store,
            timeout_minutes=timeout_minutes,
        )
        try:
            with processes.errors_said_once("run the same command again"):
                yield processes
        finally:
            if started:
                dist.destroy_process_group()

    @property
    def leader(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Cores of this machine for each process on it."""
        return max(1, (os.cpu_count() or 1) // self.local_world_size)

    def from_leader(self, action: Callable[[], T]) -> T:
        """What ``action`` returns in process 0, in every process (pickled).

        Raises:
            S2R2Error: The action's, in process 0.
            SharedError: The same, in the others.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, ""]
        if self.leader:
            try:
                outcome[0] = action()
            except S2R2Error as error:
                messages.broadcast([None, str(error)], self.untimed)
                raise
        outcome = messages.broadcast(outcome, self.untimed)
        if outcome[1]:
            raise SharedError(outcome[1])
        value: T = outcome[0]
        return value

    def receive(self) -> Any:
        """What the first process sends next by :meth:`from_leader`; for the others.

        Raises:
            SharedError: The error that it met instead.
        """
        return self.from_leader(lambda: None)

    def leader_first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns here; the first process does it first, so that files it makes serve the others."""
        if self.leader:
            value = action()
        self.wait(without_timeout=True)
        return value if self.leader else action()

    def check_alike(self, what: str, fingerprint: str) -> None:
        """Wait for every process, however long, and make sure that a fingerprint is the same in all.

        Raises:
            S2R2Error: It is not.
        """
        self.wait(without_timeout=True)
        found = self.collect(fingerprint)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise S2R2Error(
                    f"{what} differ between process {rank} and the first: copy them to every machine, or share the "
                    "folder, and make sure that nobody changes them meanwhile"
                )

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items: those numbered rank, rank + W, rank + 2 W ..."""
        return items[self.rank :: self.world_size]

    def in_turn(self, mine: Iterable[T], count: int) -> Iterator[T]:
        """In the first process, the results of all in the items' order; in the others nothing, but they must iterate.

        No more than a few results of each process are held at once.

        Args:
            mine: This process's results, of its :meth:`share`.
            count: Items in all.
        """
        if self.world_size == 1:
            yield from mine
            return
        own = iter(mine)
        for _ in range(0, count, AT_ONCE * self.world_size):
            parts = messages.gather(list(islice(own, AT_ONCE)), self.timed)
            for place in range(AT_ONCE):
                yield from (part[place] for part in parts if place < len(part))

    def wait(self, without_timeout: bool = False) -> None:
        """Return when every process has come here; ``without_timeout``: however long that takes."""
        if self.world_size > 1:
            dist.barrier(group=self.untimed if without_timeout else self.timed)

    def collect(self, value: T) -> list[T]:
        """Every process's (picklable) value, in order of the processes."""
        if self.world_size == 1:
            return [value]
        return messages.gather(value, self.timed, to_all=True)

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest of each number over the processes: what one of them wants, all do."""
        if self.world_size == 1:
            return values
        wanted = torch.tensor(values)
        dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self.timed)
        return tuple(int(value) for value in wanted)

    def numbers_of_leader(self, *values: float) -> tuple[float, ...]:
        """The first process's numbers, in every process."""
        if self.world_size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(told, 0, group=self.timed)
        return tuple(told.tolist())

    @contextlib.contextmanager
    def errors_said_once(self, how_to_go_on: str) -> Iterator[None]:
        """Let the first process that fails say why, and turn what the backends say of its end into silence, or a line.

        Args:
            how_to_go_on: What to do when a process was lost.

        Raises:
            S2R2Error: This process is the first to fail, or to notice that another ended or did not answer in time.
            SharedError: Another process was first.
        """
        try:
            yield
        except SharedError:  # told by another, which may not have left word yet: it says it, this one must not be first
            raise
        except S2R2Error as error:
            if self._is_first_to_fail():
                raise
            raise SharedError(str(error)) from error
        except RuntimeError as error:
            reason = _readable(str(error)) or type(error).__name__
            if self.world_size == 1 or not any(word in str(error).lower() for word in _LOST):
                raise
            kind = S2R2Error if self._is_first_to_fail() else SharedError
            raise kind(
                f"process {self.rank} lost another of the {self.world_size} processes, which ended or did not answer "
                f"within {self.timeout_minutes:g} minutes ({reason}): look at what that one said, then "
                f"{how_to_go_on}"
            ) from error

    def _is_first_to_fail(self) -> bool:
        if self.store is None:
            return True
        compare_set, mine = self.store.compare_set, str(self.rank)
        first: list[bytes] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # the store was in a process that is gone
                first.append(compare_set(_FIRST_TO_FAIL, "", mine))

        asking = threading.Thread(target=ask, daemon=True)  # behind a cut link it waits for minutes: TCP sends again
        asking.start()
        asking.join(_ANSWER_SECONDS)
        return not first or first[0] == mine.encode()


def _meet(timeout_minutes: float) -> tuple[dist.Store, Caller]:
    """The store through which the processes find each other, and which of them this one is."""
    file = meeting_file()
    if file is not None:
        caller = Caller(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timeout_minutes)
        store: dist.Store = dist.FileStore(str(file), caller.world_size)
        store.set_timeout(timedelta(minutes=timeout_minutes))
        return store, caller
    caller, host, port = caller_and_address(timeout_minutes)
    store = meet(caller, host, port, serve=caller.rank == 0 and not agent_serves())
    # After a restart the store still holds addresses of processes that are gone. Each machine counts restarts
    # for itself, so that their number is a common name on one machine only.
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return dist.PrefixStore(f"s2r2-{restarts() if alone else 0}", store), caller
