"""A map of the photos: similar ones lie together (t-SNE), drawn with thumbnails that do not overlap."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from s2r2.embedding_map import positions
from s2r2.evaluation.metrics.vectors import unit_rows
from s2r2.images import PixelStore
from s2r2.system.thumbnails import place, save_picture, thumbnail

LARGEST = 600
CELL = 44
ROOM = 1.5
"""Cells for each photo: above 1, so that clusters keep gaps between them."""
BACKGROUND = (250, 249, 247)


def write_photo_map(path: Path, embeddings: np.ndarray, store: PixelStore, *, seed: int = 0) -> int:
    """Draw up to 600 photos, taken evenly, on a map; returns how many.

    The photos share out the cells of a grid so that they lie as near to their positions as possible.

    Args:
        path: The JPEG to write.
        embeddings: ``(N, D)`` for the images of the store.
        store: The images.
        seed: Of t-SNE.

    Raises:
        S2R2Error: The file cannot be written.
    """
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, num=min(LARGEST, len(embeddings)), dtype=np.int64))
    cells, (rows, columns) = grid_cells(positions(unit_rows(embeddings[chosen]), seed=seed))
    picture = Image.new("RGB", (columns * CELL, rows * CELL), BACKGROUND)
    for index, (row, column) in zip(chosen, cells, strict=True):
        small = thumbnail(store[int(index)], CELL - 2, square=True)
        place(picture, small, int(column) * CELL, int(row) * CELL, CELL)
    save_picture(picture, path, quality=84)
    return len(chosen)


def grid_cells(places: np.ndarray, *, width_to_height: float = 1.6) -> tuple[np.ndarray, tuple[int, int]]:
    """A grid cell of its own for each position, as near as possible: ``(N, 2)`` row and column, and the grid's size."""
    count = len(places)
    columns = max(1, math.ceil(math.sqrt(count * ROOM * width_to_height)))
    rows = max(1, math.ceil(count * ROOM / columns))
    centres = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    wanted = places[:, ::-1] * (rows - 1, columns - 1)
    squared = (wanted**2).sum(1)[:, None] - 2 * wanted @ centres.T + (centres**2).sum(1)
    return centres[linear_sum_assignment(squared)[1]], (rows, columns)
