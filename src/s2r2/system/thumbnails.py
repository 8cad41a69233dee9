"""Small pictures for people: thumbnails, sheets of them, and writing them down."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from s2r2.errors import S2R2Error
from s2r2.system.files import why_not_written

PAPER = (255, 255, 255)


def thumbnail(picture: np.ndarray | Image.Image, side: int, *, square: bool = False) -> Image.Image:
    """A picture as large as fits into a square of ``side`` pixels, in RGB; tiny ones are enlarged without blur.

    Args:
        picture: A picture, or its pixels ``(H, W, 3)`` uint8.
        side: Side of the square.
        square: Fill the square with the middle of the picture instead of fitting all of it in.
    """
    image = (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).convert("RGB")
    tiny = (min if square else max)(image.size) * 2 <= side
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return (ImageOps.fit if square else ImageOps.contain)(image, (side, side), method)


def place(sheet: Image.Image, picture: Image.Image, left: int, top: int, cell: int) -> None:
    """Put a picture into the middle of a square cell of a sheet."""
    sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))


def jpeg(picture: Image.Image, quality: int = 82) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def save_picture(picture: Image.Image, path: str | Path, **options: Any) -> None:
    """Write a picture in the format that the file's ending names.

    Raises:
        S2R2Error: The folder does not exist or cannot be written to, or the ending is of no picture format.
    """
    try:
        picture.save(path, **options)
    except OSError as error:
        raise S2R2Error(f"cannot write {path}: {why_not_written(error)}choose another folder") from error
    except ValueError as error:  # no picture format has such an ending
        raise S2R2Error(f"cannot write {path}: {error}; give it a name that ends in .png or .jpg") from error
