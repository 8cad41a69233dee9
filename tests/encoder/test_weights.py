"""Encoders by the names that timm's models have: tags, hubs, folders, checkpoint files; with and without internet."""

import argparse
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from s2r2.encoder import Encoder, create_encoder, export, load
from s2r2.errors import S2R2Error
from s2r2.runs import ENCODER_FILE


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit").eval()


def features(encoder: Encoder, size: int = 160) -> np.ndarray:
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return encoder.features(pixels).numpy()


def expected(model: torch.nn.Module, size: int = 160) -> np.ndarray:
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()


def test_checkpoint_files_of_every_kind(vit: torch.nn.Module, tmp_path: Path) -> None:
    save_file(vit.state_dict(), tmp_path / "a.safetensors")
    torch.save(vit.state_dict(), tmp_path / "b.pth")
    of_training = {"state_dict": vit.state_dict(), "args": argparse.Namespace(lr=1), "arch": "test_vit", "epoch": 3}
    torch.save(of_training, tmp_path / "c.pth.tar")
    torch.save({"model": {f"module.{name}": value for name, value in vit.state_dict().items()}}, tmp_path / "d.pt")
    for file in ("a.safetensors", "b.pth", "c.pth.tar", "d.pt"):
        encoder = load(f"timm:test_vit@{tmp_path / file}")
        assert encoder.image_size == 160
        np.testing.assert_array_equal(features(encoder), expected(vit))


def test_a_checkpoint_that_lacks_weights_or_holds_code_is_refused(vit: torch.nn.Module, tmp_path: Path) -> None:
    part = vit.state_dict()
    del part["blocks.1.attn.qkv.weight"]
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(S2R2Error, match=r"do not fit 'test_vit'.*blocks\.1\.attn\.qkv\.weight"):
        load(f"timm:test_vit@{tmp_path / 'part.pth'}")
    torch.save({"a": Path}, tmp_path / "code.pth")
    with pytest.raises(S2R2Error, match="cannot be read as weights"):
        load(f"timm:test_vit@{tmp_path / 'code.pth'}")


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet"])
def test_a_folder_in_timms_form(backbone: str, tmp_path: Path) -> None:
    model = timm.create_model(backbone).eval()
    save_for_hf(model, tmp_path)
    for name in (f"timm:local-dir:{tmp_path}", str(tmp_path)):
        np.testing.assert_array_equal(features(load(name)), expected(model))


def test_a_folder_whose_model_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    save_for_hf(timm.create_model("test_vit", global_pool="avg"), tmp_path)
    with pytest.raises(S2R2Error, match="sets global_pool='avg' of the model"):
        load(f"timm:local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": 3}')
    with pytest.raises(S2R2Error, match=r"config\.json"):
        load(f"timm:local-dir:{tmp_path}")


def test_an_export_comes_back_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/export.md says, and with a folder in the place of the hub: what a download leaves in its cache."""
    torch.manual_seed(0)
    mine = create_encoder("test_vit", image_size=96, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    entry = tmp_path / "hub" / "models--you--mine"
    export(mine, entry / "snapshots" / ("0" * 40), format="huggingface")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    again = load("timm:hf-hub:you/mine")
    assert (again.image_size, again.mean, again.std) == (96, mine.mean, mine.std)
    np.testing.assert_allclose(features(again, 96), features(mine, 96), atol=1e-6)
    np.testing.assert_allclose(
        timm.create_model("hf-hub:you/mine", pretrained=True, cache_dir=tmp_path / "hub")
        .eval()(torch.ones(1, 3, 96, 96))
        .detach(),
        mine.features(torch.ones(1, 3, 96, 96)).detach(),
        atol=1e-6,
    )


def test_another_size_of_image(tmp_path: Path) -> None:
    create_encoder("test_vit", image_size=96).save(tmp_path)
    smaller = load(tmp_path, image_size=64)
    assert smaller.image_size == 64
    smaller.save(tmp_path / "smaller")
    np.testing.assert_array_equal(features(load(tmp_path / "smaller"), 64), features(smaller, 64))
    with pytest.raises(S2R2Error, match="cannot take images of 61 px"):
        load(tmp_path / ENCODER_FILE, image_size=61)


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:hf-hub:you/mine"])
def test_without_internet_a_line_comes_in_two_seconds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*address: object, **options: object) -> None:
        time.sleep(30)
        raise OSError

    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("s2r2.encoder.weights._SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", silent)
    began = time.monotonic()
    with pytest.raises(S2R2Error, match="does not answer") as caught:
        load(name)
    assert time.monotonic() - began < 1.5
    assert "\n" not in str(caught.value)
