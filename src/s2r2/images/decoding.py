"""Bytes to pixels: the formats people's photos come in, and a clear reason where a file is none of them."""

import io
import math
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # MPO opens as JPEG
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)
MAX_PIXELS = int(os.environ.get("S2R2_MAX_PIXELS", 178_956_970))
"""Larger images count as decompression bombs; Pillow's own limit for an error. ``S2R2_MAX_PIXELS`` changes it."""


class UnreadableImage(Exception):
    """An image that cannot be decoded.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(content: bytes, *, max_pixels: int = MAX_PIXELS, short_side: int | None = None) -> np.ndarray:
    """Decode an image file's content to RGB.

    JPEG, MPO, PNG, WebP, BMP, TIFF and GIF (first frame); EXIF orientation applied; greyscale, palette, CMYK and
    16-bit converted; transparency laid over white.

    Args:
        content: The file.
        max_pixels: More are refused before decoding (a decompression bomb).
        short_side: Reduce the image, antialiased, until its shorter side is this many pixels; never enlarge it.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImage: It is empty, of another format, truncated, damaged or too large.
    """
    if not content:
        raise UnreadableImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImage(f"{width} x {height} pixels: more than the limit of {max_pixels:,}")
                if short_side is not None and image.format == "JPEG":
                    # libjpeg reduces while decoding; twice the target leaves the antialiased resize enough.
                    ratio = 2 * short_side / min(width, height)
                    image.draft(None, (math.ceil(width * ratio), math.ceil(height * ratio)))
                image.load()
                return to_array(image, short_side)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more pixels than the limit of {max_pixels:,}") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image in a known format") from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UnreadableImage(_first_line(error)) from None


def to_array(image: Image.Image, short_side: int | None = None) -> np.ndarray:
    """A Pillow image of any mode as ``(H, W, 3)`` uint8, upright, over white, optionally reduced."""
    upright = ImageOps.exif_transpose(image) or image
    rgb = _to_rgb(upright)
    if short_side is not None and min(rgb.size) > short_side:
        scale = short_side / min(rgb.size)
        size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    return np.array(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Deep greyscale to 0..255: 16 bits by their range, wider integers and floats by the range they use."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UnreadableImage("floating-point pixels that are not finite")
        top = next((t for t in (1.0, 255.0, 65535.0) if values.max() <= t), float(values.max()))
    else:
        top = 65535.0 if values.max() <= 65535 else 2.0**31 - 1
    return np.rint(np.clip(values.astype(np.float64) / top, 0, 1) * 255).astype(np.uint8)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
