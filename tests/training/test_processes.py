"""Several real processes share a run: the same losses as one, and nothing is lost when one of them is."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

import preloaded
from s2r2.distributed import processes as processes_module
from s2r2.distributed.launching import _first_of_slurm, wants_launch
from s2r2.distributed.processes import Processes
from s2r2.errors import S2R2Error, SharedError
from s2r2.runs import RunFolder
from s2r2.training.parallel.batch_norm import synchronize_batch_norm
from s2r2.training.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")

SHARED = [
    "--image-size", "24", "--batch-size", "8", "--views", "4", "--head-hidden", "32", "--embedding-dimensions", "16",
    "--check-every", "1000", "--threads", "1", "--device", "cpu", "--optimizer", "sgd", "--lr", "0.001",
    "--warmup-epochs", "0", "--recipe", "photos", "--temperature", "0.05",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos of noise: on flat areas ReLU and pooling meet ties, which rounding then decides."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for number in range(48):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


def command(data: Path | str, out: Path, *options: str) -> list[str]:
    return ["-m", "s2r2", "train", str(data), *SHARED, *options, "--out", str(out)]


def run(data: Path | str, out: Path, *options: str) -> str:
    """Train in processes as the launcher starts them, which other tests use; what all of them say."""
    count = int(options[options.index("--devices") + 1]) if "--devices" in options else 1
    words = command(data, out, *options)
    done = preloaded.run_ranks(count, *words) if count > 1 else preloaded.run(*words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def figures(folder: Path, name: str) -> list[float]:
    return [entry[name] for entry in RunFolder(folder).read_metrics() if name in entry]


def losses(folder: Path) -> list[float]:
    return figures(folder, "loss")


def weights(folder: Path) -> torch.Tensor:
    """All that is trained, in one row; running statistics of slices are those of the first process's slices."""
    state = load_checkpoint(folder)[0]
    parts = [
        v for part in ("encoder", "method") for k, v in state[part].items() if "running" not in k and "state" not in k
    ]
    return torch.cat([value.flatten().double() for value in parts if value.is_floating_point()])


def assert_equal_runs(one: Path, several: Path, loss: float = 1e-5, weight: float = 1e-4) -> None:
    assert len(losses(one)) == len(losses(several)) > 0
    assert np.abs(np.subtract(losses(one), losses(several))).max() < loss
    np.testing.assert_allclose(figures(several, "gradient_norm"), figures(one, "gradient_norm"), rtol=100 * loss)
    expected, found = weights(one), weights(several)
    assert (expected - found).norm() < weight * expected.norm()


Once = Callable[..., Path]


