"""Cells in forked processes: how they end, what they say, and that they do not outlive who asked for them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from children import is_running
from s2r2.study import local
from s2r2.study.claims import ERROR_FILE, Claim
from s2r2.study.forking import CAN_FORK, CellServer
from s2r2.study.local import LocalExecutor
from s2r2.study.plan import CELL_FILE, Cell
from s2r2.system.locking import LOCK, locked

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_FORK, reason="cells are forked on Linux only")]

NOTHING = {"train": "nowhere", "copies": 0, "config": {}, "untrained": False, "held_out": 0, "tasks": {}}


@pytest.fixture(scope="module")
def server() -> Iterator[CellServer]:
    server = CellServer({"OMP_NUM_THREADS": "1"})
    yield server
    server.stop()


def cell_in(folder: Path, content: str = "{}") -> Path:
    folder.mkdir()
    (folder / CELL_FILE).write_text(content)
    return folder


def claim_of(folder: Path) -> Claim:
    lock = ExitStack()
    descriptor = lock.enter_context(locked(folder / LOCK, "running a cell", "wait until it has finished"))
    return Claim(Cell("final", "data", "S2R2", 0, 1, -1, {}), folder, descriptor, lock)


def waiting_cell(folder: Path) -> Path:
    """A cell that waits for good: its settings come from a pipe that nobody writes into."""
    folder.mkdir()
    os.mkfifo(folder / CELL_FILE)
    return folder


def test_a_cell_says_why_it_failed_and_how_it_ended(server: CellServer, tmp_path: Path) -> None:
    folder = cell_in(tmp_path / "cell", json.dumps(NOTHING))
    with tempfile.TemporaryFile() as errors, (folder / LOCK).open("w") as lock:
        process = server.start(folder, lock.fileno(), errors.fileno())
        assert process.wait(120) == process.poll() == 2
        errors.seek(0)
        said = errors.read().decode()
    assert "nowhere" in said
    assert (folder / ERROR_FILE).read_text().splitlines()[0] in said


def test_an_error_of_the_program_has_its_traceback(server: CellServer, tmp_path: Path) -> None:
    folder = cell_in(tmp_path / "cell", "{")
    with tempfile.TemporaryFile() as errors, (folder / LOCK).open("w") as lock:
        assert server.start(folder, lock.fileno(), errors.fileno()).wait(120) == 1
        errors.seek(0)
        assert "JSONDecodeError" in errors.read().decode().splitlines()[-1]


def test_a_killed_cell_is_seen_as_killed_and_the_next_one_runs(server: CellServer, tmp_path: Path) -> None:
    folder = waiting_cell(tmp_path / "cell")
    with tempfile.TemporaryFile() as errors, (folder / LOCK).open("w") as lock:
        process = server.start(folder, lock.fileno(), errors.fileno())
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        process.send_signal(signal.SIGINT)  # to nobody
        assert server.start(cell_in(tmp_path / "next", "{"), lock.fileno(), errors.fileno()).wait(120) == 1


def test_without_the_server_a_cell_starts_by_itself(tmp_path: Path) -> None:
    executor = LocalExecutor(1)
    executor._server = CellServer({})
    executor._server.stop()
    executor._forks = True
    claim = claim_of(cell_in(tmp_path / "cell", "{"))
    executor.start([claim])
    deadline = time.monotonic() + 200
    while not (ended := executor.ended()) and time.monotonic() < deadline:
        time.sleep(0.1)
    [(cell, said)] = ended
    assert cell is claim.cell
    assert "JSONDecodeError" in said


def test_stopping_ends_what_runs_and_frees_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SECONDS_TO_STOP", 0.5)  # the cell cannot save: it still waits for its settings
    executor = LocalExecutor(1)
    executor._forks = True
    folder = waiting_cell(tmp_path / "cell")
    executor.start([claim_of(folder)])
    assert executor.running() == 1
    assert not executor.room()
    executor.stop()
    with locked(folder / LOCK, "looking", "wait"):
        assert not executor.running()


def test_who_asked_being_killed_ends_server_and_cell(tmp_path: Path) -> None:
    folder = waiting_cell(tmp_path / "cell")
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom s2r2.study.forking import CellServer\n"
        "folder = Path(sys.argv[1])\n"
        "lock = (folder / 'lock').open('w')\n"
        "process = CellServer({}).start(folder, lock.fileno(), 2)\n"
        "print(process.pid, process.server._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    numbers = [int(number) for number in asking.stdout.readline().split()]
    asking.kill()
    asking.communicate()
    deadline = time.monotonic() + 60
    while any(map(is_running, numbers)):
        assert time.monotonic() < deadline, "the cell outlives the study"
        time.sleep(0.1)
