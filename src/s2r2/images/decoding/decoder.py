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

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.facts import PhotoFacts, facts_of
from s2r2.images.decoding.formats import is_raw_photo, openable, unidentified
from s2r2.images.decoding.headers import cleaned, is_complete
from s2r2.images.decoding.nclx import profile_of
from s2r2.images.decoding.raw import is_raw, preview
from s2r2.images.decoding.srgb import in_srgb, plain
from s2r2.images.decoding.tiff import is_tiff

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

Part: TypeAlias = tuple[float, float, float, float]
"""A part of an image: left, top, width and height in parts of its sides."""

_EXIF_BYTES = 1 << 17

LONGEST = 64
"""A reduced image has no more pixels than one this many times as long as its short side: no strip fills a store."""


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
    content: bytes,
    *,
    max_pixels: int | None = None,
    short_side: int | None = None,
    part: Part | None = None,
    ask: Callable[[int], None] | None = None,
    tell: Callable[[PhotoFacts], None] | None = None,
) -> np.ndarray:
    """Decode an image file's content to RGB, in this process: what strangers sent goes through the pool instead.

    JPEG, MPO, PNG, WebP, BMP, TIFF and GIF; AVIF and JPEG 2000 where Pillow has them; HEIC and the previews of raw
    photos with the extras ``heic`` and ``raw``. Of several pictures the first, of a TIFF's pages the largest; EXIF
    orientation applied; grayscale, palette, CMYK, 16-bit and color profiles converted to sRGB; transparency laid over
    white.

    Args:
        content: The file.
        max_pixels: More are refused before decoding (a decompression bomb); by default ``S2R2_MAX_PIXELS`` or
            178,956,970.
        short_side: Reduce what is wanted, antialiased, until its shorter side is this many pixels (and further where
            it is more than 64 times as long); never enlarge it.
        part: Only this part of the upright image.
        ask: Called before pixels are made, with how many there will be in memory.
        tell: Called with what the file says of the photo.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImage: It is empty, of another format, truncated, damaged or too large.
    """
    file, content = content, _cleaned(content)
    see = None if tell is None else lambda image, turn: tell(_facts(image, turn, file))
    if not content.startswith(b"\xff\xd8") or is_complete(content):
        return _decode(content, max_pixels, short_side, part, ask, see)
    # Whether only the end marker is missing, or data too: then what follows in the data's place changes pixels.
    content = content.rstrip(b"\xff")
    pixels, others = (
        _decode(content + filling + b"\xff\xd9", max_pixels, short_side, part, ask, see)
        for filling in (b"", b"\x55" * 4096)
    )
    if not np.array_equal(pixels, others):
        raise UnreadableImage("damaged: the file ends before the image does")
    return pixels


