"""A map of the photos: similar ones lie together (t-SNE), drawn with thumbnails that do not overlap."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.evaluation.report.rankings import thumbnail
from s2r2.images import PixelStore

LARGEST = 600
CELL = 44
ROOM = 1.5
"""Cells for each photo: above 1, so that clusters keep gaps between them."""
PAPER = (250, 249, 247)


def write_photo_map(path: Path, embeddings: np.ndarray, store: PixelStore, *, seed: int = 0) -> int:
    """Draw up to 600 photos, taken evenly, on a map; returns how many.

    Positions are t-SNE's (van der Maaten and Hinton 2008) on cosine distances. Each photo goes to the free cell of a
    grid that is nearest to its position, those in the middle of things first.

    Args:
        path: The JPEG to write.
        embeddings: ``(N, D)`` for the images of the store.
        store: The images.
        seed: Of t-SNE.

    Raises:
        S2R2Error: The file cannot be written.
    """
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, num=min(LARGEST, len(embeddings)), dtype=np.int64))
    cells, (rows, columns) = grid_cells(plane(embeddings[chosen], seed))
    picture = Image.new("RGB", (columns * CELL, rows * CELL), PAPER)
    for index, (row, column) in zip(chosen, cells, strict=True):
        picture.paste(thumbnail(store[int(index)], CELL - 2), (int(column) * CELL + 1, int(row) * CELL + 1))
    try:
        picture.save(path, quality=84)
    except OSError as error:
        raise S2R2Error(f"cannot write {path}: {error.strerror or error}; free space") from error
    return len(chosen)


def plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Positions ``(N, 2)`` in the unit square."""
    from sklearn.manifold import TSNE

    count = len(embeddings)
    if count < 4:
        return np.stack([np.linspace(0, 1, count), np.zeros(count)], 1)
    perplexity = min(30.0, (count - 1) / 3)
    places = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(embeddings)
    places -= places.min(0)
    return places / np.maximum(places.max(0), 1e-12)


def grid_cells(places: np.ndarray, *, width_to_height: float = 1.6) -> tuple[np.ndarray, tuple[int, int]]:
    """A grid cell of its own for each position, as near as possible: ``(N, 2)`` row and column, and the grid's size."""
    count = len(places)
    columns = max(1, math.ceil(math.sqrt(count * ROOM * width_to_height)))
    rows = max(1, math.ceil(count * ROOM / columns))
    centres = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    wanted = places[:, ::-1] * (rows - 1, columns - 1)
    free = np.ones(len(centres), bool)
    cells = np.empty((count, 2), np.int64)
    for index in np.argsort(((wanted - wanted.mean(0)) ** 2).sum(1)):
        distance = ((centres - wanted[index]) ** 2).sum(1)
        distance[~free] = np.inf
        nearest = int(distance.argmin())
        free[nearest] = False
        cells[index] = centres[nearest]
    return cells, (rows, columns)
