"""The baseline that needs no encoder: the pixels themselves."""

import numpy as np

from s2r2.images import PixelStore
from s2r2.views import render_centre

LARGEST_SIDE = 32


def raw_pixels(store: PixelStore, side: int) -> np.ndarray:
    """Each image's centered square at ``side`` pixels, flattened: ``(N, 3 * side * side)`` float32 in [0, 1]."""
    parts = []
    for start in range(0, len(store), 256):
        images = [store[i] for i in range(start, min(start + 256, len(store)))]
        parts.append(render_centre(images, side, mean=(0.0,) * 3, std=(1.0,) * 3).reshape(len(images), -1))
    return np.concatenate(parts)


def raw_pixel_features(train: PixelStore | None, test: PixelStore, side: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Pixels minus the mean image of ``train`` (of ``test`` without one), rows of length 1.

    An image that equals the mean has no direction left; it gets the same one as every such image.
    """
    test_rows = raw_pixels(test, side)
    train_rows = raw_pixels(train, side) if train is not None else None
    centre = (test_rows if train_rows is None else train_rows).mean(0)
    return None if train_rows is None else _centred(train_rows, centre), _centred(test_rows, centre)


def _centred(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    rows = rows - centre
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = lengths[:, 0] < 1e-6
    rows[flat], lengths[flat] = 1 / np.sqrt(rows.shape[1]), 1
    return rows / lengths
