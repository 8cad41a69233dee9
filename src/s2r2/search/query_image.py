"""What is searched for: a photo from wherever it comes, or a part of it, as pixels."""

import numbers
import os
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import UnreadableImage, decode_expendable, reduce_array
from s2r2.images.decoding.decoder import Part, cut
from s2r2.images.decoding.pool import size_expendable
from s2r2.images.places import FilePlace
from s2r2.images.sources.names import printable

Box = tuple[int, int, int, int]


def query_pixels(image: Any, side: int, box: Box | None) -> np.ndarray:
    """A query as ``(H, W, 3)`` uint8, reduced to a short side.

    Args:
        image: A path, file content as bytes, a PIL image or an array.
        side: The short side.
        box: Part of the image to search for: left, top, width, height in pixels of the whole.

    Raises:
        S2R2Error: The image cannot be read, or the box lies outside it.
    """
    from s2r2.encoder.images import load_image

    if not isinstance(image, str | Path | bytes):
        picture = load_image(image)
        part = None if box is None else _part(box, picture.shape[1], picture.shape[0])
        return reduce_array(picture if part is None else cut(picture, part), side)
    file = image if isinstance(image, bytes) else FilePlace(os.fspath(image))
    try:
        part = None if box is None else _part(box, *size_expendable(file))
        return decode_expendable(file, short_side=side, part=part)
    except UnreadableImage as error:
        name = "the image" if isinstance(image, bytes) else printable(str(image))
        raise S2R2Error(f"cannot read {name}: {error.reason}") from error


def _part(box: Box, columns: int, rows: int) -> Part:
    """A box in parts of the sides of an image."""
    whole = len(box) == 4 and all(isinstance(side, numbers.Integral) for side in box)
    if whole:
        left, top, width, height = (int(side) for side in box)
        if min(left, top) >= 0 and min(width, height) >= 1 and left + width <= columns and top + height <= rows:
            return left / columns, top / rows, width / columns, height / rows
    raise ArgumentError(f"`box={','.join(map(str, box))}` lies outside the image of {columns} x {rows} pixels")
