"""Processes and machines that wait for each other: who does not come, or cannot be reached, is one line in time."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from s2r2.distributed import launching, roll_call
from s2r2.distributed.processes import Processes
from s2r2.distributed.rendezvous import MachinesRendezvous
from s2r2.distributed.roll_call import Caller, answer, meet
from s2r2.errors import S2R2Error

HOST = "127.0.0.1"
MOMENT = 0.005  # minutes


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def at_once(*actions: Callable[[], object]) -> list[Any]:
    """What each returns, or the error it raises, when all are done."""
    results: list[Any] = [None] * len(actions)

    def run(place: int) -> None:
        try:
            results[place] = actions[place]()
        except S2R2Error as error:
            results[place] = str(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def come(rank: int, world: int, port: int, minutes: float, kind: str = "process") -> Callable[[], None]:
    caller = Caller(rank, world, minutes, kind)
    stores = []  # the first one's outlives its thread: others may still ask it

    def coming() -> None:
        stores.append(meet(caller, HOST, port, serve=rank == 0))
        answer(caller, stores[0])

    return coming


def test_who_does_not_come_is_named_by_all_who_have() -> None:
    port = free_port()
    said = at_once(come(0, 4, port, 0.05), come(2, 4, port, 0.05))
    assert said[0] == (
        "processes 1, 3 of 4 did not come within 0.05 minutes: look at what is said there, then start the same command "
        "on every machine"
    )
    assert said[1] == said[0] or said[1].startswith("the first process ended while process 2 of 4 waited")


def test_machines_that_all_come_have_met(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(roll_call, "_SAID_AFTER", 0.0)
    port = free_port()
    machines = [MachinesRendezvous("run", Caller(rank, 3, 1, "machine"), HOST, port) for rank in range(3)]
    met = at_once(*(machine.next_rendezvous for machine in machines))
    assert [(info.rank, info.world_size, info.bootstrap_store_info.master_port) for info in met] == [
        (rank, 3, port) for rank in range(3)
    ]
    assert machines[1].next_rendezvous().store is met[1].store  # as after a restart
    assert capsys.readouterr().err.count("machine 0 of 3 waits for machine") <= 1


def test_whoever_waits_says_so_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(roll_call, "_SAID_AFTER", 0.0)
    port = free_port()
    at_once(come(0, 2, port, MOMENT))
    assert capsys.readouterr().err == "process 0 of 2 waits for process 1, 0.005 minutes at most\n"
    at_once(come(1, 2, port, MOMENT))
    assert capsys.readouterr().err == (
        f"process 1 of 2 waits for the first one at {HOST}:{port}, 0.005 minutes at most\n"
    )


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with pytest.raises(S2R2Error) as refusal:
        come(1, 2, port, MOMENT, "machine")()
    assert str(refusal.value) == (
        f"machine 1 of 2 did not reach the first one at {HOST}:{port} within 0.005 minutes (Connection refused): check "
        "MASTER_ADDR, MASTER_PORT and the network, and start the same command on every machine"
    )


def test_another_program_has_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = ": set MASTER_PORT to one that is free on the first machine, the same for all"
    with socket.create_server(("", 0)) as silent:
        port = silent.getsockname()[1]
        said = at_once(come(0, 2, port, 1))
        with monkeypatch.context() as hurried:
            hurried.setattr(roll_call, "_ANSWER_SECONDS", 0.3)
            said += at_once(come(1, 2, port, 1))
    assert (
        said[0] == f"process 0 of 2: another program has port {port} of this machine (address already in use){remedy}"
    )
    assert said[1].startswith(f"process 1 of 2: another program has port {port} of {HOST} (")
    assert said[1].endswith(remedy)
    other = free_port()
    assert at_once(come(0, 2, other, 1), come(1, 2, other, 1)) == [None, None]


def test_processes_that_are_not_told_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launching.SECRET, "known")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value, said in (
        ("RANK", "2", r"WORLD_SIZE=2 says that .*: set RANK \(0 to 1\), MASTER_ADDR and MASTER_PORT as torchrun does"),
        ("RANK", "1", r"WORLD_SIZE=2 says that .*: set RANK"),
        ("MASTER_ADDR", HOST, r"WORLD_SIZE=2 says that .*: set RANK"),
        ("MASTER_PORT", "http", r"MASTER_PORT=http is no port: give a number from 1 to 65535"),
        ("MASTER_PORT", str(free_port()), r"process 1 of 2 did not reach the first one"),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(S2R2Error, match=said), Processes.joined(MOMENT):
            pass


def test_a_number_of_processes_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "two")
        with pytest.raises(S2R2Error, match=f"^{name}=two is no number: unset {name}, or"), Processes.joined(MOMENT):
            pass
        monkeypatch.delenv(name)
        with Processes.joined(MOMENT) as alone:
            assert alone.world_size == 1
