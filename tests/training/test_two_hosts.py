"""Training across two hosts of the test's own, network namespaces with a real link between them, which is cut."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import preloaded
from s2r2.runs import RunFolder
from s2r2.training.run.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo"),
]

TIMEOUT_MINUTES = 0.5
CUT_SECONDS = 60.0
STEPS = 100
SETTINGS = [
    "--backbone", "test_resnet", "--image-size", "24", "--batch-size", "8", "--views", "4", "--head-hidden", "32",
    "--embedding-dimensions", "16", "--check-every", "1000", "--threads", "1", "--device", "cpu", "--steps", str(STEPS),
    "--checkpoint-minutes", "0.01", "--recipe", "photos",
]  # fmt: skip


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two network namespaces, 10.77.0.1 and 10.77.0.2, joined by nothing but the link ``cable``."""
    if not shutil.which("ip"):
        pytest.skip("needs the command ip (iproute2)")
    names = [f"s2r2-{os.getpid()}-{number}" for number in (1, 2)]
    with contextlib.ExitStack() as made:
        try:
            for name in names:
                ip("netns", "add", name)
                made.callback(ip, "netns", "delete", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here (only root may): {getattr(error, 'stderr', error)}")
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", name, "link", "set", link, "up")
        yield names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(48):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def start(hosts: list[str]) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts the same ``s2r2 train`` on both hosts, with a process on each."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "S2R2_SECRET": "two hosts", "GLOO_SOCKET_IFNAME": "cable", "MASTER_ADDR": "10.77.0.1"
    }  # fmt: skip
    command = [sys.executable, "-m", "s2r2", "train", "--nodes", "2", "--devices", "1"]
    started: list[subprocess.Popen[str]] = []

    def start(*words: str | Path) -> list[subprocess.Popen[str]]:
        both = [
            subprocess.Popen(
                ["ip", "netns", "exec", host, *command, *map(str, words)],
                env=environment | {"NODE_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, host in enumerate(hosts)
        ]  # fmt: skip
        started.extend(both)
        return both

    yield start
    for process in started:
        process.kill()
        process.communicate()


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in RunFolder(run).read_metrics() if "loss" in entry]


def weights(run: Path) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in load_checkpoint(run)[0]["encoder"].values()])


def test_a_cut_link_is_a_line_in_time_and_costs_nothing(
    start: Any, hosts: list[str], photos: Path, tmp_path: Path
) -> None:
    """Both hosts say that the other one is lost; when the link is back, the resumed run ends in the same weights."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    undisturbed = preloaded.run_ranks(2, "-m", "s2r2", "train", photos, *SETTINGS, "--out", whole)
    assert undisturbed.returncode == 0, undisturbed.stderr

    processes = start(photos, *SETTINGS, "--timeout-minutes", str(TIMEOUT_MINUTES), "--out", run)
    until = time.monotonic() + 120
    while len(losses(run)) < 20 and time.monotonic() < until and all(p.poll() is None for p in processes):
        time.sleep(0.05)
    ip("-n", hosts[1], "link", "set", "cable", "down")
    cut = time.monotonic()
    said = [process.communicate(timeout=120)[1] for process in processes]
    took = time.monotonic() - cut
    for rank, (process, text) in enumerate(zip(processes, said, strict=True)):
        assert process.returncode == 2, text
        assert "Traceback" not in text
        (line,) = (line for line in text.splitlines() if line.startswith("s2r2: process"))
        assert line.startswith(f"s2r2: process {rank} lost another of the 2 processes")
        assert f"within {TIMEOUT_MINUTES:g} minutes" in line
        assert "resume from the last checkpoint with: s2r2 train --resume --out" in line
        assert ".cc:" not in line
    assert took < 60 * TIMEOUT_MINUTES + 20
    assert 0 < load_checkpoint(run)[0]["step"] < STEPS
    time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - cut)))

    ip("-n", hosts[1], "link", "set", "cable", "up")
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in start("--resume", "--out", run)]
    assert [code for _, code in ends] == [0, 0], ends
    assert losses(run) == losses(whole)
    assert torch.equal(weights(run), weights(whole))
