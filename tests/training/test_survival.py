"""What goes wrong in the middle of a run: nothing is lost, and one line says what to do."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from s2r2.encoder import create_encoder
from s2r2.errors import NonFiniteError, S2R2Error
from s2r2.runs import RunFolder
from s2r2.training import TrainConfig, loop, read_config, train
from s2r2.training.run.checkpoint import load_checkpoint
from s2r2.training.setup import cost, encoder as setup_encoder, resuming
from s2r2.training.setup.cost import bytes_per_view, fitting_micro_batch, free_memory, out_of_memory_is_an_error

TINY = TrainConfig(
    backbone="test_resnet", image_size=32, views=2, batch_size=32, steps=20, recipe="documents", lr=2e-3,
    head_hidden=32, embedding_dimensions=16, check_every=100, threads=1, device="cpu",
)  # fmt: skip

EXPLODING = '''"""S2R2, except that some steps give NaN."""

from pathlib import Path

from s2r2.training.methods.s2r2 import S2R2


class Exploding(S2R2):
    """NaN at step 13, as often as the file beside says."""

    def begin_step(self, position):
        super().begin_step(position)
        self.position = position

    def forward(self, embeddings, groups):
        loss = super().forward(embeddings, groups)
        left = Path(__file__).with_suffix(".times")
        if self.position.step == 12 and int(left.read_text()) > 0:
            left.write_text(str(int(left.read_text()) - 1))
            return loss * float("nan")
        return loss
'''


def exploding(folder: Path, times: int) -> TrainConfig:
    (folder / "exploding.py").write_text(EXPLODING)
    (folder / "exploding.times").write_text(str(times))
    return dataclasses.replace(TINY, method=str(folder / "exploding.py"), checkpoint_minutes=1e-9)


def rates(folder: Path) -> dict[int, float]:
    return {entry["step"]: entry["lr"] for entry in RunFolder(folder).read_metrics() if "loss" in entry}


def losses(folder: Path) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in RunFolder(folder).read_metrics() if "loss" in entry}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_is_said_wherever_figures_are_written(tmp_path: Path) -> None:
    import threading

    from s2r2.runs import RunFolder
    from s2r2.training.run.metrics import MetricsLog

    threads = threading.active_count()
    for name in ("metrics.jsonl", "curves"):
        folder = tmp_path / name
        folder.mkdir()
        log = MetricsLog(folder, 10)
        log.add(1, 0, loss=0.5)
        log.flush()
        if name == "curves":
            log._curves = Path("/dev/full")
        else:
            log.path = Path("/dev/full")
        log.add(2, 0, loss=0.5)
        with pytest.raises(S2R2Error, match=r"cannot write /dev/full: No space left.*`resume=True`") as error:
            log.flush()
        assert "\n" not in str(error.value)
        log = MetricsLog(folder, 10, resume_at=1)  # the remedy
        log.add(2, 0, loss=0.25)
        log.flush()
        assert [line["loss"] for line in RunFolder(folder).read_metrics()] == [0.5, 0.25]
    assert threading.active_count() == threads


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from s2r2.training.run.metrics import MetricsLog

    log = MetricsLog(tmp_path, 10)
    for step in (1, 2, 3):
        log.add(step, 0, loss=step / 4)
    log.add_check(3, 0, {"knn": 0.5})
    again = MetricsLog(tmp_path, 10, resume_at=2)
    again.add(3, 0, loss=9.0)
    again.flush()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert {"loss", "check/knn"} <= set(curves.Tags()["scalars"])
    assert [(point.step, point.value) for point in curves.Scalars("loss")] == [(1, 0.25), (2, 0.5), (3, 9.0)]


@pytest.mark.slow
def test_a_loss_that_is_nan_names_its_photos_and_can_be_replayed(tmp_path: Path) -> None:
    config = exploding(tmp_path, 2)
    for resume in (False, True):  # the same step again: the run is a function of its seed
        with pytest.raises(NonFiniteError, match=r"nan: step 13, whose 32 photos .*`retry_at=0.5`") as error:
            train(None if resume else "digits:test", config if not resume else TrainConfig(), out=tmp_path / "run",
                  resume=resume, quiet=True)  # fmt: skip
        assert "\n" not in str(error.value)
        named = json.loads((tmp_path / "run" / "non_finite.json").read_text())
        assert named["step"] == 13
        assert len(set(named["photos"])) == 32
        state = load_checkpoint(tmp_path / "run")[0]
        assert state["step"] == 12
        assert all(torch.isfinite(value).all() for value in state["encoder"].values())
    train(None, TrainConfig(), out=tmp_path / "run", resume=True, quiet=True)
    assert max(rates(tmp_path / "run")) == 20


@pytest.mark.slow
def test_one_retry_at_a_lower_learning_rate(tmp_path: Path) -> None:
    config = dataclasses.replace(exploding(tmp_path, 1), retry_at=0.5)
    train("digits:test", config, out=tmp_path / "run", quiet=True)
    train("digits:test", exploding(tmp_path, 0), out=tmp_path / "calm", quiet=True)
    calm, retried = rates(tmp_path / "calm"), rates(tmp_path / "run")
    assert all(retried[step] == calm[step] for step in range(1, 13))
    assert all(retried[step] == pytest.approx(calm[step] / 2) for step in range(13, 21))
    assert load_checkpoint(tmp_path / "run")[0]["lr_scale"] == 0.5


@pytest.mark.slow
def test_only_one_retry(tmp_path: Path) -> None:
    config = dataclasses.replace(exploding(tmp_path, 2), retry_at=0.5)
    with pytest.raises(NonFiniteError):
        train("digits:test", config, out=tmp_path / "run", quiet=True)
    assert load_checkpoint(tmp_path / "run")[0]["step"] == 12


@pytest.mark.slow
def test_a_run_can_go_on_from_before_its_first_step(tmp_path: Path) -> None:
    """Killed in its first minutes it has a checkpoint already."""
    (tmp_path / "exploding.py").write_text(EXPLODING.replace("step == 12", "step == 0"))
    (tmp_path / "exploding.times").write_text("1")
    config = dataclasses.replace(TINY, method=str(tmp_path / "exploding.py"))
    with pytest.raises(NonFiniteError, match="step 1,"):
        train("digits:test", config, out=tmp_path / "run", quiet=True)
    assert load_checkpoint(tmp_path / "run")[0]["step"] == 0
    train(None, TrainConfig(), out=tmp_path / "run", resume=True, quiet=True)
    train("digits:test", config, out=tmp_path / "undisturbed", quiet=True)
    for name, value in load_checkpoint(tmp_path / "undisturbed")[0]["encoder"].items():
        assert torch.equal(value, load_checkpoint(tmp_path / "run")[0]["encoder"][name])
    checks = [entry["step"] for entry in RunFolder(tmp_path / "run").read_metrics() if "check" in entry]
    assert checks == [0, 20]


KILL = """
import os, signal, sys
from pathlib import Path
import s2r2.system.files as files, s2r2.training.loop as loop
from s2r2.training import TrainConfig, train
point, out = sys.argv[1:]
fsync, replace, save = os.fsync, os.replace, loop.save_checkpoint
armed = False
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def killing_save(folder, **state):
    global armed
    armed = state["step"] == 12
    save(folder, **state)
    armed = False
