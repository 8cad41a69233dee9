"""A run folder has one writer, a resume does what its options say, and a failed start leaves nothing behind."""

import dataclasses
import io
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.system.locking import LOCK, locked
from s2r2.training import TrainConfig, read_config, train
from s2r2.training.run.checkpoint import load_checkpoint

SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet", "image_size": 32, "views": 2, "batch_size": 16, "epochs": 1, "recipe": "photos",
    "head_hidden": 32, "embedding_dimensions": 16, "threads": 1, "device": "cpu",
}  # fmt: skip
TINY = TrainConfig(**SETTINGS)
METHOD = """
import torch
from s2r2.training import Method

class Mine(Method):
    def forward(self, embeddings, groups):
        {body}
"""


@pytest.fixture(scope="module")
def finished(photos_here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, two steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(photos_here, TINY, out=folder, quiet=True)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(run: Path, data: Path | str | None = None, **given: Any) -> int:
    return train(data, TrainConfig(**given), out=run, resume=True, quiet=True).steps


def test_an_unfinished_run_has_one_writer(run: Path, photos_here: Path) -> None:
    with locked(run / LOCK, "training", "wait"):
        for again in (True, False):
            with pytest.raises(S2R2Error, match=rf"another process \({os.getpid()} of .+ is training in") as error:
                train(photos_here, TINY, out=run, resume=again, quiet=True)
            assert "\n" not in str(error.value)
    assert resume(run) == 2
    assert not (run / LOCK).exists()


def test_the_lock_is_held_while_a_run_lives(photos_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s2r2.training.loop as loop

    seen = []
    monkeypatch.setattr(loop, "announce", lambda prepared, *_: seen.append((prepared.folder / LOCK).read_text()))
    train(photos_here, dataclasses.replace(TINY, steps=1), out=tmp_path / "run", quiet=True)
    assert seen[0].startswith(f"{os.getpid()} of ")


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"epochs": 3}, {"steps": 6}])
def test_a_finished_run_is_trained_longer(
    run: Path, photos_here: Path, given: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(None, TrainConfig(threads=1, **given), out=run, resume=True)
    said = capsys.readouterr().out
    assert "6 steps instead of 2: from step 3 on" in said
    assert result.steps == 6
    train(photos_here, dataclasses.replace(TINY, **given), out=tmp_path / "whole", quiet=True)
    rates, whole = (
        [line["lr"] for line in RunFolder(folder).read_metrics() if "lr" in line]
        for folder in (run, tmp_path / "whole")
    )
    assert len(rates) == 6
    assert rates[2:] == whole[2:]  # as the message says
    assert read_config(run)[1]["lengths"] == [{"step": 2, "steps": 2}]
    assert resume(run) == 6
    with pytest.raises(S2R2Error, match=r"has taken 6 steps already.*`epochs=3` or more"):
        resume(run, epochs=1)
    assert resume(run, epochs=3) == 6  # the remedy


def test_a_run_with_former_names_of_settings_goes_on(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("  optimizer:", "  optimiser:"), "utf-8")
    assert read_config(run)[0].optimizer == "adamw"
    assert RunFolder(run).read_whatever_config().settings["optimizer"] == "adamw"
    main(["train", "--resume", "--out", str(run), "--optimiser=adamw", "--epochs", "2"])
    assert load_checkpoint(run)[0]["step"] == 4
    assert "s2r2: --optimiser is now called --optimizer" in capfd.readouterr().err
    assert "optimizer: adamw" in config.read_text("utf-8")


def test_the_former_name_of_a_setting_works_in_python_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="optimiser is now called optimizer") as warned:
        config = TrainConfig(optimiser="lars", views=4)
    assert warned[0].filename == __file__
    assert (config.optimizer, config.given) == ("lars", {"optimizer", "views"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataclasses.replace(config, views=2) == TrainConfig(optimizer="lars", views=2)


def test_a_value_equal_to_its_default_counts_as_given(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TrainConfig] = []
    monkeypatch.setattr("s2r2.training.train", lambda data, config, **_: asked.append(config) or 1 / 0)
    for words in (["--epochs", "100"], ["--epochs=100"], ["--batch_size", "64"], []):
        with pytest.raises(ZeroDivisionError):
            main(["train", "--resume", "--out", str(run), *words])
    assert [sorted(config.given) for config in asked] == [["epochs"], ["epochs"], ["batch_size"], []]
    with pytest.raises(S2R2Error, match="leave out `batch_size`, `head_hidden` to"):
        resume(run, batch_size=64, head_hidden=1024, views=2)
    assert resume(run, **SETTINGS) == 2  # the very command that began it
    assert resume(run, views=2, lr=0.0, options={"bank": 0}, micro_batch=0) == 2  # 0: the method's, as at the beginning
    with pytest.raises(S2R2Error, match="leave out `options` to"):
        resume(run, options={"bank": 64})


@pytest.mark.parametrize(
    "mistake", [{"options": {"outer": "LOG"}}, {"options": {"bank": -1}}, {"batch_size": 33}, {"backbone": "resnet81"}]
)
def test_a_start_that_fails_leaves_a_folder_that_the_corrected_command_uses(
    mistake: dict[str, Any], photos_here: Path, tmp_path: Path
) -> None:
    with pytest.raises(S2R2Error):
        train(photos_here, dataclasses.replace(TINY, **mistake), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_is_cleared_and_nothing_else_is(
    photos_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s2r2.training.loop as loop

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "clear_failed_start", lambda run: None)  # as if killed
        patch.setattr(loop, "save_checkpoint", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(photos_here, TINY, out=out, quiet=True)
    assert RunFolder(out).unfinished_start.exists()
    (out / "notes.txt").write_text("mine")
    (out / ".config.yaml.abc.tmp").write_text("half")
    with pytest.raises(S2R2Error, match="leave out `resume`"):
        resume(out)
    train(photos_here, TINY, out=out, quiet=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".*"))
    other = tmp_path / "mine"
    other.mkdir()
    (other / "config.yaml").write_text("precious: 1\n")
    with pytest.raises(S2R2Error, match=r"not empty \(config.yaml\)"):
        train(photos_here, TINY, out=other, quiet=True)
    assert (other / "config.yaml").read_text() == "precious: 1\n"


def test_relative_places_are_found_from_another_folder(
    photos_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos_here.parent)
    Path("meth.py").write_text(METHOD.format(body="return (embeddings * torch.arange(16)).sum()"))
    Path("mine.yaml").write_text("hue: 0.1\n")
    config = dataclasses.replace(TINY, method="meth.py", recipe="mine.yaml", store=Path("store"))
    train("photos", config, out=tmp_path / "run", quiet=True)
    monkeypatch.chdir(tmp_path)
    assert resume(tmp_path / "run", epochs=2) == 4
    assert not (tmp_path / "store").exists()
    path = tmp_path / "run" / "config.yaml"
    path.write_text(re.sub(r"data: .*", "data: photos", path.read_text()))  # as earlier versions wrote it
    with pytest.raises(S2R2Error, match="say where they are: s2r2 train DATA --resume"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", photos_here) == 4  # the remedy


def test_code_that_a_run_folder_names_runs_only_if_the_user_has_named_it(
    photos_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2r2.training.run import trust

    method = tmp_path / "meth.py"
    method.write_text(METHOD.format(body="return embeddings.sum()"))
    train(photos_here, TrainConfig(**SETTINGS, method=str(method)), out=tmp_path / "run", quiet=True)
    monkeypatch.setattr(trust, "_NAMED", set())
    monkeypatch.delenv("S2R2_METHODS_NAMED")
    assert resume(tmp_path / "run") == 2  # one's own: remembered
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    marker = tmp_path / "ran"
    method.write_text(METHOD.format(body="return embeddings.sum()") + f"\nopen({str(marker)!r}, 'w')\n")
    with pytest.raises(S2R2Error, match=r"would run the code in .*--method") as error:
        resume(tmp_path / "run")
    assert "\n" not in str(error.value)
    with pytest.raises(S2R2Error, match="would run the code"):
        train(photos_here, read_config(tmp_path / "run")[0], out=tmp_path / "other", quiet=True)
    assert not marker.exists()
    assert resume(tmp_path / "run", method=str(method)) == 2  # the remedy
    assert marker.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return embeddings.sum(1)", r"Mine.forward returned a tensor of shape \(32,\)"),
        ("return 0.5", "returned a float"),
        ("return None", "returned a NoneType"),
        ("return embeddings.sum().detach()", "detached"),
        ("return torch.tensor(3)", "tensor of torch.int64"),
        ("return embeddings.sum() * float('nan')", "meth.py is nan"),
    ],
)
@pytest.mark.parametrize("micro_batch", [0, 8])
def test_a_method_that_returns_no_loss_is_one_line(
    body: str, words: str, micro_batch: int, photos_here: Path, tmp_path: Path
) -> None:
    (tmp_path / "meth.py").write_text(METHOD.format(body=body))
    config = TrainConfig(**{**SETTINGS, "micro_batch": micro_batch}, method=str(tmp_path / "meth.py"))
    with pytest.raises(S2R2Error, match=words) as error:
        train(photos_here, config, out=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)


def edited(run: Path, change: Any) -> None:
    """A checkpoint as a stranger might have written it: changed, with a checksum that fits."""
    from s2r2.runs import RunFolder
    from s2r2.training.run.checkpoint import _checksum

    state = load_checkpoint(run)[0]
    state["optimiser"] = state.pop("optimizer")  # as format 3 spells it
    state = change(state) or state
    content = io.BytesIO()
    torch.save(state, content)
    for path in RunFolder(run).checkpoint.parent.iterdir():
        path.write_bytes(content.getvalue() + _checksum(content.getbuffer()))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [1, 2],
        lambda s: s.update(step=-1),
        lambda s: s.update(step="2"),
        lambda s: s.update(step=1 << 60),
        lambda s: s.update(step=100),
        lambda s: s.pop("facts") and None,
        lambda s: s.update(version="3"),
        lambda s: s.update(random=[{"cpu": torch.zeros(3)}]),
        lambda s: s.update(encoder={}),
        lambda s: s["encoder"].update({next(iter(s["encoder"])): torch.zeros(7)}),
        lambda s: s["optimiser"].update(param_groups=[]),
        lambda s: s["optimiser"]["param_groups"][0].update(params=[99999]),
        lambda s: s["optimiser"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda s: s["optimiser"]["state"].update({12345: {"exp_avg": torch.zeros(3)}}),
        lambda s: s.update(method={"x": torch.zeros(3)}),
    ],
)
def test_a_checkpoint_of_strangers_is_refused_in_one_line(change: Any, run: Path) -> None:
    edited(run, change)
    with pytest.raises(S2R2Error) as error:
        resume(run)
    assert "\n" not in str(error.value)


def test_numbers_of_the_wrong_type_in_a_strangers_optimizer_are_left_out(run: Path) -> None:
    edited(run, lambda s: s["optimiser"]["param_groups"][0].update(betas="x", eps="y", evil=1))
    assert resume(run, epochs=2) == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  batch_size: 10000000000", "batch_size: 10000000000: ranking needs"),
        ("  image_size: 100000", "image_size: 100000: use"),
        ("  views: 1000000", "views"),
        ("  head_hidden: .inf", "head_hidden: inf"),
        ('  lr: "0.1"', "lr: .*not text"),
        ("  lr: [1]", "lr: .*must be a number"),
        ("  colour: 1", "colour: there is no such setting"),
        ("  seed: 1\n  seed: 2", "twice"),
        ("\tviews: 2", "a tab"),
    ],
)
def test_a_config_that_was_edited_is_checked_with_its_lines(line: str, words: str, run: Path) -> None:
    path = run / "config.yaml"
    name = line.strip().partition(":")[0]
    kept = [old for old in path.read_text().splitlines() if not old.startswith(f"  {name}:")]
    path.write_text("\n".join([kept[0], line, *kept[1:]]))
    with pytest.raises(S2R2Error, match=rf"config.yaml, line [23]: .*{words}"):
        resume(run)


