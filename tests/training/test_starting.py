"""Training that starts from a learned encoder: what is taken over, what is trained, and what a resume gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, create_encoder, load
from s2r2.encoder.feature_head import with_feature_head
from s2r2.errors import ArgumentError
from s2r2.evaluation import evaluate_run
from s2r2.runs import RunFolder
from s2r2.system.console import PlainConsole
from s2r2.training import TrainConfig, train
from s2r2.training.adaptation import HEAD_DECAY, equip, merged, shares_of
from s2r2.training.optimizer import build_optimizer, set_learning_rate
from s2r2.training.setup.features import FeatureLoader, refuse_too_many
from s2r2.training.setup.preparation import _refuse_processes
from s2r2.training.setup.time_limit import choose_for_time

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
FEW = {"batch_size": 4, "views": 2, "recipe": "photos", "steps": 4, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet without the small stem, whose batch norm has seen something."""
    folder = tmp_path_factory.mktemp("learned")
    torch.manual_seed(3)
    encoder = create_encoder(
        "resnet10t", image_size=32, head_hidden=16, embedding_dimensions=8, mean=MEAN, std=STD, small_stem=False
    )
    encoder(torch.rand(8, 3, 32, 32))
    encoder.save(folder)
    return folder


def changed(before: Encoder, after: Encoder) -> set[str]:
    """Names of the backbone's weights and statistics that are no longer what they were."""
    others = after.backbone.state_dict()
    return {name for name, value in before.backbone.state_dict().items() if not torch.equal(value, others[name])}


@pytest.mark.parametrize("how", ["all", "last-blocks"])
def test_a_start_is_taken_over_and_adapted(how: str, learned: Path, pictures: Path, tmp_path: Path) -> None:
    result = train(pictures, TrainConfig(**FEW, start=str(learned), adapt=how), out=tmp_path, quiet=True)  # type: ignore[arg-type]
    before, after = load(learned), load(tmp_path)
    assert after.architecture == before.architecture
    assert (after.mean, after.std, after.image_size) == (MEAN, STD, 32)
    assert RunFolder(tmp_path).read_config().about["recipe"]["mean"] == list(MEAN)
    names = changed(before, after)
    assert names
    assert not [name for name in names if "running" in name or "tracked" in name]
    assert ("conv1.0.weight" in names) == (how == "all")
    assert any(name.startswith("layer4") for name in names)
    assert result.encoder.frozen_statistics


def test_without_steps_the_start_is_what_it_was(learned: Path, pictures: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**FEW, "steps": 1, "lr": 1e-12}, start=str(learned), adapt="all")  # type: ignore[arg-type]
    train(pictures, config, out=tmp_path, quiet=True)
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(load(tmp_path).embed(image), load(learned).embed(image), atol=1e-5)


