"""A vector of length 0 has no place in a ranking: it ends neither a run nor an index, and its photo is named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.evaluation import evaluate
from s2r2.images import PixelStore, open_source
from s2r2.search import ImageIndex, update_index, write_embeddings
from s2r2.study.spec import TaskSpec
from s2r2.study.tasks import evaluate_task
from s2r2.training import TrainConfig, train
from s2r2.views import get_recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos in two folders; one of them is black."""
    for number in range(12):
        place = tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8) * (number != 5)
        Image.fromarray(pixels).resize((40, 40)).save(place)
    return tmp_path / "photos"


def blind(_: torch.nn.Module, arguments: tuple[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Make nothing of a black photo."""
    return features * (arguments[0].flatten(2).std(2).sum(1) > 1e-3)[:, None]


@pytest.fixture
def encoder() -> Encoder:
    made = load("untrained:test_resnet", device="cpu", image_size=32)
    made.backbone.register_forward_hook(blind)
    return made


def test_an_index_lists_the_photo(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    done = update_index(encoder, open_source(str(photos)), tmp_path / "index", progress=False)
    assert [(entry.key, entry.reason.partition(",")[0]) for entry in done.skipped] == [
        ("b/05.png", "the encoder gives it a vector of length 0")
    ]
    assert len(ImageIndex.open(tmp_path / "index")) == 11
    assert "b/05.png" in (tmp_path / "index" / "skipped.csv").read_text()


def test_a_table_of_vectors_lists_the_photo(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    written = write_embeddings(encoder, open_source(str(photos)), tmp_path / "x.parquet", batch_size=4)
    assert [entry.key for entry in written.skipped] == ["b/05.png"]
    vectors = np.array(parquet.read_table(tmp_path / "x.parquet")["vector"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert len(vectors) == 11
    assert "length 0" in (tmp_path / "x.skipped.csv").read_text()


def test_an_evaluation_leaves_the_encoder_out_and_names_the_photo(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    store = PixelStore.build(open_source(str(photos)), 32, tmp_path / "store", progress=False)
    found = evaluate({"blind": encoder}, None, store, recipe=get_recipe("photos"), draws=20, folder=tmp_path)
    assert [row.encoder for row in found.rows] == ["raw pixels"]
    (note,) = [note for note in found.notes if "blind" in note]
    assert "1 of 12 images" in note
    assert "the first is b/05.png" in note
    with pytest.raises(S2R2Error, match=r"the first is b/05\.png"):
        evaluate({"blind": encoder}, None, store, recipe=get_recipe("photos"), draws=20, raw_pixels=False)
    (photos / "b" / "05.png").unlink()  # left out
    store = PixelStore.build(open_source(str(photos)), 32, tmp_path / "store", progress=False)
    found = evaluate({"blind": encoder}, None, store, recipe=get_recipe("photos"), draws=20)
    assert [row.encoder for row in found.rows] == ["raw pixels", "blind"]


def test_a_study_names_the_photo(encoder: Encoder, photos: Path) -> None:
    with pytest.raises(S2R2Error, match=r"1 of 12 images .* the first is b/05.png; leave them out"):
        evaluate_task(encoder, TaskSpec(train=str(photos), test=str(photos)))


def test_a_run_with_a_head_of_one_unit_comes_to_its_end(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its only hidden unit is dead for half of the views."""
    config = TrainConfig(
        backbone="test_resnet", image_size=32, views=2, batch_size=8, epochs=1, recipe="photos", head_hidden=1,
        embedding_dimensions=2, threads=1, device="cpu", temperature=0.1,
    )  # fmt: skip
    assert train(photos, config, out=tmp_path / "run").steps == 1
    said = capsys.readouterr().out
    assert "held-out views have an embedding of length 0" in said
    assert "a larger `head_hidden`" in said
    train(photos, dataclasses.replace(config, head_hidden=64, embedding_dimensions=16), out=tmp_path / "wide")
    assert "length 0" not in capsys.readouterr().out