def test_names_with_markup_are_shown_as_they_are(
    photos_here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(photos_here, tmp_path / "[red]a [/b] :cat:\x1b[2J"))
    train(data, dataclasses.replace(TINY, steps=1), out=tmp_path / "run [/b]")
    said = capsys.readouterr().out
    assert "[red]a [/b] :cat:\\x1b[2J" in said
    assert "run [/b]" in said
    assert "\x1b" not in said


def test_several_mistakes_are_a_line_each_on_the_command_line(
    photos_here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", str(photos_here), "--views", "1", "--seed", "-1", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "s2r2: 2 mistakes:"
    assert [line.split()[0] for line in lines[1:]] == ["--views", "--seed"]


def test_all_mistakes_are_said_at_once_and_numbers_of_numpy_are_taken(photos_here: Path, tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"seed": -1, "epochs": 2.5, "lr": float("nan"), "pretrained": "yes", "views": 1}
    with pytest.raises(S2R2Error) as error:
        train(photos_here, TrainConfig(**{**SETTINGS, **wrong}), out=tmp_path / "run", quiet=True)
    lines = str(error.value).splitlines()
    assert lines[0] == "5 mistakes:"
    assert {line.split()[0] for line in lines[1:]} == {f"`{name}`" for name in wrong}
    with pytest.raises(S2R2Error, match="2\\^63"):
        TrainConfig(seed=99999999999999999999).checked()
    checked = TrainConfig(views=np.int64(4), lr=np.float32(0.5), options={"bank": np.int32(8)}).checked()  # type: ignore[arg-type]
    assert (type(checked.views), type(checked.lr), checked.options) == (int, float, {"bank": 8})
