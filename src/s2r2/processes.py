"""The processes of a command: one, or as many as torchrun started, which then agree on everything."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from s2r2.errors import S2R2Error, SharedError
from s2r2.launching import restarts

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # decoding a data set for the first time may take long; the others wait
_LOST = ("timed out", "timeout", "connection", "peer", "gloo", "nccl")


@dataclass(frozen=True)
class Processes:
    """This process among those of the command.

    Attributes:
        rank: Its number; process 0 leads: it writes and speaks.
        world_size: How many there are.
        local_rank: Its number on this machine.
        local_world_size: How many there are on this machine.
        prompt: A group for what takes moments, where a process that does not answer is lost; None in a single process.
        patient: A group for waits that may be long.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    prompt: dist.ProcessGroup | None = None
    patient: dist.ProcessGroup | None = None

    @classmethod
    @contextlib.contextmanager
    def joined(cls, timeout_minutes: float) -> "Iterator[Processes]":
        """Join the processes that torchrun (or the caller, by ``init_process_group``) has started, if any.

        Args:
            timeout_minutes: How long a process may fail to answer before the others give up.
        """
        started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if started:
            if torch.cuda.is_available():
                torch.cuda.set_device(local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            timeout = timedelta(minutes=timeout_minutes)
            store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
            # After a restart the store still holds addresses of processes that are gone. Each machine counts restarts
            # for itself, so that their number is a common name on one machine only.
            alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
            store = dist.PrefixStore(f"s2r2-{restarts() if alone else 0}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
        if not dist.is_initialized() or dist.get_world_size() == 1:
            yield cls()
            return
        limits = (timedelta(minutes=timeout_minutes), _PATIENCE)
        prompt, patient = (dist.new_group(backend="gloo", timeout=limit) for limit in limits)
        assert isinstance(prompt, dist.ProcessGroup)
        assert isinstance(patient, dist.ProcessGroup)
        world = dist.get_world_size()
        try:
            yield cls(
                rank=dist.get_rank(),
                world_size=world,
                local_rank=local_rank,
                local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(world))),
                prompt=prompt,
                patient=patient,
            )
        finally:
            if started:
                dist.destroy_process_group()

    @property
    def leader(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

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
                dist.broadcast_object_list([None, str(error)], src=0, group=self.patient)
                raise
        dist.broadcast_object_list(outcome, src=0, group=self.patient)
        if outcome[1]:
            raise SharedError(outcome[1])
        value: T = outcome[0]
        return value

    def wait(self, patiently: bool = False) -> None:
        """Return when every process has come here; patiently: however long that takes."""
        if self.world_size > 1:
            dist.barrier(group=self.patient if patiently else self.prompt)

    def collect(self, value: T) -> list[T]:
        """Every process's (picklable) value, in order of the processes."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.prompt)
        return values

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest of each number over the processes: what one of them wants, all do."""
        if self.world_size == 1:
            return values
        wanted = torch.tensor(values)
        dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self.prompt)
        return tuple(int(value) for value in wanted)


@contextlib.contextmanager
def lost_process_is_an_error(processes: Processes, timeout_minutes: float, folder: Any) -> Iterator[None]:
    """Turn what the backends say when another process is gone into one line.

    Raises:
        S2R2Error: Another process ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if processes.world_size == 1 or not any(word in str(error).lower() for word in _LOST):
            raise
        raise S2R2Error(
            f"process {processes.rank} lost another of the {processes.world_size} processes, which ended or did not "
            f"answer within {timeout_minutes:g} minutes ({reason[:120]}): look at what that one said, then go on "
            f"from the last checkpoint with: s2r2 train --resume --out {folder}"
        ) from error
