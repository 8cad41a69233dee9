"""Training that starts from a learned encoder: what is taken over, what is trained, and what a resume gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2r2.encoder import Encoder, create_encoder, load
from s2r2.errors import ArgumentError
from s2r2.evaluation import evaluate_run
from s2r2.runs import RunFolder
from s2r2.training import TrainConfig, train
from s2r2.training.adaptation import adapt
from s2r2.training.optimizer import build_optimizer, set_learning_rate

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
    train(pictures, TrainConfig(**{**FEW, "steps": 1, "lr": 1e-12}, start=str(learned)), out=tmp_path, quiet=True)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(load(tmp_path).embed(image), load(learned).embed(image), atol=1e-5)


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
    optimizer = build_optimizer(encoder, 1.0, 0.1, shares=adapt(encoder, "all"))
    set_learning_rate(optimizer, 2.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    first, last = weights["conv1.0.weight"], weights["layer4.0.conv2.weight"]
    assert rates[first] < rates[last] <= 2.0
    assert all(rates[parameter] == 2.0 for parameter in encoder.head.parameters())  # type: ignore[union-attr]
    assert len(rates) == len(list(encoder.parameters()))


@pytest.mark.parametrize("name", ["untrained:test_vit", "untrained:vit_tiny_patch16_224"])
def test_a_vision_transformer_starts_at_the_size_asked_for(name: str, pictures: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**FEW, "steps": 1}, start=name, image_size=32, embedding_dimensions=8)  # type: ignore[arg-type]
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
    assert "`pretrained` is now `start='timm:test_resnet'`" in capsys.readouterr().out


def test_real_weights_are_adapted_and_search_goes_on(real_weights: str, pictures: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**FEW, "steps": 1}, start=real_weights, image_size=64)  # type: ignore[arg-type]
    train(pictures, config, out=tmp_path, quiet=True)
    image = np.asarray(Image.open(pictures / "0.png"))
    before, after = (load(name, image_size=64).embed(image) for name in (real_weights, tmp_path))
    assert 0.9 < float((before * after).sum()) < 1


def test_an_evaluation_says_whether_adapting_has_helped(
    learned: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    load(learned).save(start)
    train(pictures, TrainConfig(**FEW, start=str(start)), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    found = evaluate_run(tmp_path / "run", pictures, device="cpu")
    assert found.row(str(start)).figures
    assert f"the adapted encoder is {'level with'} {start}" in found.notes[0] or f"than {start}" in found.notes[0]
    (start / "encoder.safetensors").unlink()
    assert "verdict" not in evaluate_run(tmp_path / "run", pictures, device="cpu").about
    assert "not compared with the encoder that it started from: no encoder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapt": "all"}, r"`adapt='all'` is for an encoder to start from: name it as `start`"),
        ({"start": "HERE", "backbone": "resnet18"}, "leave out `backbone`"),
        ({"start": "HERE", "strategy": "fsdp"}, "leave out `strategy`"),
        ({"start": "HERE", "head_hidden": 99}, "leave out `head_hidden`"),
    ],
)
def test_what_contradicts_a_start_is_refused(
    settings: dict[str, str], message: str, learned: Path, pictures: Path, tmp_path: Path
) -> None:
    asked = {name: str(learned) if value == "HERE" else value for name, value in settings.items()}
    with pytest.raises(ArgumentError, match=message):
        train(pictures, TrainConfig(**{**FEW, **asked}), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    asked.pop(message.split("`")[1] if message.startswith("leave") else "adapt")
    if "start" in asked:
        train(pictures, TrainConfig(**{**FEW, "steps": 1, **asked}), out=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