def killing_fsync(descriptor):
    if armed and point == "written": die()
    fsync(descriptor)
def killing_replace(source, target):
    checkpoint = Path(target).name == "last.ckpt"
    if armed and checkpoint and point == "synced": die()
    replace(source, target)
    if armed and checkpoint and point == "renamed": die()
loop.save_checkpoint, os.fsync, os.replace = killing_save, killing_fsync, killing_replace
train("digits:test", TrainConfig.from_dict(CONFIG), out=out, quiet=True)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's sums depend on the number of its threads, and tests before this one may have changed that of pytest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("point", "step"), [("written", 11), ("synced", 11), ("renamed", 12)])
def test_killed_while_a_checkpoint_is_written(
    point: str, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old one or the new one, never a torn one; and the run ends as if nothing had been."""
    config = dataclasses.replace(TINY, checkpoint_minutes=1e-9)
    code = KILL.replace("CONFIG", repr(config.to_dict()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, point, str(tmp_path / "run")]
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    state, warning = load_checkpoint(tmp_path / "run")
    assert (state["step"], warning) == (step, "")
    train(None, TrainConfig(), out=tmp_path / "run", resume=True)
    assert "note" not in capsys.readouterr().out  # nothing is different from when it was started
    train("digits:test", config, out=tmp_path / "undisturbed", quiet=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "undisturbed")  # else it says from which step on
    ends = [load_checkpoint(tmp_path / name)[0]["encoder"] for name in ("run", "undisturbed")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp*"))


@pytest.mark.slow
def test_what_changed_since_the_checkpoint_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train("digits:test", TINY, out=tmp_path / "run", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "processor_name", lambda: "Another 9000")
        train(None, TrainConfig(), out=tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert "processor" in said
    assert "now Another 9000" in said
    train(None, TrainConfig(), out=tmp_path / "run", resume=True)
    assert "note" in capsys.readouterr().out  # it was resumed elsewhere and saved there
    train(None, TrainConfig(), out=tmp_path / "run", resume=True)
    assert "note" not in capsys.readouterr().out


@pytest.mark.slow
def test_other_random_numbers_for_another_number_of_processes(tmp_path: Path) -> None:
    """A checkpoint of two processes resumed by one: it goes on, and says that it is not the same run."""
    train("digits:test", TINY, out=tmp_path / "run", quiet=True)
    state = load_checkpoint(tmp_path / "run")[0]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    from s2r2.training.run.checkpoint import restore_random_state

    restore_random_state({**state, "random": state["random"] * 2})
    assert not torch.equal(torch.get_rng_state(), before)
    restore_random_state(state)
    assert torch.equal(torch.get_rng_state(), state["random"][0]["cpu"])


def test_a_full_disk_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise S2R2Error("cannot write: No space left on device")

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(S2R2Error, match="No space"):
        train("digits:test", TINY, out=tmp_path / "run", quiet=True)
    assert not rates(tmp_path / "run")


@pytest.mark.slow
def test_both_checkpoints_are_kept(tmp_path: Path) -> None:
    train("digits:test", dataclasses.replace(TINY, checkpoint_minutes=1e-9), out=tmp_path / "run", quiet=True)
    assert RunFolder(tmp_path / "run").checkpoint.is_file()
    assert RunFolder(tmp_path / "run").previous_checkpoint.is_file()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
              torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")],
)  # fmt: skip
def test_advice_when_memory_is_out(error: Exception) -> None:
    facts: dict[str, Any] = {"views": 512, "image_size": 96, "micro_batch": 0, "device": torch.device("cpu")}
    with (
        pytest.raises(
            S2R2Error, match=r"512 views of 96 px .* GiB are free .* `micro_batch=128` or `micro_batch='auto'`"
        ),
        out_of_memory_is_an_error(**facts),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_is_an_error(**facts):
        raise RuntimeError("shapes differ")


def test_bytes_of_a_view_are_those_of_its_activations() -> None:
    """Two layers without bias: the first keeps its input, the ReLU its output, which the second shares."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 8 * 8, 100, bias=False), nn.ReLU(), nn.Linear(100, 10, bias=False)
    )
    assert bytes_per_view(model, 8) == 4 * (3 * 8 * 8 + 100)


def test_micro_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = create_encoder("test_resnet", image_size=32)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    cpu = torch.device("cpu")
    size = bytes_per_view(encoder, 32)
    assert fitting_micro_batch(encoder, image_size=32, views=64, device=cpu) == 0
    monkeypatch.setattr(cost, "free_memory", lambda device: int(size * 100 / 0.4))
    assert fitting_micro_batch(encoder, image_size=32, views=1000, device=cpu) == 64
    assert fitting_micro_batch(encoder, image_size=32, views=1000, device=cpu, processes=2) == 32
    monkeypatch.setattr(cost, "free_memory", lambda device: 0)
    assert fitting_micro_batch(encoder, image_size=32, views=1000, device=cpu) == 8
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training


def test_free_memory_is_that_of_this_machine() -> None:
    assert (64 << 20) < free_memory(torch.device("cpu")) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_micro_batch_auto_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_encoder, "fitting_micro_batch", lambda *_, **__: 16)
    config = dataclasses.replace(TINY, micro_batch="auto", steps=2)
    train("digits:test", config, out=tmp_path / "run", quiet=True)
    assert read_config(tmp_path / "run")[0].micro_batch == 16
