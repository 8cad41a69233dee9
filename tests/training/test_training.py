"""The loop on real pixels: it learns, it resumes to the same result, it says what is wrong."""

import dataclasses
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preloaded
from s2r2.encoder import create_encoder
from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.training import Interrupted, TrainConfig, loop, read_config, train
from s2r2.training.methods import resolve
from s2r2.training.optimizer import build_optimizer, learning_rate_at
from s2r2.training.parallel.fabric import place
from s2r2.training.run import interrupt
from s2r2.training.run.checkpoint import load_checkpoint
from s2r2.training.run.interrupt import StopOnInterrupt

TINY = TrainConfig(
    backbone="test_resnet", image_size=32, views=4, batch_size=64, epochs=2, recipe="documents", temperature=0.3,
    lr=5e-3, head_hidden=32, embedding_dimensions=16, check_every=1, threads=1, device="cpu",
)  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in RunFolder(folder).read_metrics() if "loss" in entry]


def checks(folder: Path) -> list[dict[str, float]]:
    return [entry["check"] for entry in RunFolder(folder).read_metrics() if "check" in entry]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on handwritten digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train("digits:test", TINY, out=folder, quiet=True)
    return folder


def test_a_run_leaves_what_is_promised(run: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "skipped.csv", "views.png", "encoder.safetensors"):
        assert (run / name).is_file(), name
    assert RunFolder(run).checkpoint.is_file()
    assert list((run / "tensorboard").glob("events*"))
    config, about = read_config(run)
    assert config == resolve(TINY)
    assert about["images"] == 360
    steps = [entry for entry in RunFolder(run).read_metrics() if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 11))
    assert {"lr", "views_per_second", "wait_share", "gradient_norm"} <= set(steps[0])
    assert {"view_ap", "knn"} <= set(checks(run)[-1])


@pytest.mark.slow
def test_it_learns_to_rank(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, batch_size=32, views=8, epochs=10, check_every=10)
    train("digits:test", config, out=tmp_path / "run", quiet=True)
    before, after = (entry["view_ap"] for entry in checks(tmp_path / "run"))
    assert after > 2 * before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    train("digits:test", TINY, out=tmp_path / "again", quiet=True)
    assert losses(tmp_path / "again") == losses(run)
    train("digits:test", dataclasses.replace(TINY, seed=1), out=tmp_path / "other", quiet=True)
    assert losses(tmp_path / "other") != losses(run)


