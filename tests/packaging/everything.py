"""A user's script: train four steps, evaluate, report, index, search, and a page that answers.

``.ci/wheel`` runs this with ``s2r2[all]`` installed from the wheel, and lets ``mypy --strict`` read it there.
"""

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import s2r2
from s2r2 import Encoder, ImageIndex, S2R2Error, TrainConfig
from s2r2.evaluation import Evaluation, evaluate_run, write_report
from s2r2.losses import SmoothAPLoss
from s2r2.search import Hit, UpdateResult, update_index

CONFIG = TrainConfig(
    backbone="test_resnet", image_size=32, views=2, batch_size=16, steps=4, recipe="photos", device="cpu"
)


def train(folder: Path) -> Encoder:
    generator = np.random.default_rng(0)
    for number in range(48):
        photo = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photo)
    result = s2r2.train(folder / "photos", CONFIG, out=folder / "run", quiet=True)
    assert result.steps == 4
    encoder = s2r2.load(folder / "run")
    embeddings = torch.from_numpy(encoder.embed([np.zeros((32, 32, 3), np.uint8)] * 4))
    loss: torch.Tensor = SmoothAPLoss(temperature=0.05)(embeddings, torch.tensor([0, 0, 1, 1]))
    assert loss.isfinite()
    return encoder


def evaluate(folder: Path) -> Evaluation:
    evaluation = evaluate_run(folder / "run", folder / "photos", device="cpu", progress=False)
    report: Path = write_report(folder / "run")
    assert report.stat().st_size > 10_000
    return evaluation


def search(folder: Path, encoder: Encoder) -> list[Hit]:
    done: UpdateResult = update_index(encoder, s2r2.open_source(folder / "photos"), folder / "index", progress=False)
    print(str(done).splitlines()[0])
    index = ImageIndex.open(folder / "index")
    try:
        index.search(folder / "nothing.jpg")
    except S2R2Error as error:
        print(f"refused   {error}")
    return index.search(index.hit(0, 0, 1.0).key, k=5)


def page(folder: Path) -> str:
    command = [sys.executable, "-m", "s2r2", "serve", str(folder / "index"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address is not None
            with urllib.request.urlopen(address[0], timeout=60) as answer:
                content: bytes = answer.read()
        finally:
            server.terminate()
    return content.decode()


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoder = train(folder)
        print(f"evaluated {', '.join(row.title for row in evaluate(folder).rows)}")
        hits = search(folder, encoder)
        assert len(hits) == 5
        assert hits[0].score >= hits[-1].score
        assert "<html" in page(folder)
    print("page      answers")


if __name__ == "__main__":
    main()
