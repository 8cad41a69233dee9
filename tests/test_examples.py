"""What examples/ shows is true: each runs, and other tools find what they look for in what it writes."""

import csv
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KINDS = ("cat", "dog", "owl")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """As ``s2r2 embed`` writes it: 36 photos of three kinds, the last without a label."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(3, 8))
    paths, vectors = [], []
    for i in range(36):
        paths.append(tmp_path / f"{i:02d}.jpg")
        Image.new("RGB", (120, 100), (7 * i, 0, 0)).save(paths[-1])
        vectors.append(centers[i % 3] + 0.1 * generator.normal(size=8))
    rows = np.array(vectors, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = {
        "path": [*map(str, paths)],
        "label": [*(KINDS[i % 3] for i in range(35)), ""],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 8),
    }
    parquet.write_table(pa.table(columns), tmp_path / "vectors.parquet")
    return tmp_path / "vectors.parquet"


def test_scikit_learn_finds_the_kinds(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("embeddings/cluster_with_scikit_learn.py").cluster(table, 3, table.parent / "clusters.csv")
    with (table.parent / "clusters.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["path"] for row in rows] == parquet.read_table(table)["path"].to_pylist()
    assert sorted(Counter(row["cluster"] for row in rows).values()) == [12, 12, 12]
    output = capsys.readouterr().out
    assert "agree by 1.00" in output
    assert "right on 100.0%" in output


def test_faiss_finds_what_is_similar(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faiss = pytest.importorskip("faiss")
    example("embeddings/search_with_faiss.py").build(table, table.parent / "photos.faiss")
    index = faiss.read_index(str(table.parent / "photos.faiss"))
    vectors = np.stack(parquet.read_table(table)["vector"].to_numpy())
    similarities, rows = index.search(vectors, 5)
    assert (rows[:, 0] == np.arange(36)).all()
    assert (rows % 3 == np.arange(36)[:, None] % 3).all()
    np.testing.assert_allclose(similarities, np.take_along_axis(vectors @ vectors.T, rows, 1), atol=1e-5)
    assert "1.000  " + str(table.parent / "00.jpg") in capsys.readouterr().out


def test_fiftyone_finds_photos_labels_and_vectors(table: Path) -> None:
    """Of the format that FiftyOne's importer of image classifications describes: paths, and a label or null."""
    (table.parent / "05.jpg").unlink()  # as if it were a member of a tar
    example("embeddings/export_to_fiftyone.py").export(table, table.parent / "fiftyone")
    content = json.loads((table.parent / "fiftyone" / "labels.json").read_text())
    assert [*content] == ["labels"]
    photos = parquet.read_table(table).to_pylist()
    del photos[5]
    assert content["labels"] == {photo["path"]: photo["label"] or None for photo in photos}
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in content["labels"])
    vectors = np.load(table.parent / "fiftyone" / "vectors.npy")
    np.testing.assert_array_equal(vectors, [photo["vector"] for photo in photos])


def test_embedding_atlas_finds_places_neighbors_and_images(table: Path) -> None:
    """Of the columns that its command line describes: neighbors hold zero-based rows and distances."""
    example("embeddings/export_to_embedding_atlas.py").export(table, table.parent / "atlas.parquet", neighbors=6)
    photos = parquet.read_table(table.parent / "atlas.parquet").to_pylist()
    assert [*photos[0]] == ["path", "label", "vector", "x", "y", "neighbors", "image"]
    for row, photo in enumerate(photos):
        assert photo["neighbors"]["ids"][0] == row
        assert {near % 3 for near in photo["neighbors"]["ids"]} == {row % 3}
        assert photo["neighbors"]["distances"] == sorted(photo["neighbors"]["distances"])
        assert photo["image"]["bytes"].startswith(b"\xff\xd8")
    places = np.array([(photo["x"], photo["y"]) for photo in photos])
    near, far = np.linalg.norm(places[0] - places[3::3], axis=1), np.linalg.norm(places[0] - places[1::3], axis=1)
    assert near.mean() < far.mean()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_s2r2_from_scratch_is_short_and_as_good_as_s2r2_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same digits, network, views and steps; both learn, and kNN tells them apart by no more than noise."""
    import timm
    import torch

    import s2r2

    scratch = example("s2r2_from_scratch.py")
    assert len((EXAMPLES / "s2r2_from_scratch.py").read_text().splitlines()) < 120
    steps = 60
    torch.manual_seed(0)
    images, classes = scratch.load_digits()
    test = torch.rand(len(images)) < 0.2
    encoder = scratch.small_encoder()
    before = scratch.knn_accuracy(encoder, images, classes, test)
    scratch.train(encoder, images[~test], scratch.DIGIT_VIEWS, steps)
    from_scratch = scratch.knn_accuracy(encoder, images, classes, test)

    def small_encoder(pretrained: bool = False, num_classes: int = 0, **of_timm: object) -> torch.nn.Module:
        if "img_size" in of_timm:
            raise TypeError("a convolutional network takes any size")
        network = scratch.small_encoder()
        network.num_features = 128
        return network

    small_encoder.__module__ = __name__
    monkeypatch.setitem(sys.modules, __name__, ModuleType(__name__))  # where timm looks for it
    timm.models.register_model(small_encoder)
    pixels = images[~test].permute(0, 2, 3, 1).numpy()
    (tmp_path / "digits").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "digits" / f"{i:04d}.png")
    (tmp_path / "recipe.yaml").write_text(
        "{crop_scale: [0.4, 1.0], crop_ratio: [0.5, 2.0], horizontal_flip: 0, brightness: 0.4, contrast: 0.4, "
        "saturation: 0, hue: 0, grayscale_probability: 0, blur_probability: 0, mean: [0.45, 0.45, 0.45], "
        "std: [0.22, 0.22, 0.22]}"
    )
    config = s2r2.TrainConfig(
        backbone="small_encoder", image_size=32, views=8, batch_size=64, steps=steps, lr=0.002, temperature=0.1,
        head_hidden=512, recipe=str(tmp_path / "recipe.yaml"),
    )  # fmt: skip
    result = s2r2.train(tmp_path / "digits", config, out=tmp_path / "run", quiet=True)
    trained = scratch.knn_accuracy(result.encoder.backbone.cpu(), images, classes, test)
    print(f"before {before:.3f}, from scratch {from_scratch:.3f}, s2r2 train {trained:.3f}")
    assert abs(from_scratch - trained) < 0.03  # three standard errors of a difference on 360 digits
    assert min(from_scratch, trained) > before + 0.01


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_hour_runs_in_order(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = EXAMPLES / "first_hour.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    figures = dict(re.findall(r"^(\w+) +feature +mAP ([\d.]+)%", printed, re.MULTILINE))
    assert float(figures["trained"]) > float(figures["untrained"])
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "first_hour" / "run" / "report.html").is_file()


def test_the_first_hour_is_small_and_names_no_machine() -> None:
    content = (EXAMPLES / "first_hour.ipynb").read_text(encoding="utf-8")
    assert len(content) < 200_000
    assert not re.search(r"/(home|root|tmp|Users|work)/", content)
