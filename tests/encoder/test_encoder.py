"""The encoder: modules, saving and loading, and embedding whatever a caller holds."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2r2.encoder import Encoder, create_encoder, load, store_side
from s2r2.encoder.loading import untrained_like
from s2r2.errors import S2R2Error


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return create_encoder("test_resnet", image_size=32, embedding_dimensions=16, head_hidden=32).eval()


def noise(count: int, height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def test_embedding_has_rows_of_length_one_and_the_stated_size(encoder: Encoder) -> None:
    for output in ("feature", "embedding"):
        rows = encoder.embed(list(noise(5)), output=output)
        assert rows.shape == (5, encoder.dimensions(output))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)


def test_paths_pil_and_arrays_give_the_same_vector(encoder: Encoder, tmp_path: Path) -> None:
    array = noise(1)[0]
    path = tmp_path / "ünïcode name.png"
    Image.fromarray(array).save(path)
    expected = encoder.embed(array)
    assert expected.shape[0] == 1
    for same in (path, str(path), Image.fromarray(array), [array], [path], noise(1)):
        np.testing.assert_array_equal(encoder.embed(same), expected)


def test_grey_and_alpha_arrays(encoder: Encoder) -> None:
    grey = noise(1)[0][..., 0]
    opaque = np.dstack([noise(1)[0], np.full((40, 56), 255, np.uint8)])
    np.testing.assert_array_equal(encoder.embed(grey), encoder.embed(np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_array_equal(encoder.embed(opaque), encoder.embed(noise(1)[0]))


def test_batches_do_not_change_the_result(encoder: Encoder) -> None:
    images = list(noise(9))
    np.testing.assert_allclose(encoder.embed(images, batch_size=2), encoder.embed(images), atol=1e-6)


def test_embedding_leaves_training_mode_as_it_was(encoder: Encoder) -> None:
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.embed(noise(2))
    assert encoder.training
    encoder.eval()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_no_images_give_no_rows(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, encoder.dimensions())


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 7), np.uint8), "no/such/file.jpg"]
)
def test_what_is_no_image_is_refused_in_one_line(encoder: Encoder, bad: object) -> None:
    with pytest.raises(S2R2Error) as error:
        encoder.embed([bad])
    assert "\n" not in str(error.value)


def test_saved_and_loaded_encoder_is_the_same(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    again = load(tmp_path)
    assert again.fingerprint == encoder.fingerprint
    assert again.name == encoder.name
    np.testing.assert_array_equal(again.embed(noise(3)), encoder.embed(noise(3)))
    np.testing.assert_array_equal(load(tmp_path / "encoder.safetensors").embed(noise(3)), encoder.embed(noise(3)))


def test_fingerprint_follows_the_weights(encoder: Encoder) -> None:
    other = untrained_like(encoder, seed=1)
    assert other.fingerprint != encoder.fingerprint
    assert untrained_like(encoder, seed=1).fingerprint == other.fingerprint


def test_damaged_foreign_and_missing_files(encoder: Encoder, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = encoder.save(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(S2R2Error, match="damaged"):
        load(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(S2R2Error, match="not written by s2r2"):
        load(tmp_path / "other.safetensors")
    with pytest.raises(S2R2Error, match="no encoder"):
        load(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(S2R2Error, match=r"encoder\.safetensors"):
        load(tmp_path / "folder")


def test_untrained_timm_backbone_is_always_the_same() -> None:
    first, second = load("untrained:test_resnet", image_size=32), load("untrained:test_resnet", image_size=32)
    assert first.fingerprint == second.fingerprint
    assert first.dimensions("embedding") == first.dimensions("feature")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:lcnet_050.nope", r"has no weights 'lcnet_050\.nope': use lcnet_050\.ra2_in1k"),
        ("untrained:lcnet_050.nope", r"use lcnet_050\.ra2_in1k"),
        ("timm:lcnet_035", r"no pretrained weights of 'lcnet_035': there are none of lcnet_035, only random weights"),
    ],
)
def test_weights_that_timm_does_not_have_are_refused_before_any_download(name: str, message: str) -> None:
    with pytest.raises(S2R2Error, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 8s")
        raise OSError("no route to the hub\nlook at the stack below")

    monkeypatch.setattr("s2r2.encoder.weights.refuse_offline", lambda name: None)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(S2R2Error, match=r"no route to the hub\): connect .*untrained:NAME") as caught:
        load("timm:lcnet_050.ra2_in1k")
    assert "\n" not in str(caught.value)
    assert caplog.records == []


def test_unknown_backbone_names_near_matches() -> None:
    with pytest.raises(S2R2Error, match="resnet18"):
        create_encoder("resnet81", image_size=32)


@pytest.mark.parametrize("backbone", ["resnet18", "lcnet_050", "test_vit", "test_convnext", "test_efficientnet"])
def test_backbones_of_many_kinds(backbone: str) -> None:
    encoder = create_encoder(backbone, image_size=48, embedding_dimensions=8)
    pixels = torch.randn(4, 3, 48, 48)
    embeddings = encoder(pixels)
    assert embeddings.shape == (4, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    assert encoder.features(pixels).shape == (4, encoder.dimensions())


def test_size_that_a_backbone_cannot_take_is_refused() -> None:
    with pytest.raises(S2R2Error, match="image_size"):
        create_encoder("test_vit", image_size=45)


def test_small_images_get_the_small_stem() -> None:
    small = create_encoder("resnet18", image_size=32)
    large = create_encoder("resnet18", image_size=96)
    assert small.backbone.conv1.stride == (1, 1)
    assert large.backbone.conv1.stride == (2, 2)


def test_store_side_leaves_room_for_crops() -> None:
    assert [store_side(size) for size in (32, 64, 96, 128, 224, 384)] == [48, 96, 144, 192, 256, 438]


def test_the_layout_in_memory_changes_neither_features_nor_files(tmp_path: Path) -> None:
    encoder = create_encoder("lcnet_035", image_size=32, embedding_dimensions=8, head_hidden=16).eval()
    assert not encoder.backbone.conv_stem.weight.is_contiguous()
    rows, file = encoder.embed(list(noise(3))), encoder.to_bytes()
    encoder.to(memory_format=torch.contiguous_format)
    assert encoder.to_bytes() == file
    np.testing.assert_allclose(encoder.embed(list(noise(3))), rows, atol=1e-6)
    loaded = load(encoder.save(tmp_path))
    assert not loaded.backbone.conv_stem.weight.is_contiguous()
    assert loaded.fingerprint == encoder.fingerprint
    assert create_encoder("resnet18", image_size=64).backbone.layer1[0].conv1.weight.is_contiguous()
