"""The road from pretrained weights of ImageNet, without internet: index, search, evaluate, adapt, refine."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.search import ImageIndex

pytestmark = pytest.mark.slow
SHAPES = ("circle", "square", "cross", "stripes")
TRAIN = [
    "--batch-size",
    "8",
    "--views",
    "2",
    "--recipe",
    "photos",
    "--steps",
    "3",
    "--image-size",
    "64",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four folders of eight drawings in any color: what they show is their class."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generator = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(8):
            paper, ink = (tuple(generator.integers(low, low + 100, 3).tolist()) for low in (150, 0))
            picture = Image.new("RGB", (96, 96), paper)
            left, top = generator.integers(8, 28, 2).tolist()
            box, draw = (left, top, left + 52, top + 52), ImageDraw.Draw(picture)
            if shape == "circle":
                draw.ellipse(box, outline=ink, width=8)
            elif shape == "square":
                draw.rectangle(box, fill=ink)
            elif shape == "stripes":
                for line in range(4, 96, 16):
                    draw.line((0, line + left, 96, line), fill=ink, width=6)
            else:
                draw.line(box, fill=ink, width=8)
                draw.line((box[0], box[3], box[2], box[1]), fill=ink, width=8)
            picture.save(folder / shape / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def index(real_weights: str, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "index"
    main(["index", real_weights, str(shapes), "--index", str(folder), "--device", "cpu"])
    return folder


def test_index_and_search(index: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", str(index), str(shapes / "circle" / "0.png"), "-k", "4"])
    assert capsys.readouterr().out.count("circle/") >= 3
    found = ImageIndex.open(index)
    of_its_class = [
        sum(hit.label == key.split("/")[0] for hit in found.search(key, 7))
        for key in found.catalogue.table["key"].to_pylist()
    ]
    assert np.mean(of_its_class) > 5  # of seven; 1.6 by chance


def test_evaluate(real_weights: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", real_weights, "--test", str(shapes), "--out", str(tmp_path / "judged")])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert float(rows[real_weights][0]) > float(rows["raw"][1])  # mAP; the other row is called raw pixels


@pytest.mark.parametrize("how", ["all", "last-blocks", "head"])
def test_adapting(
    how: str, real_weights: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["train", str(shapes), "--start", real_weights, "--adapt", how, *TRAIN, "--out", str(run)])
    capsys.readouterr()
    main(["evaluate", str(run), "--test", str(shapes)])
    first = capsys.readouterr().out
    assert any(word in first for word in ("better", "worse", "level"))
    before, after = (
        load(real_weights, image_size=64).embed([shapes / "cross" / "0.png"]),
        load(run).embed([shapes / "cross" / "0.png"]),
    )
    assert 0.9 < float(before[0] @ after[0]) < 1 - 1e-7  # three small steps from what it knew


def test_refining(index: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("photo", "label"))
        rows.writerows((f"{shape}/{number}.png", shape) for shape in SHAPES for number in range(5))
    refined = tmp_path / "refined"
    main(["refine", str(index), "--labels", str(tmp_path / "labels.csv"), "--out", str(refined)])
    assert "mAP" in capsys.readouterr().out
    hits = ImageIndex.open(refined).search(str(shapes / "square" / "7.png"), 8)
    assert sum(hit.label == "square" for hit in hits) >= 6
    vectors = load(refined).embed([shapes / "square" / "7.png"])  # an index is an encoder: the one with the head
    row = ImageIndex.open(refined).catalogue.row_of_key("square/7.png")
    assert float(vectors[0] @ ImageIndex.open(refined).vectors[row]) > 1 - 1e-4
