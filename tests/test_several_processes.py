"""Embed, index and evaluate in two real processes: what one process makes, and one line when one of them fails."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from pyarrow import parquet

import preloaded
from s2r2.cli import main
from s2r2.search import ImageIndex

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")

ENCODER = "untrained:test_resnet"
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Rows are equal to the last bit where torch divides its sums alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """131 files, so that the shares are uneven: two batches of 64 and one of 3; one is empty, and one is no image."""
    place = tmp_path / "photos"
    place.mkdir()
    generator = np.random.default_rng(0)
    for number in range(131):
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(place / f"{number:03}.jpg")
    (place / "005.jpg").write_bytes(b"")
    (place / "070.jpg").write_bytes(b"no image")
    return place


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def two(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in two processes."""
    command = [sys.executable, "-m", "s2r2", *map(str, arguments), "--devices", "2", "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())


def succeed(*arguments: str | Path) -> str:
    """A command in two processes as the launcher starts them, which the tests of failures use."""
    done = preloaded.run_ranks(2, "-m", "s2r2", *arguments, "--devices", "2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def one(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The same in this process."""
    main([*map(str, arguments), "--device", "cpu"])
    return capsys.readouterr().out


@pytest.mark.slow
def test_embed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        one(capsys, "embed", ENCODER, folder, "--out", tmp_path / "vectors.parquet"),
        succeed("embed", ENCODER, folder, "--out", tmp_path / "shared.parquet"),
    ]
    assert "129 vectors" in said[0]
    assert said[1].replace("shared", "vectors") == said[0]
    alone, shared = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("vectors", "shared"))
    assert shared.equals(alone)  # order, labels, and every bit of every vector
    lists = [(tmp_path / f"{name}.skipped.csv").read_text() for name in ("vectors", "shared")]
    assert lists[0] == lists[1]
    assert [Path(row[0]).name for row in csv.reader(lists[0].splitlines())] == ["image", "005.jpg", "070.jpg"]


def change(folder: Path) -> None:
    """Two photos are new, one is changed, one moved, two change their names with each other, one is gone."""
    generator = np.random.default_rng(1)
    for name in ("new1.png", "new2.png", "010.jpg"):
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "020.jpg").rename(folder / "moved.jpg")
    (folder / "030.jpg").rename(folder / "aside")
    (folder / "031.jpg").rename(folder / "030.jpg")
    (folder / "aside").rename(folder / "031.jpg")
    (folder / "130.jpg").unlink()


def assert_equal_indexes(first: Path, second: Path) -> None:
    alone, shared = ImageIndex.open(first), ImageIndex.open(second)
    for column in ("id", "key", "location", "content", "label", "stamp"):
        values = [index.catalogue.table[column].take(index.catalogue.by_key).to_pylist() for index in (alone, shared)]
        assert values[0] == values[1]
    vectors = [index.vectors[index.catalogue.by_key] for index in (alone, shared)]
    assert np.array_equal(vectors[0], vectors[1])
    assert (first / "skipped.csv").read_text() == (second / "skipped.csv").read_text()
    thumbnails = [index.thumbnail(int(index.catalogue.by_key[7])) for index in (alone, shared)]
    assert thumbnails[0] == thumbnails[1]


@pytest.mark.slow
def test_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = one(capsys, "index", ENCODER, folder, "--index", tmp_path / "alone")
    assert "129 embedded, 0 moved, 0 unchanged, 0 dropped, 2 skipped" in alone
    assert succeed("index", ENCODER, folder, "--index", tmp_path / "shared").replace("shared", "alone") == alone
    assert_equal_indexes(tmp_path / "alone", tmp_path / "shared")


@pytest.mark.slow
def test_an_update_of_an_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alone", "shared"):
        one(capsys, "index", ENCODER, folder, "--index", tmp_path / name)
    change(folder)
    alone = one(capsys, "index", ENCODER, folder, "--index", tmp_path / "alone")
    assert "3 embedded, 3 moved, 124 unchanged, 1 dropped, 2 skipped" in alone
    assert succeed("index", ENCODER, folder, "--index", tmp_path / "shared").replace("shared", "alone") == alone
    assert_equal_indexes(tmp_path / "alone", tmp_path / "shared")
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}


