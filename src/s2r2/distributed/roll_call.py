"""Processes, or machines, find each other at an address and wait until all have come, or one line says who has not."""

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from s2r2.errors import S2R2Error
from s2r2.system.terminal import say

_POLL = 0.2
_SAID_AFTER = 30.0
"""Seconds after which whoever waits says so."""
_ANSWER_SECONDS = 60.0
"""The first one's store answers at once, whatever else its process does."""
_HERE = "here"
_SEVERAL = {"process": "processes", "machine": "machines"}
_ADDRESSES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Caller:
    """One of those who meet.

    Attributes:
        rank: Its number; the first one's is 0.
        world_size: How many are to come.
        minutes: How long to wait for the others.
        kind: What it is called.
    """

    rank: int
    world_size: int
    minutes: float
    kind: str = "process"

    def __str__(self) -> str:
        return f"{self.kind} {self.rank} of {self.world_size}"


def caller_and_address(minutes: float) -> tuple[Caller, str, int]:
    """This process as torchrun describes it, and the host and port where the first one is found.

    Raises:
        S2R2Error: Something is not said.
    """
    host, port, rank, world = (os.environ.get(name, "") for name in _ADDRESSES)
    if not (host and port and rank.isdecimal() and int(rank) < int(world)):
        raise S2R2Error(
            f"WORLD_SIZE={world} says that this is one of several processes: set RANK (0 to {int(world) - 1}), "
            "MASTER_ADDR and MASTER_PORT as torchrun does, or start them with `devices`"
        )
    return Caller(int(rank), int(world), minutes), host, port_number(port)


def port_number(text: str) -> int:
    """The port that MASTER_PORT names.

    Raises:
        S2R2Error: It names none.
    """
    if not (text.isdecimal() and 0 < int(text) < 1 << 16):
        raise S2R2Error(f"MASTER_PORT={text} is no port: give a number from 1 to 65535")
    return int(text)


def meet(caller: Caller, host: str, port: int, *, serve: bool) -> dist.Store:
    """The store at an address.

    Args:
        caller: Who this is.
        host: Where the first one is.
        port: The port there.
        serve: Whether the store is to be in this process.

    Raises:
        S2R2Error: Something else has the port, or nobody answers in time.
    """
    until = time.monotonic() + 60 * caller.minutes
    if not serve:
        _wait_for_listener(caller, host, port, until)
    left = min(_ANSWER_SECONDS, max(5.0, until - time.monotonic()))
    found: list[dist.Store | RuntimeError] = []

    def connect() -> None:
        try:
            found.append(
                dist.TCPStore(
                    "localhost" if serve else host, port, caller.world_size, serve,
                    timeout=timedelta(seconds=left), wait_for_workers=False, multi_tenant=True,
                )
            )  # fmt: skip
        except RuntimeError as error:
            found.append(error)

    connecting = threading.Thread(target=connect, daemon=True)  # a program that never answers holds it for ever
    connecting.start()
    connecting.join(left)
    store = found[0] if found else RuntimeError("no answer")
    if isinstance(store, RuntimeError):
        where = f"port {port} of this machine" if serve else f"port {port} of {host}"
        raise S2R2Error(
            f"{caller}: another program has {where} ({_short(store)}): set MASTER_PORT to one that is free on the "
            "first machine, the same for all"
        ) from store
    store.set_timeout(timedelta(minutes=caller.minutes))
    return store


def _wait_for_listener(caller: Caller, host: str, port: int, until: float) -> None:
    """Return when something listens there. torch would try, too, and print a page of its own for each attempt."""
    said = time.monotonic() + _SAID_AFTER
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, until - time.monotonic())).close()
            return
        except OSError as error:
            now = time.monotonic()
            if now >= until:
                raise S2R2Error(
                    f"{caller} did not reach the first one at {host}:{port} within {caller.minutes:g} minutes "
                    f"({_short(error)}): check MASTER_ADDR, MASTER_PORT and the network, and start the same command "
                    "on every machine"
                ) from error
            if now >= said:
                _say_waiting(caller, f"the first one at {host}:{port}")
                said = until
        time.sleep(_POLL)


def answer(caller: Caller, store: dist.Store) -> None:
    """Tell the others that this one has come, and return when all have.

    Raises:
        S2R2Error: Some have not in time, or the first one has ended meanwhile.
    """
    keys = [f"{_HERE} {rank}" for rank in range(caller.world_size)]
    begun = time.monotonic()
    until, said = begun + 60 * caller.minutes, begun + _SAID_AFTER
    try:
        store.set(keys[caller.rank], "")
        while not store.check(keys):
            now = time.monotonic()
            if now >= min(until, said):
                missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
                if missing and now >= until:
                    raise _missing(caller, missing)
                if caller.rank == 0:
                    _say_waiting(caller, _listed(caller, missing))
                said = until
            time.sleep(_POLL)
    except RuntimeError as error:
        raise S2R2Error(
            f"the first {caller.kind} ended while {caller} waited for the others ({_short(error)}): look at what it "
            "said, then start the same command on every machine"
        ) from error


def _missing(caller: Caller, missing: Sequence[int]) -> S2R2Error:
    return S2R2Error(
        f"{_listed(caller, missing)} of {caller.world_size} did not come within {caller.minutes:g} minutes: look at "
        "what is said there, then start the same command on every machine"
    )


def _listed(caller: Caller, ranks: Sequence[int]) -> str:
    """``process 3``, ``processes 1, 3``, with an end where they are many."""
    kind = caller.kind if len(ranks) == 1 else _SEVERAL[caller.kind]
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"{kind} {', '.join(map(str, ranks[:8]))}{more}"


def _say_waiting(caller: Caller, whom: str) -> None:
    say(f"{caller} waits for {whom}, {caller.minutes:g} minutes at most", error=True)


def _short(error: Exception) -> str:
    """Why, in a few words."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return "address already in use" if "EADDRINUSE" in text else text[:120]