@pytest.mark.slow
def test_a_resume_needs_no_start_and_gives_the_same(learned: Path, pictures: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    load(learned).save(start)
    config = TrainConfig(**FEW, start=str(start), adapt="last-blocks")  # type: ignore[arg-type]
    whole = train(pictures, config, out=tmp_path / "whole", quiet=True)
    half = TrainConfig(**{**FEW, "steps": 2}, start=str(start), adapt="last-blocks")  # type: ignore[arg-type]
    train(pictures, half, out=tmp_path / "parts", quiet=True)
    (start / "encoder.safetensors").unlink()
    again = train(None, TrainConfig(steps=4), out=tmp_path / "parts", resume=True, quiet=True)
    assert changed(whole.encoder, load(learned)) == changed(again.encoder, load(learned))
    assert again.steps == 4
    assert not again.encoder.backbone.conv1[0].weight.requires_grad  # type: ignore[index, union-attr]


def test_earlier_layers_learn_more_slowly(learned: Path) -> None:
    encoder = load(learned)
    weights = dict(encoder.backbone.named_parameters())
    optimizer = build_optimizer(encoder, 1.0, 0.1, shares=shares_of(equip(encoder, "all")))
    set_learning_rate(optimizer, 2.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    first, last = weights["conv1.0.weight"], weights["layer4.0.conv2.weight"]
    assert rates[first] < rates[last] <= 2.0
    assert all(rates[parameter] == 2.0 for parameter in encoder.head.parameters())  # type: ignore[union-attr]
    assert len(rates) == len(list(encoder.parameters()))


def test_a_head_is_learned_on_features_and_found_by_all_that_load(
    learned: Path, pictures: Path, tmp_path: Path
) -> None:
    config = TrainConfig(**{**FEW, "steps": 30}, lr=0.01, start=str(learned), adapt="head")  # type: ignore[arg-type]
    result = train(pictures, config, out=tmp_path, quiet=True)
    before, after = load(learned), load(tmp_path)
    assert not changed(before, after)
    assert after.feature_head is not None
    change = after.feature_head.weight - torch.eye(after.dimensions())
    assert 0 < float(change.detach().abs().max()) < 1.2 / HEAD_DECAY  # at any rate and in any number of steps
    image = np.asarray(Image.open(pictures / "0.png"))
    np.testing.assert_allclose(after.embed(image), result.encoder.embed(image), atol=1e-6)
    moved = torch.from_numpy(before.embed(image)) @ after.feature_head.weight.detach().T
    np.testing.assert_allclose(after.embed(image), torch.nn.functional.normalize(moved, dim=1), atol=1e-5)


def test_the_steps_of_a_head_embed_each_view_once(
    learned: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, keep = [], FeatureLoader._keep
    monkeypatch.setattr(
        FeatureLoader, "_keep", lambda self, batch, *rest: (seen.append(batch), keep(self, batch, *rest))
    )
    config = TrainConfig(**{**FEW, "steps": 8, "batch_size": 3}, start=str(learned), adapt="head")  # type: ignore[arg-type]
    train(pictures, config, out=tmp_path, quiet=True)
    assert sorted(int(image) for batch in seen for image in batch.images) == list(range(8))


def test_features_that_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2r2.training.setup.features.free_memory", lambda device: 10_000_000)
    with pytest.raises(ArgumentError, match=r"8 views of 1,000 photos take .* use `views=2`, a part of the photos"):
        refuse_too_many(1000, 8, 1000)
    refuse_too_many(1000, 2, 1000)


def test_adapters_alone_are_trained_and_become_part_of_the_weights(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    pixels = torch.rand(2, 3, 32, 32)
    encoder = load("untrained:test_vit", image_size=32)
    first = {name: value.clone() for name, value in encoder.state_dict().items()}
    equip(encoder, "lora")
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert all("lora_" in name for name, parameter in encoder.named_parameters() if parameter.requires_grad)
    for _ in range(2):  # the second matrix of an adapter begins at 0
        encoder.features(pixels).square().sum().backward()
        for parameter in trained:
            parameter.data -= 0.3 * parameter.grad / parameter.grad.norm().clamp(min=1e-9)  # type: ignore[union-attr, operator]
    made = merged(encoder, "lora")
    assert made.state_dict().keys() == first.keys()
    assert {
        name.split(".")[-2] for name, value in made.state_dict().items() if not torch.equal(value, first[name])
    } == {
        "qkv",
        "proj",
    }
    difference = made.embed_pixels(pixels) - encoder.eval().embed_pixels(pixels)
    assert np.abs(difference).max() < 1e-5
    assert (
        np.abs(made.embed_pixels(pixels) - load("untrained:test_vit", image_size=32).embed_pixels(pixels)).max() > 1e-3
    )


@pytest.mark.parametrize(("how", "start"), [("head", "untrained:test_resnet"), ("lora", "untrained:test_vit")])
def test_what_was_added_goes_on_at_a_resume(how: str, start: str, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    few = {**FEW, "image_size": 32, "start": start, "adapt": how}
    whole = train(pictures, TrainConfig(**few), out=tmp_path / "whole", quiet=True)  # type: ignore[arg-type]
    train(pictures, TrainConfig(**{**few, "steps": 2}), out=tmp_path / "parts", quiet=True)  # type: ignore[arg-type]
    again = train(None, TrainConfig(steps=4), out=tmp_path / "parts", resume=True, quiet=True)
    assert again.steps == 4
    assert again.encoder.state_dict().keys() == whole.encoder.state_dict().keys()
    assert load(tmp_path / "parts").fingerprint == again.encoder.fingerprint


@pytest.mark.slow
def test_a_run_from_a_refined_encoder_can_be_resumed(learned: Path, pictures: Path, tmp_path: Path) -> None:
    with_feature_head(load(learned), 2 * torch.eye(512)).save(tmp_path / "refined")
    config = TrainConfig(**{**FEW, "steps": 1}, start=str(tmp_path / "refined"), adapt="all")  # type: ignore[arg-type]
    train(pictures, config, out=tmp_path / "run", quiet=True)
    train(None, TrainConfig(steps=2), out=tmp_path / "run", resume=True, quiet=True)
    assert load(tmp_path / "run").feature_head is not None


def test_minutes_choose_the_views_of_a_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("s2r2.training.setup.time_limit.seconds_per_pixel", lambda *_: 1e-3 / 32**2)
    monkeypatch.setattr("s2r2.training.setup.time_limit.seconds_per_step_of_head", lambda *_: 0.01)
    config = TrainConfig(start="untrained:test_resnet", adapt="head", recipe="photos", image_size=32, minutes=1.0)

    def chosen(images: int, given: frozenset[str] = frozenset()) -> TrainConfig:
        return choose_for_time(config, given, images, torch.device("cpu"), Processes(), PlainConsole())

    assert chosen(1000).views == 8  # 8 s
    slower = chosen(9000)  # a view of each in 9 s: two in four tenths of the minute, and 42 s for 4,200 steps
    assert (slower.views, slower.epochs) == (2, 30)
    assert "--" not in capsys.readouterr().out
    with pytest.raises(ArgumentError, match=r"`minutes=1` is too short: embedding 2 views .* give `minutes=4` or more"):
        chosen(60_000)


@pytest.mark.parametrize("name", ["untrained:test_vit", "untrained:vit_tiny_patch16_224"])
def test_a_vision_transformer_starts_at_the_size_asked_for(name: str, pictures: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**FEW, "steps": 1}, start=name, adapt="all", image_size=32, embedding_dimensions=8)  # type: ignore[arg-type]
    encoder = train(pictures, config, out=tmp_path, quiet=True).encoder
    assert (encoder.image_size, encoder.mean) == (32, (0.5, 0.5, 0.5))


def test_the_former_spelling_of_a_start(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def opened(name: str, **options: object) -> Encoder:
        asked.append(name)
        return load(name.replace("timm:", "untrained:"), **options)  # type: ignore[arg-type]

    monkeypatch.setattr("s2r2.training.setup.encoder.load", opened)
    train(pictures, TrainConfig(**FEW, pretrained=True, backbone="test_resnet", image_size=32), out=tmp_path)  # type: ignore[arg-type]
    assert set(asked) == {"timm:test_resnet"}
    assert RunFolder(tmp_path).read_config().settings["adapt"] == "all"
    assert "`pretrained` is now `start='timm:test_resnet'` with `adapt='all'`" in capsys.readouterr().out


@pytest.mark.slow
def test_real_weights_are_adapted_and_search_goes_on(real_weights: str, pictures: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**FEW, "steps": 1}, start=real_weights, adapt="all", image_size=64)  # type: ignore[arg-type]
    train(pictures, config, out=tmp_path, quiet=True)
    image = np.asarray(Image.open(pictures / "0.png"))
    before, after = (load(name, image_size=64).embed(image) for name in (real_weights, tmp_path))
    assert 0.9 < float((before * after).sum()) < 1


@pytest.mark.slow
def test_an_evaluation_says_whether_adapting_has_helped(
    learned: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = tmp_path / "start"
    load(learned).save(start)
    train(pictures, TrainConfig(**FEW, start=str(start)), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    assert load(tmp_path / "run").feature_head is not None  # the default of --adapt
    found = evaluate_run(tmp_path / "run", pictures, device="cpu")
    assert found.row(str(start)).figures
    assert f"the adapted encoder is {'level with'} {start}" in found.notes[0] or f"than {start}" in found.notes[0]
    (start / "encoder.safetensors").unlink()
    load(learned).save(tmp_path / "trained")
    monkeypatch.chdir(tmp_path)  # where another encoder's folder is called what a row of the run is called
    beside = evaluate_run(tmp_path / "run", pictures, device="cpu", others=["trained"])
    assert "verdict" not in beside.about
    assert beside.row("./trained").figures != beside.row("trained").figures
    assert "not compared with the encoder that it started from: no encoder" in capsys.readouterr().out


def test_a_head_is_refused_in_several_processes() -> None:
    config = TrainConfig(start="timm:any", adapt="head", batch_size=4)
    with pytest.raises(ArgumentError, match="leave out `devices`"):
        _refuse_processes(config, Processes(world_size=2))
    _refuse_processes(config, Processes())


def test_a_backbone_without_layers_gets_a_head(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(learned)
    monkeypatch.setattr(type(encoder.backbone), "group_matcher", None)
    with pytest.raises(ArgumentError, match=r"cannot be adapted as a whole: .*; use `adapt='head'`"):
        equip(encoder, "last-blocks")
    assert equip(encoder, "head").feature_head is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapt": "all"}, r"`adapt='all'` is for an encoder to start from: name it as `start`"),
        ({"start": "HERE", "backbone": "resnet18"}, "leave out `backbone`"),
        ({"start": "HERE", "pretrained": True}, "leave out `pretrained`"),
        ({"start": "HERE", "strategy": "fsdp"}, "leave out `strategy`"),
        ({"start": "HERE", "head_hidden": 99}, "leave out `head_hidden`"),
        ({"start": "HERE", "adapt": "head", "optimizer": "sgd"}, "leave out `optimizer`"),
        ({"start": "HERE", "adapt": "lora"}, "resnet10t has no attention blocks: use `adapt='head'`"),
    ],
)
def test_what_contradicts_a_start_is_refused(
    settings: dict[str, str], message: str, learned: Path, pictures: Path, tmp_path: Path
) -> None:
    asked = {name: str(learned) if value == "HERE" else value for name, value in settings.items()}
    with pytest.raises(ArgumentError, match=message):
        train(pictures, TrainConfig(**{**FEW, **asked}), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    asked.pop(message.split("`")[1] if message.startswith("leave") else "adapt")  # or another form of it
    if "start" in asked:
        train(pictures, TrainConfig(**{**FEW, "steps": 1, **asked}), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