def _decode(
    content: bytes,
    max_pixels: int | None,
    short_side: int | None,
    part: Part | None,
    ask: Callable[[int], None] | None,
    see: Callable[[Image.Image, int], None] | None,
) -> np.ndarray:
    with _opened(content, max_pixels) as image:
        orientation = _orientation(image)
        if see is not None:
            see(image, orientation)
        if short_side is not None and part is not None:
            width, height = image.size if orientation < 5 else image.size[::-1]
            shorter = max(1.0, min(part[2] * width, part[3] * height))
            short_side = math.ceil(short_side * min(width, height) / shorter)
        full = image.width * image.height
        if short_side is not None and image.format == "JPEG" and min(image.size) > short_side:
            # libjpeg reduces while it decodes; twice the target leaves the antialiased resize enough to work with.
            ratio = 2 * short_side / min(image.size)
            image.draft(None, (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
        if ask is not None:  # a progressive JPEG is in memory as a whole, however much it is reduced
            whole = image.info.get("progressive") or image.format == "HEIF"  # which libheif hands over as a copy
            twice = full if whole or image.has_transparency_data else 0  # or copied onto white
            ask(image.width * image.height + twice)
        image.load()
        pixels = _pixels(image, short_side, orientation, image.info.get("icc_profile") or profile_of(content))
    return pixels if part is None else cut(pixels, part)


def cut(pixels: np.ndarray, part: Part) -> np.ndarray:
    """A part of pixels ``(H, W, 3)``: at least one of them."""
    rows, columns = pixels.shape[:2]
    left, top = min(round(part[0] * columns), columns - 1), min(round(part[1] * rows), rows - 1)
    right = min(columns, max(left + 1, round((part[0] + part[2]) * columns)))
    bottom = min(rows, max(top + 1, round((part[1] + part[3]) * rows)))
    return pixels[top:bottom, left:right]


def decoded_size(content: bytes, *, max_pixels: int | None = None, short_side: int | None = None) -> tuple[int, int]:
    """Width and height that :func:`decode` would give, from the header alone.

    Raises:
        UnreadableImage: The header is that of no image, or of one that is too large.
    """
    with _opened(_cleaned(content), max_pixels) as image:
        width, height = _reduced(image.size, short_side)
        return (width, height) if _orientation(image) < 5 else (height, width)


def photo_facts(content: bytes, *, max_pixels: int | None = None) -> PhotoFacts:
    """What a file says of its photo, without decoding it.

    Raises:
        UnreadableImage: The header is that of no image, or of one that is too large.
    """
    with _opened(_cleaned(content), max_pixels) as image:
        return _facts(image, _orientation(image), content)


def _facts(image: Image.Image, orientation: int, file: bytes) -> PhotoFacts:
    """What EXIF says, of a TIFF or a raw photo in its own tags; and how large the upright picture is."""
    exif = file if is_tiff(file) else image.info.get("exif")
    found = facts_of(exif if isinstance(exif, bytes) else b"", changed_is_taken=is_raw(file))
    width, height = image.size if orientation < 5 else image.size[::-1]
    return found._replace(width=width, height=height)


def to_array(image: Image.Image, short_side: int | None = None) -> np.ndarray:
    """A Pillow image of any mode as ``(H, W, 3)`` uint8: upright, in sRGB, over white, optionally reduced.

    Raises:
        UnreadableImage: Its file is damaged, or its mode has no fixed white.
    """
    with _reasons(None), _quiet(0):
        image.load()
        return _pixels(image, short_side, _orientation(image), image.info.get("icc_profile"))


def reduce_array(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8, reduced, antialiased, until the shorter side is ``short_side`` at most."""
    if _reduced((pixels.shape[1], pixels.shape[0]), short_side) == (pixels.shape[1], pixels.shape[0]):
        return pixels
    return to_array(Image.fromarray(pixels), short_side)


def _cleaned(content: bytes) -> bytes:
    """The file that holds the picture, of a raw photo its preview, with no more than that."""
    if not content:
        raise UnreadableImage("empty file (0 bytes)")
    if is_raw_photo(content):
        with _reasons(None):
            content = preview(content)
    return cleaned(content)


@contextlib.contextmanager
def _opened(content: bytes, max_pixels: int | None) -> Iterator[Image.Image]:
    """The image with its header read and its size found allowed; any error becomes an UnreadableImage."""
    limit = max_pixels_allowed() if max_pixels is None else max_pixels
    with (
        _reasons(limit, content),
        _quiet(limit),
        Image.open(io.BytesIO(content), formats=openable(content)) as image,
    ):
        width, height = image.size
        if width * height > limit:
            raise UnreadableImage(_too_large(f"{width} x {height} = {width * height:,}", limit))
        if width < 1 or height < 1:
            raise UnreadableImage(f"an image of {width} x {height} pixels")
        yield image


@contextlib.contextmanager
def _reasons(limit: int | None, content: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises into an UnreadableImage with one line that says why."""
    try:
        yield
    except S2R2Error:
        raise
    except Image.DecompressionBombError as error:
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise UnreadableImage(_too_large(f"{int(count[1]):,}" if count else "", limit)) from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage(unidentified(content)) from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError ...
        line = next(iter(str(error).strip().splitlines()), "")[:200]
        raise UnreadableImage(f"damaged: {line or f'the decoder failed ({type(error).__name__})'}") from None


def _too_large(pixels: str, limit: int | None) -> str:
    allowed = limit or DEFAULT_MAX_PIXELS
    return f"refused as a decompression bomb: {pixels} pixels, allowed are {allowed:,} (S2R2_MAX_PIXELS)"


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


def _pixels(image: Image.Image, short_side: int | None, orientation: int, profile: bytes | None) -> np.ndarray:
    """Palettes and transparency first, since they cannot be averaged; then size, colors and orientation."""
    flat = plain(image)
    size = _reduced(flat.size, short_side)
    if size != flat.size:
        flat = flat.resize(size, Image.Resampling.BICUBIC)
    flat = in_srgb(flat, profile)
    turn = _UPRIGHT.get(orientation)
    return np.array(flat if turn is None else flat.transpose(turn))


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
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and len(exif) > _EXIF_BYTES:  # reading it takes the square of its length
        image.info["exif"] = exif[:_EXIF_BYTES]
    try:
        # Not the PNG's own way, which decodes it all to look behind its pixels: there is nothing after cleaning.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
