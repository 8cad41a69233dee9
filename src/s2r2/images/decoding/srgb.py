"""Any image to 8 bits a channel and to sRGB: deep grayscale, palettes, transparency, color profiles."""

import functools
import io
import math

import numpy as np
from PIL import Image, ImageCms

from s2r2.errors import UnreadableImage

LARGEST_PROFILE = 4 << 20
_STRIP = 1 << 22
_SAME = 3
"""Profiles that change a channel by no more than this count as sRGB: they need no conversion."""


def plain(image: Image.Image) -> Image.Image:
    """The image in mode ``L``, ``RGB``, or ``CMYK`` where a profile says which colors that is; over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode in ("L", "RGB") or (image.mode == "CMYK" and image.info.get("icc_profile")):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Some rows at a time: copies of a large image would be larger still."""
    white = Image.new("RGB", image.size, "white")
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows))).convert("RGBA")
        white.paste(strip, (0, top), strip.getchannel("A"))
    return white


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image from :func:`plain` as ``RGB`` in sRGB. A profile that is damaged or of other colors is ignored."""
    if profile and len(profile) <= LARGEST_PROFILE:
        transform = _transform(bytes(profile), image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile's colors to sRGB; None where there is none or it is not needed."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            return transform
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        chart = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
        before = Image.fromarray(chart if mode == "RGB" else np.ascontiguousarray(chart[..., 0]))
        after = ImageCms.applyTransform(before, transform)
        difference = np.abs(np.asarray(after, np.int16) - np.asarray(before.convert("RGB"), np.int16)).max()
        return transform if difference > _SAME else None
    except Exception:  # a damaged profile is no reason to lose a photo
        return None


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Deep grayscale as uint8, by its range and never by its content, so that photos stay comparable."""
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
    rows = max(1, _STRIP // values.shape[1])  # float copies of a large scan are larger still
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