WATCHED = {
    "embed": ("embed", ENCODER, "photos", "--out", "vectors.parquet"),
    "index": ("index", ENCODER, "photos", "--index", "photos.index"),
    "evaluate": ("evaluate", ENCODER, "--train", "digits:train", "--test", "digits:test", "--out", "judged"),
    "train": (
        *("train", "digits:test", "--out", "run", "--backbone", "test_resnet", "--image-size", "32"),
        *("--views", "2", "--batch-size", "32", "--steps", "20", "--recipe", "documents"),
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc")
@pytest.mark.parametrize("command", WATCHED)
def test_nobody_else_reaches_the_processes(command: str, folder: Path, tmp_path: Path) -> None:
    """No process listens beyond loopback, what they meet by is a file of this user, and all end with the launcher."""
    place = tmp_path / "temporary"
    place.mkdir()
    launcher = subprocess.Popen(
        [sys.executable, "-m", "s2r2", *WATCHED[command], "--devices", "2", "--device", "cpu"],
        env=environment() | {"TMPDIR": str(place), "GLOO_SOCKET_IFNAME": "eth0", "S2R2_SECRET": "known"},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    addresses: set[str] = set()
    workers: list[int] = []
    while launcher.poll() is None and not addresses:
        workers = descendants(launcher.pid)
        addresses |= listening([launcher.pid, *workers])
    meeting = list(place.glob("s2r2-*/processes-0"))
    assert [file.parent.stat().st_mode & 0o777 for file in meeting] == [0o700]
    secrets = {Path(f"/proc/{pid}/environ").read_bytes().split(b"S2R2_SECRET=")[1][:64] for pid in workers[:1]}
    assert b"known" not in secrets.pop()
    until = time.monotonic() + 2
    while time.monotonic() < until and launcher.poll() is None:
        addresses |= listening([launcher.pid, *descendants(launcher.pid)])
    assert addresses <= {"0100007F", "00000000000000000000000001000000"}
    launcher.kill()
    launcher.communicate()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}/exe").exists()]


def descendants(root: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == root:
                found += [int(folder.name), *descendants(int(folder.name))]
    return found


def listening(processes: list[int]) -> set[str]:
    """Addresses, in hexadecimal, on which one of the processes waits for connections."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(file))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


EVALUATE = {
    "photos without labels": ("--test", "photos"),
    "labels": ("--train", "digits:train", "--test", "digits:test"),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", EVALUATE)
def test_evaluate(data: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first one runs apart from pytest, so that linear algebra has as many threads in both."""
    monkeypatch.chdir(tmp_path)
    command = ["-m", "s2r2", "evaluate", ENCODER, *EVALUATE[data], "--device", "cpu", "--out", "alone"]
    alone = preloaded.run(*command)
    assert alone.returncode == 0, alone.stderr
    assert succeed("evaluate", ENCODER, *EVALUATE[data], "--out", "shared").split() == alone.stdout.split()
    assert figures(tmp_path / "alone")["rows"][1]["figures"]["view_ap"]
    assert figures(tmp_path / "shared") == figures(tmp_path / "alone")


def figures(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    del content["about"]["at"]
    return content


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("s2r2: ")]


@pytest.mark.slow
def test_what_the_first_process_meets_is_said_once(folder: Path, tmp_path: Path) -> None:
    (said,) = lines(two("embed", ENCODER, folder, "--out", tmp_path / "none" / "vectors.parquet"))
    assert "cannot write" in said


@pytest.mark.slow
def test_what_all_processes_meet_is_said_once(tmp_path: Path) -> None:
    (said,) = lines(two("evaluate", ENCODER, "--test", tmp_path / "nowhere"))
    assert "nowhere" in said


COMMANDS = {
    "embed": ("embed", ENCODER, "--out", "vectors.parquet"),
    "index": ("index", ENCODER, "--index", "photos.index"),
    "evaluate": ("evaluate", ENCODER, "--test"),
}


def with_failing_second(how: str, arguments: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in two processes, of which the second fails when it encodes."""
    script = cwd / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "failing_process.py"}" {how} "$@"\n')
    script.chmod(0o755)
    parent = "import sys; sys.executable = sys.argv.pop(1); from s2r2.cli import main; main()"
    command = [sys.executable, "-c", parent, str(script), *arguments, "--devices", "2", "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment(), cwd=cwd)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_in_the_second_process_is_one_line(command: str, folder: Path, tmp_path: Path) -> None:
    done = with_failing_second("error", (*COMMANDS[command], str(folder)), tmp_path)
    assert lines(done) == ["s2r2: the GPU of process 1 is broken"]
    assert not (tmp_path / "vectors.parquet").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows")
@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "index"])
def test_a_killed_process_is_a_line(command: str, folder: Path, tmp_path: Path) -> None:
    done = with_failing_second("kill", (*COMMANDS[command], str(folder)), tmp_path)
    said = lines(done)
    assert said
    assert any("lost another of the 2 processes" in line or "ended by SIGKILL" in line for line in said)
    if command == "index":  # what the first one had embedded serves the next call
        assert "129 photos" in one_after(folder, tmp_path)


def one_after(folder: Path, cwd: Path) -> str:
    return succeed("index", ENCODER, folder, "--index", cwd / "photos.index")


@pytest.mark.slow
def test_two_machines(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two launchers on loopback, with a process each."""
    import socket

    one(capsys, "embed", ENCODER, folder, "--out", tmp_path / "vectors.parquet")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = ["embed", ENCODER, str(folder), "--out", str(tmp_path / "shared.parquet"), "--nodes", "2"]
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "s2r2", *arguments],
            env={**environment(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [machine.wait(timeout=120) for machine in machines] == [0, 0]
    assert parquet.read_table(tmp_path / "shared.parquet").equals(parquet.read_table(tmp_path / "vectors.parquet"))


@pytest.mark.slow
def test_torchrun(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one(capsys, "index", ENCODER, folder, "--index", tmp_path / "alone")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [*torchrun, "-m", "s2r2", "index", ENCODER, str(folder), "--index", str(tmp_path / "shared")]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment())
    assert_equal_indexes(tmp_path / "alone", tmp_path / "shared")
