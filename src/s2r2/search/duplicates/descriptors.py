"""Descriptors of photos and of their crops, by which copies are proposed whatever the encoder.

A descriptor is the low frequencies of a small gray picture (a discrete cosine transform, as in perceptual hashes), each
weighted by its frequency so that all count alike, and rounded to whole numbers: their products are exact in float32, so
that the same pairs are proposed whatever the number of threads.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 64
"""Side of the gray picture that descriptors are made of."""

FREQUENCIES = 8
LENGTH = FREQUENCIES * FREQUENCIES - 1
_NORM = 4000
"""Length of a descriptor before rounding: the sum of products of two stays below 2**24."""

_LEAST_CONTRAST = 1.0
"""Weighted gray levels below which a picture has nothing to be recognized by."""

Interval = tuple[float, float]
FULL: Interval = (0.0, 1.0)


class Crop(NamedTuple):
    """A part of a picture, each side in parts of the picture's."""

    x: Interval = FULL
    y: Interval = FULL


WHOLE = Crop()
_TENTH: tuple[Interval, ...] = ((0.0, 0.9), (0.05, 0.95), (0.1, 1.0))
_ENDS: tuple[Interval, ...] = ((0.0, 0.85), (0.15, 1.0))
CROPS = (
    WHOLE,
    Crop((0.015, 0.985), (0.015, 0.985)),
    *(Crop(x, y) for x in _TENTH for y in _TENTH),
    *(Crop(x=x) for x in _TENTH),
    *(Crop(y=y) for y in (*_TENTH, *_ENDS, (0.0, 0.8))),
)
"""Parts of one photo that are compared with all of another: what a crop keeps, or what a caption leaves."""

SAME_PARTS = (Crop(y=_ENDS[0]), Crop(y=_ENDS[1]))
"""Parts that are compared with the same part of another photo: a caption may lie over the rest."""

_ODD = np.arange(FREQUENCIES) % 2 == 1
_MIRROR = np.where(np.tile(_ODD, FREQUENCIES), -1, 1)[1:].astype(np.int16)


def small_gray(picture: np.ndarray) -> np.ndarray:
    """A picture ``(H, W, 3)`` uint8 in gray ``(SIDE, SIDE)`` float32, whatever its shape."""
    return np.asarray(Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def describe(pictures: np.ndarray) -> np.ndarray:
    """Descriptors of pictures and of their crops.

    Args:
        pictures: ``(N, SIDE, SIDE)`` float32.

    Returns:
        ``(N, C, LENGTH)`` int16, for each of :data:`CROPS`; all zeros where there is nothing to be recognized by.
    """
    centered = pictures - pictures.mean((1, 2), keepdims=True)
    coefficients = np.einsum("au,nuv,bv->nab", _BASES, centered, _BASES, optimize=True)
    shape = (len(pictures), len(_INTERVALS), FREQUENCIES, len(_INTERVALS), FREQUENCIES)
    coefficients = coefficients.reshape(shape)
    found = [coefficients[:, _INTERVALS.index(crop.y), :, _INTERVALS.index(crop.x)] for crop in CROPS]
    flat = (np.stack(found, 1) * _WEIGHTS).reshape(len(pictures), len(CROPS), -1)[..., 1:]
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    scaled = flat / np.maximum(norms, 1e-6) * _NORM
    return np.where(norms < _LEAST_CONTRAST, 0, np.rint(scaled)).astype(np.int16)


def mirrored(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors ``(..., LENGTH)`` of the same pictures with left and right exchanged."""
    return descriptors * _MIRROR


def cosine_as_product(cosine: float) -> float:
    """The product of two descriptors with this cosine."""
    return cosine * _NORM**2


def _basis(interval: Interval) -> np.ndarray:
    """Cosines over a part of a row of pixels, ``(FREQUENCIES, SIDE)``; pixels count as far as the part has them."""
    low, high = interval
    edges = np.arange(SIDE + 1) / SIDE
    covered = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    covered /= covered.sum()
    place = ((edges[1:] + edges[:-1]) / 2 - low) / (high - low)
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * place)
    waves[1:] -= (waves[1:] * covered).sum(1, keepdims=True)
    return (waves * covered).astype(np.float32)


_INTERVALS = sorted({interval for crop in CROPS for interval in crop})
_BASES = np.concatenate([_basis(interval) for interval in _INTERVALS])
_WEIGHTS = np.hypot(*np.meshgrid(np.arange(FREQUENCIES), np.arange(FREQUENCIES))).astype(np.float32)