def test_interrupt_and_resume_equal_an_undisturbed_run(run: Path, tmp_path: Path) -> None:
    """A real Ctrl-C in a real process, then --resume: same losses, same checks, same weights."""
    folder = tmp_path / "run"
    options = [
        "--backbone", "test_resnet", "--image-size", "32", "--views", "4", "--batch-size", "64", "--epochs", "2",
        "--recipe", "documents", "--head-hidden", "32", "--embedding-dimensions", "16", "--check-every", "1",
        "--threads", "1", "--device", "cpu", "--temperature", "0.3", "--lr", "0.005",
    ]  # fmt: skip
    command = ["-m", "s2r2", "train"]
    process = preloaded.start(
        *command, "digits:test", *options, "--out", folder, live=True, threads=torch.get_num_threads()
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and "left" not in (process.stdout.readline() or ""):
        pass  # the first progress line: training is on its way
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    stopped_at = load_checkpoint(folder)[0]["step"]
    assert 0 < stopped_at < 10
    resumed = preloaded.run(*command, "--resume", "--out", folder, threads=torch.get_num_threads())
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {stopped_at + 1}" in resumed.stdout
    assert losses(folder) == losses(run)
    assert checks(folder) == checks(run)
    (expected, _), (actual, _) = load_checkpoint(run), load_checkpoint(folder)
    assert all(torch.equal(expected["encoder"][name], value) for name, value in actual["encoder"].items())


@pytest.mark.slow
def test_kill_and_resume(run: Path, tmp_path: Path) -> None:
    """After kill -9 the run goes on from its last checkpoint and ends with the same weights."""
    folder = tmp_path / "run"
    code = (
        "import dataclasses, sys\n"
        "from s2r2.training import train, TrainConfig\n"
        "import s2r2.training.loop as loop, os, signal\n"
        f"config = TrainConfig.from_dict({TINY.to_dict()!r})\n"
        "save = loop.save_checkpoint\n"
        "def save_and_die(folder, **state):\n"
        "    save(folder, **state)\n"
        "    if state['step'] >= 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.save_checkpoint = save_and_die\n"
        f"train('digits:test', dataclasses.replace(config, checkpoint_minutes=1e-6), out={str(folder)!r}, quiet=True)\n"
    )
    killed = preloaded.run("-c", code, threads=torch.get_num_threads())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "epoch": 0, "loss": 123.0}\n{"step": 6, "epo')  # lines from after the checkpoint
    train(None, TrainConfig(), out=folder, resume=True, quiet=True)
    assert losses(folder) == losses(run)


def test_resume_refuses_other_settings_and_other_photos(run: Path, tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match="leave out `temperature`"):
        train(None, TrainConfig(temperature=0.5), out=run, resume=True, quiet=True)
    with pytest.raises(S2R2Error, match="photos"):
        train("digits:train", TrainConfig(), out=run, resume=True, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "one bit", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train("digits:test", dataclasses.replace(TINY, checkpoint_minutes=1e-9), out=folder, quiet=True)
    path = RunFolder(folder).checkpoint
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "one bit" else content[:5000])
    assert load_checkpoint(folder)[0]["step"] == 10
    RunFolder(folder).previous_checkpoint.unlink()
    with pytest.raises(S2R2Error, match=r"damaged|nothing to resume") as error:
        train(None, TrainConfig(), out=folder, resume=True, quiet=True)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_fallback_is_said_and_ends_with_the_same_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    class Died(Exception):
        pass

    save = loop.save_checkpoint

    def die_after(folder: Path, **state: Any) -> None:
        save(folder, **state)
        if state["step"] == 5:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", die_after)
        with pytest.raises(Died):
            train("digits:test", dataclasses.replace(TINY, checkpoint_minutes=1e-9), out=folder, quiet=True)
    RunFolder(folder).checkpoint.write_bytes(b"torn")
    train(None, TrainConfig(), out=folder, resume=True)
    assert "going on from the one before" in capsys.readouterr().out
    assert losses(folder) == losses(run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)])
def test_pre_emption_saves_and_exits_with_a_code_of_its_own(number: int, code: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with StopOnInterrupt() as stop:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # torchrun passes on what this process was sent already
            assert stop.requested == number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert Interrupted("", stop.requested).exit_code == code


def test_nohup_holds() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnInterrupt() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_request_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "SAME_REQUEST", -1.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with StopOnInterrupt():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_full_disk_during_training_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s2r2.system.files

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(s2r2.system.files.os, "replace", full)
    with pytest.raises(S2R2Error, match="No space left"):
        train("digits:test", TINY, out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    "change",
    [
        {"views": 1}, {"batch_size": 1}, {"image_size": 4}, {"epochs": 0}, {"temperature": -1.0}, {"lr": -1.0},
        {"precision": "64-true"}, {"backbone": "resnet81"}, {"recipe": "phots"}, {"device": "tpu"}, {"device": "mps"},
    {"batch_size": 361},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_written(change: dict, tmp_path: Path) -> None:
    with pytest.raises(S2R2Error) as error:
        train("digits:test", dataclasses.replace(TINY, **change), out=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_config_survives_yaml_and_names_unknown_settings() -> None:
    assert TrainConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(S2R2Error, match="colour"):
        TrainConfig.from_dict({"colour": 1})


def test_learning_rate_rises_and_decays() -> None:
    rates = [learning_rate_at(step, peak=1.0, steps=100, warmup=10) for step in range(100)]
    assert rates[:10] == pytest.approx(np.linspace(0.1, 1.0, 10))
    assert rates[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def test_weight_decay_spares_biases_and_normalisation() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    decayed, free = build_optimizer(model, 1e-3, 0.1).param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert [p.ndim for p in free["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_metrics_are_one_json_object_a_line(run: Path) -> None:
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line)["step"], int)


def test_half_precision_on_a_cpu_keeps_the_layout_whose_gradients_are_finite() -> None:
    for precision, contiguous in (("32-true", False), ("bf16-mixed", True)):
        encoder = create_encoder("lcnet_035", image_size=32)
        place(encoder, TrainConfig(precision=precision), torch.device("cpu"))
        assert encoder.backbone.conv_stem.weight.is_contiguous() == contiguous