@pytest.fixture(scope="module")
def run_once(photos_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """The folder of an undisturbed run with these options, which the tests share and leave as it is."""
    folders: dict[tuple[str, ...], Path] = {}

    def folder_of(*options: str) -> Path:
        if options not in folders:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            run(photos_folder, folder, *options)
            folders[options] = folder
        return folders[options]

    return folder_of


VIT = ["--backbone", "test_vit", "--image-size", "32"]
CASES: dict[str, list[str]] = {
    "batch norm over all processes": ["--backbone", "test_resnet", "--options", "bank=64"],
    "multi-crop, neighbors": [
        "--backbone", "test_resnet", "--recipe", "swav-multicrop", "--options", "neighbors=0.5",
    ],
    "multi-crop, prototypes": [
        "--backbone", "test_resnet", "--method", "swav", "--recipe", "swav-multicrop", "--temperature", "0.1",
        "--options", "freeze_epochs=0",
    ],
    "gradient cache, layer norm": [*VIT, "--micro-batch", "8"],
    "compiled": [*VIT, "--compile"],
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, run_once: Once, photos_folder: Path, tmp_path: Path) -> None:
    options = [*CASES[case], "--steps", "8"]
    one = run_once(*options)
    said = run(photos_folder, tmp_path / "two", *options, "--devices", "2")
    assert "2 processes" in said
    assert said.count("trained ") == 1
    assert_equal_runs(one, tmp_path / "two")


SHARDED: dict[str, list[str]] = {
    "layer norm": VIT,
    "gradient cache": [*VIT, "--micro-batch", "8"],
    "multi-crop, prototypes": CASES["multi-crop, prototypes"],
    "compiled": CASES["compiled"],
}


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_two_processes_with_parts_of_the_encoder_equal_one(
    case: str, run_once: Once, photos_folder: Path, tmp_path: Path
) -> None:
    options = [*SHARDED[case], "--steps", "8"]
    one = run_once(*options)
    said = run(photos_folder, tmp_path / "two", *options, "--devices", "2", "--strategy", "fsdp")
    assert "2 processes, each with a part of it" in said
    assert_equal_runs(one, tmp_path / "two")
    assert_same_layout(one, tmp_path / "two")
    if "--micro-batch" not in options:  # with it running statistics are those of each process's slices
        first, two = (figures(folder, "check")[-1] for folder in (one, tmp_path / "two"))
        assert first == pytest.approx(two, rel=1e-3, abs=1e-3)  # though all processes make the second together


def assert_same_layout(one: Path, sharded: Path) -> None:
    """Whole tensors of the same names and shapes, in the checkpoint and in the encoder's file."""
    states = [load_checkpoint(folder)[0] for folder in (one, sharded)]
    for part in ("encoder", "method", "optimizer"):
        expected, found = ({k: v.shape for k, v in leaves(state[part])} for state in states)
        assert expected == found
    saved = {k: v for k, v in load_file(sharded / "encoder.safetensors").items() if v.is_floating_point()}
    for name, tensor in saved.items():
        assert torch.equal(tensor, states[1]["encoder"][name])


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, f"{name}/{key}")
    elif isinstance(state, torch.Tensor):
        yield name, state


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sharded_runs_are_interrupted_and_go_on_in_any_number_of_processes(photos_folder: Path, tmp_path: Path) -> None:
    """Begun in shards: ended in shards with the same weights, by DDP or one process with the same but for rounding."""
    options, fsdp = ["--steps", "60", "--optimizer", "adamw", "--lr", "0.0001", *VIT], ["--strategy", "fsdp"]
    run(photos_folder, tmp_path / "whole", *options, "--devices", "2", *fsdp)
    process = started(photos_folder, tmp_path / "run", *options, *fsdp)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1, said
    assert 20 <= load_checkpoint(tmp_path / "run")[0]["step"] < 60
    for name, processes, strategy in (("again", 2, fsdp), ("ddp", 2, []), ("one", 1, [])):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        resume(tmp_path / name, processes, *strategy)
        rounding = {"loss": 1e-3, "weight": 1e-3} if name == "one" else {}  # which AdamW makes larger
        assert_equal_runs(tmp_path / "whole", tmp_path / name, **rounding)
        assert_same_layout(tmp_path / "whole", tmp_path / name)
    assert torch.equal(weights(tmp_path / "again"), weights(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_one_process_goes_on_in_shards(photos_folder: Path, tmp_path: Path) -> None:
    options = ["--steps", "60", "--optimizer", "adamw", "--lr", "0.0001", *VIT]
    run(photos_folder, tmp_path / "whole", *options)
    process = started(photos_folder, tmp_path / "run", *options, "--devices", "1")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert 20 <= load_checkpoint(tmp_path / "run")[0]["step"] < 60
    resume(tmp_path / "run", 2, "--strategy", "fsdp")
    # The processes round their sums otherwise, which AdamW makes larger with each of the steps.
    assert_equal_runs(tmp_path / "whole", tmp_path / "run", loss=2e-4, weight=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_shards_wait_for_nobody_when_photos_cannot_be_read(photos_folder: Path, tmp_path: Path) -> None:
    """A process with fewer views makes as many slices as the others, or these would wait for it for ever."""
    shutil.copytree(photos_folder, tmp_path / "photos")
    for number in (3, 17):
        (tmp_path / "photos" / f"{number:02}.png").write_bytes(b"no photo")
    options = [*VIT, "--store", "none", "--micro-batch", "4", "--steps", "12", "--timeout-minutes", "0.5"]
    run(tmp_path / "photos", tmp_path / "run", *options, "--devices", "2", "--strategy", "fsdp")
    assert np.isfinite(losses(tmp_path / "run")).sum() == 12
    assert len((tmp_path / "run" / "skipped.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_shards_in_bfloat16_are_near_one_process(photos_folder: Path, tmp_path: Path) -> None:
    options = [*VIT, "--steps", "8", "--precision", "bf16-mixed"]
    run(photos_folder, tmp_path / "one", *options)
    run(photos_folder, tmp_path / "two", *options, "--devices", "2", "--strategy", "fsdp")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=0.02)
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert (expected - found).norm() < 1e-3 * expected.norm()


def resume(folder: Path, processes: int, *options: str) -> None:
    words = ["-m", "s2r2", "train", "--resume", "--out", folder, *options]
    done = preloaded.run_ranks(processes, *words) if processes > 1 else preloaded.run(*words)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_processes_of_a_resnet_equal_one(photos_folder: Path, tmp_path: Path) -> None:
    options = ["--backbone", "resnet18", "--steps", "12"]
    for count in (1, 4):
        run(photos_folder, tmp_path / str(count), *options, "--devices", str(count))
    assert len(losses(tmp_path / "1")) == 12
    assert_equal_runs(tmp_path / "1", tmp_path / "4", loss=1e-4, weight=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_machines_equal_one(photos_folder: Path, tmp_path: Path) -> None:
    """Two torchrun agents on loopback, as two machines with a process each."""
    options = ["--backbone", "test_resnet", "--steps", "8"]
    run(photos_folder, tmp_path / "one", *options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    agents = [
        subprocess.Popen(
            [sys.executable, *command(photos_folder, tmp_path / "two", *options, "--nodes", "2")],
            env={**environment, "NODE_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def started(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """A run of two processes that has taken some steps."""
    process = subprocess.Popen(
        [sys.executable, *command(data, out, "--backbone", "test_resnet", "--devices", "2", *options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while len(losses(out)) < 20 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    return process


def workers(of: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers, the second of the run last."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            environment = (status.parent / "environ").read_text()
        except (OSError, IndexError):
            continue
        if parent == of.pid and "LOCAL_RANK=" in environment:
            found.append((int(environment.partition("LOCAL_RANK=")[2].partition("\0")[0]), int(status.parent.name)))
    return [pid for _, pid in sorted(found)]


LONG = ["--steps", "100", "--checkpoint-minutes", "0.01"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_costs_nothing_with_restarts(
    how: signal.Signals, run_once: Once, photos_folder: Path, tmp_path: Path
) -> None:
    """One of two processes is killed, or freezes: all start again from the last checkpoint, to the same weights."""
    whole = run_once("--backbone", "test_resnet", "--devices", "2", *LONG)
    process = started(photos_folder, tmp_path / "lost", *LONG, "--restarts", "1", "--timeout-minutes", "0.2")
    os.kill(workers(process)[1], how)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert losses(tmp_path / "lost") == losses(whole)
    assert torch.equal(weights(tmp_path / "lost"), weights(whole))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_frozen_process_without_restarts_is_one_clear_line(photos_folder: Path, tmp_path: Path) -> None:
    process = started(photos_folder, tmp_path / "run", *LONG, "--timeout-minutes", "0.1")
    os.kill(workers(process)[1], signal.SIGSTOP)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "did not answer within 0.1 minutes" in said
    assert f"s2r2 train --resume --out {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    resume(tmp_path / "run", 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigterm_saves_in_all_processes_and_the_resume_ends_alike(
    run_once: Once, photos_folder: Path, tmp_path: Path
) -> None:
    whole = run_once("--backbone", "test_resnet", "--devices", "2", *LONG)
    process = started(photos_folder, tmp_path / "run", *LONG)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.count("--resume") == 1
    assert 20 <= load_checkpoint(tmp_path / "run")[0]["step"] < 100
    resume(tmp_path / "run", 2)
    assert torch.equal(weights(tmp_path / "run"), weights(whole))


@pytest.mark.slow
def test_a_mistake_is_said_once_and_leaves_with_its_own_code(photos_folder: Path, tmp_path: Path) -> None:
    wrong = command(photos_folder, tmp_path / "run", "--backbone", "test_resnet", "--devices", "2", "--batch-size", "7")
    done = subprocess.run([sys.executable, *wrong], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "s2r2: --batch-size 7 cannot be shared equally by 2 processes: use a multiple of 2"
    ]
    assert not (tmp_path / "run").exists()


def test_what_the_first_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower hears of the leader's error, and does not repeat it."""
    heard: list[Any] = [None, "the disk is full"]

    monkeypatch.setattr("s2r2.distributed.messages.broadcast", lambda value, group: heard)
    with pytest.raises(SharedError, match="disk is full"):
        Processes(rank=1, world_size=2).from_leader(lambda: 1)
    heard[:] = [7, ""]
    assert Processes(rank=1, world_size=2).from_leader(lambda: 1) == 7


def test_moments_and_long_waits_have_limits_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding may keep the others waiting for days; in a step a process that does not answer is lost."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(dist, "get_world_size", lambda group=None: 2)
            with Processes.joined(timeout_minutes=3) as processes:
                groups = (processes.timed, processes.untimed)
        cpu = torch.device("cpu")
        limits = [group._get_backend(cpu).options._timeout for group in groups if group is not None]
        assert limits == [timedelta(minutes=3), timedelta(days=30)]
    finally:
        dist.destroy_process_group()


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    store = SimpleNamespace(compare_set=lambda *_: released.wait(20))
    monkeypatch.setattr(processes_module, "_ANSWER_SECONDS", 0.05)
    lost = Processes(rank=1, world_size=2, store=store)  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(S2R2Error, match="process 1 lost another of the 2 processes"), lost.errors_said_once("go on"):
        raise RuntimeError("Timed out waiting 12000ms for send operation to complete")
    assert time.monotonic() - began < 10
    released.set()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.77.0.2]:4711",
            "Connection closed by peer [10.77.0.2]:4711",
        ),
        (
            "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:275, remote process exited or network\n"
            "Last error:",
            "NCCL error in: remote process exited or network",
        ),
        ("Connection reset " + "word " * 40, "Connection reset " + "word " * 20 + "..."),
    ],
)
def test_what_was_lost_is_said_without_places_in_the_sources_of_others(error: str, said: str) -> None:
    with pytest.raises(S2R2Error) as lost, Processes(world_size=2).errors_said_once("run"):
        raise RuntimeError(error)
    assert f"({said})" in str(lost.value)


def test_only_the_loss_of_a_process_becomes_a_line() -> None:
    with pytest.raises(S2R2Error, match="lost another"), Processes(world_size=2).errors_said_once("run"):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    with pytest.raises(RuntimeError, match="shape"), Processes(world_size=2).errors_said_once("run"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("listed", "first"), [("node[07-09,12],big1", "node07"), ("a1,b[2-3]", "a1"), ("one", "one"), ("", "")]
)
def test_first_machine_of_a_slurm_job(listed: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", listed)
    assert _first_of_slurm() == first


def test_processes_are_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not wants_launch(1, 1, 0)
    assert wants_launch(2, 1, 0)
    assert wants_launch(1, 1, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert not wants_launch(2, 1, 0)


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm2d(5), lambda: BatchNormAct2d(5), lambda: nn.BatchNorm1d(5)])
def test_synchronised_batch_norm_is_batch_norm(layer: Any, tmp_path: Path) -> None:
    """In a group of one process it gives what torch's layer gives: outputs, gradients, running statistics."""
    torch.manual_seed(0)
    plain, ours = layer().double(), layer().double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.uniform_(0.5, 1.5)
    ours.load_state_dict(plain.state_dict())
    shape = (6, 5) if isinstance(plain, nn.BatchNorm1d) else (6, 5, 4, 3)
    x, y = (torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(1)).requires_grad_() for _ in range(2))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        synchronize_batch_norm(ours, torch.device("cpu"))
        outputs = [plain(x), ours(y)]
        for output in outputs:
            (output**3).sum().backward(retain_graph=True)
        second = []
        for output, pixels in zip(outputs, (x, y), strict=True):
            (first,) = torch.autograd.grad((output**3).sum(), pixels, create_graph=True)
            second += torch.autograd.grad(first.square().sum(), pixels)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(second[1], second[0])
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(ours.eval()(y), plain.eval()(x))
