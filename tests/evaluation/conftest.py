"""Small encoders, stores and run folders for the evaluation's tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from s2r2.images import Labels, PixelStore
from s2r2.images.sources.source import ArraySource


def make_photos(count: int, classes: int, seed: int = 0, side: int = 24) -> tuple[list[np.ndarray], np.ndarray]:
    """Noisy photos whose class is the direction of their stripes and a tint."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1)
    photos = []
    for label in labels:
        angle = np.pi * label / classes
        wave = np.sin(grid @ np.array([np.sin(angle), np.cos(angle)]) + generator.uniform(0, 6))
        tint = np.eye(3)[label % 3] * 40
        pixels = 120 + 60 * wave[..., None] + tint + generator.normal(0, 12, (side, side, 3))
        photos.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return photos, labels


def make_store(folder: Path, photos: list[np.ndarray], labels: np.ndarray | None, name: str = "stripes") -> PixelStore:
    """A store of arrays; labels are numbers or rows of bool."""
    known = None
    if labels is not None:
        targets = labels if labels.ndim == 2 else labels[:, None] == np.arange(labels.max() + 1)
        known = Labels([f"class {c}" for c in range(targets.shape[1])], targets)
    keys = [f"{name}/{i:04d}" for i in range(len(photos))]
    return PixelStore.build(ArraySource(name, photos, known, keys), None, folder, progress=False)


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> tuple[PixelStore, PixelStore]:
    """60 training and 40 test images of four classes."""
    folder = tmp_path_factory.mktemp("stores")
    train = make_store(folder, *make_photos(60, 4, seed=1), name="stripes train")
    return train, make_store(folder, *make_photos(40, 4, seed=2), name="stripes test")


@pytest.fixture(scope="session")
def unlabeled(tmp_path_factory) -> PixelStore:
    """20 images without labels."""
    return make_store(tmp_path_factory.mktemp("plain"), make_photos(20, 4, seed=3)[0], None, name="plain")


@pytest.fixture(scope="session")
def encoder():
    """A tiny encoder with a head and random weights, called as if it were trained."""
    import torch

    from s2r2.encoder import create_encoder

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_encoder("test_resnet", image_size=16, embedding_dimensions=8, head_hidden=16, name="tiny").eval()


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """What a training run leaves, without an evaluation; names and reasons try to break the page."""
    folder = tmp_path / "my <run> & co"
    folder.mkdir()
    config = {"backbone": "resnet18", "image_size": 64, "views": 8, "batch_size": 64, "epochs": 4, "recipe": "photos"}
    run = {"data": "photos/<b>of mine</b>", "images": 1234, "steps": 76, "learning_rate": 1e-3, "torch": "2.15"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"config": config, "run": run}))
    lines = [{"step": 0, "epoch": 0, "check": {"view_ap": 0.1, "knn": 0.2}}]
    for step in range(1, 77):
        figures = {"loss": 1 / step, "lr": 1e-3, "views_per_second": 900.0, "wait_share": 0.01, "gradient_norm": 1.0}
        lines.append({"step": step, "epoch": step // 20, **figures})
        if step % 19 == 0:
            lines.append({"step": step, "epoch": step // 20, "check": {"view_ap": step / 100, "knn": step / 90}})
    torn = '{"step": 77, "lo'
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    (folder / "skipped.csv").write_text('path,reason\n"<script>alert(1)</script>.jpg",truncated\nb.png,empty file\n')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 200, 3), np.uint8)).save(folder / "views.png")
    return folder


@pytest.fixture(scope="session")
def striped_photos():
    """Function that makes photos and labels."""
    return make_photos


@pytest.fixture(scope="session")
def build_store():
    """Function that makes a store of arrays."""
    return make_store
