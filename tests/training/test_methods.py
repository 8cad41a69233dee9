"""Every method on real pixels: defaults, options, schedules, state that survives a resume, one of one's own."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from s2r2.errors import S2R2Error
from s2r2.runs import RunFolder
from s2r2.system.console import PlainConsole
from s2r2.training import TrainConfig, loop, read_config, train
from s2r2.training.methods import METHODS, Position, build_method, describe_methods, resolve
from s2r2.training.optimizer import build_optimizer
from s2r2.training.run.checkpoint import load_checkpoint
from s2r2.training.setup.encoder import with_recipe

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "barlow_twins.py"
TINY = TrainConfig(
    backbone="test_resnet", image_size=32, batch_size=32, views=4, steps=6, head_hidden=32, embedding_dimensions=16,
    check_every=100, threads=1, device="cpu",
)  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "s2r2, plain views": {"recipe": "photos"},
    "s2r2, slope held, bank": {"options": {"hold_slope": 0.06, "bank": 100}},
    "s2r2": {},
    "s2r2, vision transformer, neighbors": {"backbone": "test_vit", "options": {"neighbors": 0.5}},
    "s2r2, hybrid": {"options": {"contrastive": 0.3, "outer": "log", "temperature_end": 0.2}},
    "simclr": {"method": "simclr", "views": 0},
    "simclr, many views": {"method": "simclr", "options": {"form": "geometric", "bank": 64}},
    "swav": {"method": "swav", "views": 6},
    "swav, queue": {"method": "swav", "options": {"queue": 64, "queue_epoch": 0, "freeze_epochs": 0}},
    "swav, two crops": {"method": "swav", "views": 2, "recipe": "photos"},
    "one's own": {"method": str(EXAMPLE), "views": 0},
}


class Died(Exception):
    """Stands for a kill right after a checkpoint; a real one is in test_training."""


_save = loop.save_checkpoint


def save_and_die(folder: Path, **state: Any) -> None:
    _save(folder, **state)
    if state["step"] >= 3:
        raise Died


def lines(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in RunFolder(folder).read_metrics() if "loss" in entry]


SLOW = pytest.mark.slow
FAST_CASES = ("s2r2, slope held, bank",)


@pytest.mark.parametrize("case", [c if c in FAST_CASES else pytest.param(c, marks=SLOW) for c in CASES])
def test_it_trains_and_a_resume_ends_with_the_same_weights(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, **CASES[case])
    train("digits:test", config, out=tmp_path / "whole", quiet=True)
    logged = lines(tmp_path / "whole")
    assert len(logged) == 6
    assert all(math.isfinite(value) for entry in logged for value in entry.values())
    assert {"positive_cosine", "sigmoid_slope", "gradient_norm"} <= set(logged[0])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_die)
        with pytest.raises(Died):
            train(
                "digits:test", dataclasses.replace(config, checkpoint_minutes=1e-9), out=tmp_path / "killed", quiet=True
            )
    train(None, TrainConfig(), out=tmp_path / "killed", resume=True, quiet=True)
    whole, killed = (load_checkpoint(tmp_path / name)[0] for name in ("whole", "killed"))
    for part in ("encoder", "method"):
        for name, value in whole[part].items():
            same = torch.equal(value, killed[part][name]) if torch.is_tensor(value) else value == killed[part][name]
            assert same, (part, name)
    assert [entry["loss"] for entry in lines(tmp_path / "killed")] == [entry["loss"] for entry in logged]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"micro_batch": 24}, {"optimizer": "lars"}, {"optimizer": "sgd"}])
@pytest.mark.parametrize("method", ["s2r2", "simclr", "swav"])
def test_every_method_has_every_optimizer_and_the_gradient_cache(
    method: str, change: dict[str, Any], tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY, method=method, steps=2, **change)
    result = train("digits:test", config, out=tmp_path / "run", quiet=True)
    assert result.steps == 2
    saved, _ = read_config(tmp_path / "run")
    assert saved.lr > 0
    assert saved.weight_decay == {"adamw": 0.01, "sgd": 5e-4, "lars": 1e-6}[saved.optimizer]


@pytest.mark.slow
def test_the_gradient_cache_reaches_the_prototypes_as_well(tmp_path: Path) -> None:
    """Batch norm sees slices and so the encoder differs a little; the prototypes see the same whole step."""
    config = dataclasses.replace(TINY, method="swav", steps=1, options={"freeze_epochs": 0})
    for name, micro_batch in (("whole", 0), ("slices", 1000)):
        train("digits:test", dataclasses.replace(config, micro_batch=micro_batch), out=tmp_path / name, quiet=True)
    whole, slices = (load_checkpoint(tmp_path / name)[0]["method"]["loss.prototypes"] for name in ("whole", "slices"))
    start = build_method(resolve(config), 360).state_dict()["loss.prototypes"]
    assert not torch.allclose(whole, start)
    torch.testing.assert_close(slices, whole, atol=1e-6, rtol=1e-4)


def test_what_is_left_to_the_method_is_filled_in() -> None:
    assert resolve(TrainConfig(method="simclr")).views == 2
    assert resolve(TrainConfig(method="swav")).recipe == "swav-multicrop"
    ours = resolve(TrainConfig())
    assert (ours.views, ours.recipe, ours.temperature) == (8, "swav-multicrop", METHODS["s2r2"].temperature)
    assert ours.lr == pytest.approx(METHODS["s2r2"].learning_rates["adamw"])  # 64 x 8 views
    assert resolve(TrainConfig(batch_size=256)).lr == pytest.approx(2 * ours.lr)
    assert resolve(TrainConfig(lr=0.5, weight_decay=0.0)).weight_decay == 0
    assert resolve(resolve(TrainConfig())) == resolve(TrainConfig())


def test_multi_crop_gives_way_where_a_backbone_takes_one_size_only(capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve(TrainConfig(backbone="swin_tiny_patch4_window7_224", image_size=64))
    assert with_recipe(config, "", PlainConsole()).recipe == "photos"
    assert "one size only" in capsys.readouterr().out
    with pytest.raises(S2R2Error, match=r"27 px.*`recipe='photos'`"):
        with_recipe(config, "swav-multicrop", PlainConsole())
    for backbone in ("resnet18", "vit_tiny_patch16_224"):
        config = dataclasses.replace(config, backbone=backbone)
        assert with_recipe(config, "", PlainConsole(quiet=True)) == config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TrainConfig(method="simcrl"), "s2r2, simclr, swav"),
        (TrainConfig(method="none.py"), "no such file"),
        (TrainConfig(options={"form": "outside"}), "outer=one-minus"),
        (TrainConfig(method="simclr", options={"bank": "many"}), "like 0"),
        (TrainConfig(method="simclr", options={"bank": True}), "like 0"),
        (TrainConfig(method="simclr", options={"temperature_end": -1.0}), "negative"),
        (TrainConfig(options={"hold_slope": 0.1, "temperature_end": 0.2}), "one of them"),
        (TrainConfig(options={"hold_slope": 0.3}), "0.25"),
        (TrainConfig(options={"outer": "log", "surrogate": "sup-ap"}), "smooth-ap"),
        (TrainConfig(method="swav", options={"freeze_epochs": -1}), "negative"),
        (TrainConfig(optimizer="adam"), "adamw"),  # type: ignore[arg-type]
    ],
)
def test_bad_choices_are_one_line(config: TrainConfig, words: str) -> None:
    with pytest.raises(S2R2Error, match=words) as error:
        build_method(resolve(config), 100)
    assert "\n" not in str(error.value)


def test_a_method_file_imports_nothing_from_beside_it(tmp_path: Path) -> None:
    """Its hash says what it is: what lies beside it may be another than when it was named."""
    (tmp_path / "helper_beside_it.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "mine.py").write_text("import helper_beside_it\n")
    with pytest.raises(S2R2Error, match="does not run: ModuleNotFoundError"):
        build_method(resolve(TrainConfig(method=str(tmp_path / "mine.py"))), 100)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_no_method_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(S2R2Error, match="does not run"):
        resolve(TrainConfig(method=str(tmp_path / "broken.py")))
    with pytest.raises(S2R2Error, match="0 subclasses"):
        resolve(TrainConfig(method=str(tmp_path / "empty.py")))


def test_temperature_rises_in_a_straight_line() -> None:
    config = resolve(TrainConfig(temperature=0.1, options={"temperature_end": 0.3}))
    method = build_method(config, 100)
    seen = []
    for step in range(5):
        method.begin_step(Position(step, 5, 0))
        seen.append(method.current_temperature)
    assert seen == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3])


@pytest.mark.parametrize(("target", "higher"), [(0.2, True), (0.001, False)])
def test_a_held_slope_moves_the_temperature_towards_it(target: float, higher: bool) -> None:
    method = build_method(resolve(TrainConfig(temperature=0.1, options={"hold_slope": target})), 100)
    embeddings = torch.nn.functional.normalize(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    groups = torch.arange(8).repeat_interleave(4)
    method(embeddings, groups)
    method.begin_step(Position(1, 10, 0))
    assert (method.current_temperature > 0.1) is higher


def test_prototypes_are_frozen_for_an_epoch_and_stay_of_unit_length() -> None:
    method = build_method(resolve(TrainConfig(method="swav", views=2, recipe="photos", embedding_dimensions=8)), 100)
    optimizer = build_optimizer(method, 0.1, 0.1)
    prototypes = method.get_parameter("loss.prototypes")
    before = prototypes.detach().clone()
    embeddings = torch.nn.functional.normalize(torch.randn(32, 8), dim=1)
    for epoch in (0, 1):
        method.begin_step(Position(epoch, 2, epoch))
        optimizer.zero_grad()
        method(embeddings, torch.arange(16).repeat_interleave(2)).backward()
        method.before_update()
        optimizer.step()
        assert torch.allclose(prototypes, before, atol=1e-6) == (epoch == 0)
    method.begin_step(Position(2, 3, 1))
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(len(prototypes)))


def test_codes_of_few_images_are_sharper() -> None:
    few, many = (build_method(resolve(TrainConfig(method="swav", batch_size=b)), 5000) for b in (64, 1024))
    assert (few.loss.epsilon, many.loss.epsilon) == (0.01, 0.05)  # type: ignore[union-attr]
    assert len(few.get_parameter("loss.prototypes")) == 64


@pytest.mark.slow
def test_the_example_is_short_and_learns(tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    config = dataclasses.replace(
        TINY, method=str(EXAMPLE), views=2, batch_size=64, recipe="documents", steps=40, options={"redundancy": 0.01}
    )
    train("digits:test", config, out=tmp_path / "run", quiet=True)
    checks = [entry["check"]["view_ap"] for entry in RunFolder(tmp_path / "run").read_metrics() if "check" in entry]
    assert checks[-1] > 1.3 * checks[0]


def test_methods_are_listed_with_their_options() -> None:
    text = describe_methods()
    for words in ("s2r2", "simclr", "swav", "option form=outside", "How several positives are combined"):
        assert words in text
