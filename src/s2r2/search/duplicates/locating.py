"""Where one picture lies in another: for copies that were cropped further than descriptors reach."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from s2r2.search.duplicates.confirming import Guess, Shown
from s2r2.search.duplicates.descriptors import WHOLE, Crop

_SIDE = 32
_SCALES = (0.5, 0.57, 0.65, 0.74, 0.83, 0.92, 1.0)
_SQUEEZED = 1.6
"""A part may be so many times as wide, or as high, as the whole is."""

_LEAST = 0.75


def locations(left: Shown, right: Shown) -> Iterator[Guess]:
    """How two pictures may belong together: whole, mirrored, or the one a part of the other; likely ones first.

    Args:
        left: One picture.
        right: The other one.
    """
    found: list[tuple[float, int, Guess]] = []
    for mirrored in (False, True):
        turned = right.mirrored() if mirrored else right
        for inner, outer in ((turned, left), (left, turned)):
            correlation, crop = _place(inner.gray, outer.gray)
            guess = Guess(left=crop, mirrored=mirrored) if outer is left else Guess(right=crop, mirrored=mirrored)
            found.append((-correlation, len(found), guess))
    for correlation, _, guess in sorted(found)[:2]:
        if -correlation >= _LEAST:
            yield guess


def _place(inner: Image.Image, outer: Image.Image) -> tuple[float, Crop]:
    """The part of ``outer`` that looks most like ``inner``, and the correlation of both."""
    ground = np.asarray(outer.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    best = (-1.0, WHOLE)
    for scale_y in _SCALES:
        for scale_x in _SCALES:
            if not 1 / _SQUEEZED <= scale_x / scale_y <= _SQUEEZED:
                continue
            height, width = round(_SIDE * scale_y), round(_SIDE * scale_x)
            template = np.asarray(inner.resize((width, height), Image.Resampling.BOX))
            scores = _correlations(ground, template)
            row, column = np.unravel_index(int(scores.argmax()), scores.shape)
            score = round(float(scores[row, column]), 6)
            if score > best[0]:
                part = Crop((column / _SIDE, (column + width) / _SIDE), (row / _SIDE, (row + height) / _SIDE))
                best = (score, part)
    return best


def _correlations(ground: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Correlation of the template with each place in the ground."""
    windows = np.lib.stride_tricks.sliding_window_view(ground, template.shape)
    centered = template - template.mean()
    spread = windows.std((2, 3))
    products = np.einsum("abij,ij->ab", windows, centered)
    return products / np.maximum(spread * np.sqrt((centered**2).sum() * template.size), 1e-3)
