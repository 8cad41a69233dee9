"""What examples/ shows is true: each runs, and other tools find what they look for in what it writes."""

import csv
import importlib.util
import json
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
