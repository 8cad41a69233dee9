"""Encoder files from strangers: they load, or one line says why not."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from s2r2.encoder import Encoder, create_encoder, export, load
from s2r2.encoder.loading import untrained_like
from s2r2.errors import NonFiniteError, S2R2Error


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return create_encoder("lcnet_035", image_size=32, head_hidden=16, embedding_dimensions=8)


def rewritten(encoder: Encoder, folder: Path, change, tensors=None) -> Path:  # type: ignore[no-untyped-def]
    path = encoder.save(folder)
    description = {"version": 1, "name": encoder.name, "architecture": dict(encoder.architecture)}
    change(description)
    save_file(tensors or load_file(path), path, metadata={"s2r2": json.dumps(description)})
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 10**9), ("image_size", "32"), ("image_size", True), ("image_size", -1), ("image_size", 32.0),
        ("backbone", "hf-hub:someone/weights"), ("backbone", "local-dir:/somewhere"), ("backbone", ["x"]),
        ("backbone", "no_such_model"), ("backbone", "../x"), ("head_hidden", 10**12), ("head_hidden", 17),
        ("embedding_dimensions", 10**12), ("feature_dimensions", 3), ("has_head", "yes"), ("has_head", False),
        ("mean", [0, 0]), ("mean", [0, 0, float("nan")]), ("std", [1, 1, 0]), ("std", [1, 1, float("inf")]),
        ("std", "abc"), ("std", None), ("small_stem", 3),
    ],
)  # fmt: skip
def test_numbers_are_checked_before_use(encoder: Encoder, tmp_path: Path, key: str, value: object) -> None:
    def change(description: dict) -> None:  # type: ignore[type-arg]
        description["architecture"][key] = value

    path = rewritten(encoder, tmp_path, change)
    with pytest.raises(S2R2Error) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 90_000, "1", "[]", "{}", '{"version": 1, "version": 1}', " " * 200_000, "{"])
def test_descriptions_that_are_none(encoder: Encoder, tmp_path: Path, text: str) -> None:
    path = encoder.save(tmp_path)
    save_file(load_file(path), path, metadata={"s2r2": text})
    with pytest.raises(S2R2Error, match="cannot be read"):
        load(path)


def test_files_say_whether_weights_were_learnt(encoder: Encoder, tmp_path: Path) -> None:
    fresh = untrained_like(encoder)
    fresh.name = "mine"
    assert not load(fresh.save(tmp_path)).trained
    assert load(encoder.save(tmp_path)).trained
    exported = export(fresh, tmp_path / "fresh.safetensors")
    assert not load(exported.path).trained
    assert load(rewritten(encoder, tmp_path, lambda description: None)).trained  # earlier files do not say
    with pytest.raises(S2R2Error, match="trained is 'no'"):
        load(rewritten(encoder, tmp_path, lambda description: description.update(trained="no")))


def test_weights_must_be_finite_and_variances_positive(encoder: Encoder, tmp_path: Path) -> None:
    for name, value, message in (
        ("head.0.weight", float("nan"), "not finite"),
        ("head.1.running_var", -1.0, "negative variance"),
    ):
        tensors = load_file(encoder.save(tmp_path))
        tensors[name].view(-1)[0] = value
        path = rewritten(encoder, tmp_path, lambda description: None, tensors)
        with pytest.raises(S2R2Error, match=message):
            load(path)


def test_embeddings_that_are_not_finite_name_the_photo(tmp_path: Path) -> None:
    from PIL import Image

    broken = create_encoder("lcnet_035", image_size=32, head_hidden=16, embedding_dimensions=8).eval()
    with torch.no_grad():
        broken.head[0].weight.fill_(float("nan"))  # type: ignore[index]
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(NonFiniteError, match=r"a\.png"):
        broken.embed([tmp_path / "a.png"], output="embedding")
    with pytest.raises(NonFiniteError, match="image 0 of the batch"):
        broken.embed_pixels(np.zeros((1, 3, 32, 32), np.float32), output="embedding")
    assert np.isfinite(broken.embed([tmp_path / "a.png"])).all()


def test_mutated_files_load_or_say_one_line(encoder: Encoder, tmp_path: Path) -> None:
    content = encoder.save(tmp_path).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path, generator = tmp_path / "mutated.safetensors", random.Random(0)
    said: list[str] = []
    for turn in range(60):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(header if turn % 4 else len(changed))] ^= 1 << generator.randrange(8)
        path.write_bytes(changed if turn % 5 else changed[: generator.randrange(len(changed))])
        try:
            load(path)
        except S2R2Error as error:
            said.append(str(error))
    assert len(said) > 30
    assert not any("\n" in line for line in said)
