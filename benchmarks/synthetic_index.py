"""Vectors like those of photos, and an index of any number of them without a single photo.

The vectors imitate a network's pooled features after ReLU: groups of very different sizes and widths in a space of few
dimensions (48), mapped into 512, made positive, with a little noise, at length 1. Nearest neighbors are then as
uneven as those of real photos; isotropic noise would make every approximate index look bad.
"""

import io
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

import s2r2
from s2r2.encoder import Encoder, load
from s2r2.search.photo_reader import make_thumbnail
from s2r2.search.publishing import backend_for, write_for_searches
from s2r2.search.storage.published import Published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows, content_hash, photo_id

WIDTH, INNER, GROUPS = 512, 48, 2000
PIECE = 20_000


def pieces(count: int, seed: int) -> Iterator[np.ndarray]:
    """``count`` vectors in pieces ``(n, 512)`` float32; another seed gives other photos of the same groups."""
    fixed = np.random.default_rng(1)
    centres = fixed.standard_normal((GROUPS, INNER), np.float32)
    spread = np.exp(0.4 * fixed.standard_normal(GROUPS)).astype(np.float32) * 0.5
    weight = fixed.pareto(1.5, GROUPS) + 0.2
    mixing = fixed.standard_normal((INNER, WIDTH), np.float32) / np.sqrt(INNER).astype(np.float32)
    generator = np.random.default_rng([2, seed])
    for start in range(0, count, PIECE):
        size = min(PIECE, count - start)
        group = generator.choice(GROUPS, size, p=weight / weight.sum())
        inner = centres[group] + spread[group, None] * generator.standard_normal((size, INNER), np.float32)
        rows = np.maximum(inner @ mixing + 0.1 * generator.standard_normal((size, WIDTH), np.float32) + 0.3, 0)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_vectors(path: Path, count: int, seed: int) -> None:
    """Write ``count`` vectors as ``.npy``."""
    file = np.lib.format.open_memmap(path, "w+", np.float32, (count, WIDTH))
    at = 0
    for piece in pieces(count, seed):
        file[at : at + len(piece)] = piece
        at += len(piece)
    file.flush()


def thumbnails() -> list[bytes]:
    """64 different small JPEGs of the kind that an index holds."""
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    places = np.random.default_rng(0).integers(0, (200, 400), (64, 2))
    return [make_thumbnail(pictures[n % 2][top : top + 200, left : left + 240]) for n, (top, left) in enumerate(places)]


def add_rows(
    rows: Rows, vectors: np.ndarray, encoder: Encoder, pictures: list[bytes], photo: Path | None = None
) -> None:
    """Write a row for each vector, as ``s2r2 index`` does for photos; ``photo`` is the file of all of them."""
    now = datetime.now().timestamp()
    file, size, content = b"", 40_000, ""
    if photo is not None:
        file, size = os.fsencode(os.path.realpath(photo)), photo.stat().st_size
        content = content_hash(photo.read_bytes())
    for start in range(0, len(vectors), PIECE):
        piece = np.ascontiguousarray(vectors[start : start + PIECE])
        numbers = range(start, start + len(piece))
        keys = [f"folder {number % 40:02d}/{number:07d}.jpg" for number in numbers]
        columns = {
            "id": [photo_id(key) for key in keys], "key": keys, "location": keys,
            "label": [f"label {number % 25}" for number in numbers], "file": [file] * len(keys),
            "offset": [0] * len(keys), "bytes": [size] * len(keys), "modified": [now] * len(keys),
            "stamp": ["[0, 0]"] * len(keys), "content": [content or f"{number:032x}" for number in numbers],
            "encoder": [encoder.fingerprint] * len(keys), "thumbnail": [pictures[n % len(pictures)] for n in numbers],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(piece.reshape(-1)), WIDTH),
            "taken": [1.5e9 + 600.0 * number for number in numbers],
            "camera": [f"camera {number % 7}" for number in numbers],
            "width": [640 + number % 4000 for number in numbers], "height": [427] * len(keys),
        }  # fmt: skip
        rows.table.add(pa.table(columns, schema=rows.schema))


def publish(folder: Path, rows: Rows, encoder: Encoder, approximate_from: int) -> dict[str, float]:
    """Put the rows in force as ``s2r2 index`` does; returns the seconds of each part."""
    generation = folder / encoder.fingerprint
    took: dict[str, float] = {}

    def lap(name: str, since: datetime) -> datetime:
        now = datetime.now()
        took[name] = (now - since).total_seconds()
        return now

    began = datetime.now()
    rows.tidy()
    RowFiles(generation).record()
    began = lap("tidying", began)
    backend = backend_for("auto", len(rows), approximate_from)
    files, settings = write_for_searches(rows, generation, 1, backend)
    lap("catalogue and search backend", began)
    Published(
        fingerprint=encoder.fingerprint, encoder=encoder.name, data="synthetic", photos=len(rows), dimensions=WIDTH,
        skipped=0, number=1, version=rows.version, backend=backend, backend_settings=settings,
        updated=datetime.now().astimezone().isoformat(timespec="seconds"), s2r2=s2r2.__version__,
        generation=generation.name, files=files,
    ).write(folder)  # fmt: skip
    return took


def make_index(
    folder: Path, vectors: np.ndarray, *, approximate_from: int, pictures: list[bytes], photo: Path | None = None
) -> dict[str, float]:
    """An index of an untrained ResNet-18 with these vectors; returns the seconds of each part."""
    encoder = load("untrained:resnet18")
    encoder.save(folder / encoder.fingerprint)
    rows = Rows(folder / encoder.fingerprint / "lance", WIDTH)
    began = datetime.now()
    add_rows(rows, vectors, encoder, pictures, photo)
    return {"rows": (datetime.now() - began).total_seconds(), **publish(folder, rows, encoder, approximate_from)}


def a_photo() -> bytes:
    """A JPEG of 640 x 427 pixels (a sample photo of scikit-learn's)."""
    from sklearn.datasets import load_sample_images

    buffer = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
