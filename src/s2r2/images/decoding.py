"""Bytes to pixels: the formats people's photos come in, and a clear reason where a file is none of them."""

import contextlib
import io
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image

from s2r2.errors import S2R2Error

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # MPO opens as JPEG
"""Pillow's decoders that are tried; all others (EPS starts a program) are never given a stranger's file."""
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)
OTHER_EXTENSIONS = frozenset(
    (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd")
)
"""Photos, too, but in formats that are not read: listed as skipped instead of passed over in silence."""
DEFAULT_MAX_PIXELS = 178_956_970
"""Larger images count as decompression bombs (Pillow's own limit for an error); ``S2R2_MAX_PIXELS`` changes it."""

# Turns and mirrorings that undo each EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Reducer: TypeAlias = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""Does what Pillow's bicubic reduction does: pixels ``(H, W, 3)`` uint8 to so many columns and rows."""

_REDUCER_PIXELS, _REDUCER_WIDTH = 1 << 22, 1 << 14
"""Larger images are left to Pillow, which needs no copy of them."""

LONGEST = 64
"""A reduced image has no more pixels than one this many times as long as its short side: no strip fills a store."""


class UnreadableImage(S2R2Error):
    """An image that cannot be decoded.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)


def max_pixels_allowed() -> int:
    """The limit in force: ``S2R2_MAX_PIXELS``, or 178,956,970.

    Raises:
        S2R2Error: The variable is not a positive whole number.
    """
    chosen = os.environ.get("S2R2_MAX_PIXELS", "").replace("_", "").replace(",", "")
    if not chosen:
        return DEFAULT_MAX_PIXELS
    if not chosen.isdecimal() or int(chosen) < 1:
        raise S2R2Error(f"S2R2_MAX_PIXELS={chosen}: it must be a whole number of pixels, such as {DEFAULT_MAX_PIXELS}")
    return int(chosen)


def decode(
    content: bytes, *, max_pixels: int | None = None, short_side: int | None = None, reducer: Reducer | None = None
) -> np.ndarray:
    """Decode an image file's content to RGB.

    JPEG, MPO, PNG, WebP, BMP, TIFF and GIF (first frame); EXIF orientation applied; greyscale, palette, CMYK and
    16-bit converted; transparency laid over white.

    Args:
        content: The file.
        max_pixels: More are refused before decoding (a decompression bomb); by default ``S2R2_MAX_PIXELS`` or
            178,956,970.
        short_side: Reduce the image, antialiased, until its shorter side is this many pixels (and further where it
            is more than 64 times as long); never enlarge it.
        reducer: Reduces in Pillow's place, to the same pixels: :func:`s2r2.views.reduce_bicubic`.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImage: It is empty, of another format, truncated, damaged or too large.
    """
    with _opened(content, max_pixels) as image:
        if short_side is not None and image.format == "JPEG" and min(image.size) > short_side:
            # libjpeg reduces while it decodes; twice the target leaves the antialiased resize enough to work with.
            ratio = 2 * short_side / min(image.size)
            image.draft(None, (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
        image.load()
        return _pixels(image, short_side, reducer)


def decoded_size(content: bytes, *, max_pixels: int | None = None, short_side: int | None = None) -> tuple[int, int]:
    """Sides that :func:`decode` would give, longer or shorter first, from the header alone.

    Raises:
        UnreadableImage: The header is that of no image, or of one that is too large.
    """
    with _opened(content, max_pixels) as image:
        return _reduced(image.size, short_side)


def to_array(image: Image.Image, short_side: int | None = None) -> np.ndarray:
    """A Pillow image of any mode as ``(H, W, 3)`` uint8: upright, over white, optionally reduced.

    Raises:
        UnreadableImage: Its file is damaged, or its mode has no fixed white.
    """
    with _reasons(None), _quiet(0):
        image.load()
        return _pixels(image, short_side)


def reduce_array(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8, reduced, antialiased, until the shorter side is ``short_side`` at most."""
    if short_side is None or min(pixels.shape[:2]) <= short_side:
        return pixels
    return to_array(Image.fromarray(pixels), short_side)


@contextlib.contextmanager
def _opened(content: bytes, max_pixels: int | None) -> Iterator[Image.Image]:
    """The image with its header read and its size found allowed; any error becomes an UnreadableImage."""
    limit = max_pixels_allowed() if max_pixels is None else max_pixels
    if not content:
        raise UnreadableImage("empty file (0 bytes)")
    with _reasons(limit), _quiet(limit), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > limit:
            raise UnreadableImage(_too_large(f"{width} x {height} = {width * height:,}", limit))
        if width < 1 or height < 1:
            raise UnreadableImage(f"an image of {width} x {height} pixels")
        yield image


@contextlib.contextmanager
def _reasons(limit: int | None) -> Iterator[None]:
    """Turn whatever a decoder raises into an UnreadableImage with one line that says why."""
    try:
        yield
    except S2R2Error:
        raise
    except Image.DecompressionBombError as error:
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise UnreadableImage(_too_large(f"{int(count[1]):,}" if count else "", limit)) from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image in a format that is read (JPEG, PNG, WebP, BMP, TIFF, GIF, MPO)") from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError ...
        line = next(iter(str(error).strip().splitlines()), "")
        raise UnreadableImage(f"damaged: {line[:200] or type(error).__name__}") from None


def _too_large(pixels: str, limit: int | None) -> str:
    allowed = f"{limit:,}" if limit else f"{DEFAULT_MAX_PIXELS:,}"
    return f"refused as a decompression bomb: {pixels} pixels, allowed are {allowed} (S2R2_MAX_PIXELS)"


class _Quiet:
    """Silences Pillow's warnings while any thread decodes.

    ``warnings.catch_warnings`` in each thread would restore the filters in the wrong order; here the first thread
    in sets them and the last one out restores them. A limit above Pillow's own needs Pillow's lifted meanwhile.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.lifted = 0
        self.pillow_limit: int | None = None
        self.filters: warnings.catch_warnings | None = None

    @contextlib.contextmanager
    def __call__(self, limit: int) -> Iterator[None]:
        lift = limit > DEFAULT_MAX_PIXELS
        with self.lock:
            if self.users == 0:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
                warnings.filterwarnings("ignore", module=r"PIL\b")
            if lift and self.lifted == 0:
                self.pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1
            self.lifted += lift
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                self.lifted -= lift
                if lift and self.lifted == 0:
                    Image.MAX_IMAGE_PIXELS = self.pillow_limit
                if self.users == 0 and self.filters is not None:
                    self.filters.__exit__(None, None, None)


_quiet = _Quiet()


def _pixels(image: Image.Image, short_side: int | None, reducer: Reducer | None = None) -> np.ndarray:
    """Colours first, since palettes and transparency cannot be averaged; then size, orientation, and RGB."""
    plain = _plain(image)
    size = _reduced(plain.size, short_side)
    turn = _UPRIGHT.get(_orientation(image))
    if size != plain.size:
        if reducer is not None and _suits_reducer(*plain.size):
            reduced = reducer(_rgb(plain), size)
            return reduced if turn is None else np.array(Image.fromarray(reduced).transpose(turn))
        plain = plain.resize(size, Image.Resampling.BICUBIC)
    return _rgb(plain if turn is None else plain.transpose(turn))


def _suits_reducer(width: int, height: int) -> bool:
    """Whether a reducer gives the same pixels: of tall images Pillow 13 reduces the columns first and rounds then."""
    return 2 * height <= 3 * width <= 3 * _REDUCER_WIDTH and width * height <= _REDUCER_PIXELS


def _rgb(plain: Image.Image) -> np.ndarray:
    return np.array(plain if plain.mode == "RGB" else plain.convert("RGB"))


def _reduced(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Width and height after the reduction; a strip of which there would be too much is reduced further."""
    width, height = size
    if short_side is None:
        return size
    scale = min(short_side / min(size), math.sqrt(LONGEST * short_side**2 / (width * height)))
    if scale >= 1:
        return size
    return max(1, round(width * scale)), max(1, round(height * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; damaged EXIF is no reason to lose a photo."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode ``L`` or ``RGB``, transparency laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGB", over.size, "white")
        white.paste(over, mask=over.getchannel("A"))
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Deep greyscale as uint8, by its range and never by its content, so that photos stay comparable."""
    values = np.asarray(image)
    white: float
    if image.mode.startswith("I;"):
        white = float(2 ** _sample_bits(image) - 1)
    else:
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
            raise UnreadableImage("32-bit samples below zero or not finite: convert it to 8 or 16 bits")
        whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        fitting = [w for w in whites if high <= w]
        if not fitting:
            raise UnreadableImage(f"32-bit samples up to {high:g} have no fixed white: convert it to 8 or 16 bits")
        white = fitting[0]
    out = np.empty(values.shape, np.uint8)
    rows = max(1, (1 << 22) // values.shape[1])  # a few rows at a time: float copies of a large scan are larger still
    for row in range(0, len(out), rows):
        scaled = values[row : row + rows].astype(np.float32) * np.float32(255 / white)
        out[row : row + rows] = np.clip(np.rint(scaled), 0, 255)
    return out


def _sample_bits(image: Image.Image) -> int:
    """Bits of a sample: 16, unless a TIFF says that fewer are used."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(258) if tags is not None else None
    first = bits[0] if isinstance(bits, tuple) and bits else bits
    return first if isinstance(first, int) and 8 < first <= 16 else 16
