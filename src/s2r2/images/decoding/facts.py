"""What a photo's file says of it beside its pixels: when, where and with which camera it was taken (EXIF)."""

import contextlib
import datetime
import json
import math
import re
import struct
from typing import NamedTuple

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.tiff import Directory, directory_at, first_directory, is_tiff, numbers, value_of

_MAKE, _MODEL, _ORIENTATION, _CHANGED, _EXIF, _GPS = 271, 272, 274, 306, 34665, 34853
_TAKEN = ((36867, 37521, 36881), (36868, 37522, 36882))
"""Tags of a time, its fractions of a second and its offset from UTC: when it was taken, and when it was digitized."""
_FIRST_YEAR = 1826
_EPOCH = datetime.datetime(1970, 1, 1)
_MOST_CHARACTERS = 100
_TIME = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


class PhotoFacts(NamedTuple):
    """What is known of a photo; None where its file does not say it, or nothing that can be true.

    Attributes:
        taken: Seconds since 1970: UTC where the camera wrote its offset, else the camera's own clock.
        offset: Minutes by which the camera's clock was ahead of UTC.
        latitude: Degrees, north of the equator positive.
        longitude: Degrees, east of Greenwich positive.
        camera: Make and model.
        orientation: EXIF's, 1 to 8: how the file's pixels lie.
        width: Columns of the upright picture, before any reduction.
        height: Rows of it.
    """

    taken: float | None = None
    offset: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    orientation: int | None = None
    width: int | None = None
    height: int | None = None


def facts_of(exif: bytes, *, changed_is_taken: bool = False) -> PhotoFacts:
    """What EXIF says; whatever is damaged or cannot be true is left out, and nothing is raised.

    Only the tags that are wanted are looked at: the time does not grow with what else is there.

    Args:
        exif: A TIFF's bytes: a TIFF or raw photo itself, or what JPEG, PNG, WebP, AVIF and HEIC hold as EXIF.
        changed_is_taken: The time of the last change is that of the photo, as in what a raw photo's reader writes.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    main = _at(exif, None)
    if main is None:
        return PhotoFacts()
    details, place = (_inner(exif, main, tag) for tag in (_EXIF, _GPS))
    taken, offset = _taken(exif, details) if details is not None else (None, None)
    if taken is None and changed_is_taken:
        taken = _seconds(_text(exif, main, _CHANGED), "")
    latitude, longitude = _place(exif, place) if place is not None else (None, None)
    orientation = next(iter(numbers(exif, main, _ORIENTATION, 1)), 0)
    return PhotoFacts(
        taken, offset, latitude, longitude, _camera(exif, main), orientation if 1 <= orientation <= 8 else None
    )


def checked(row: object) -> PhotoFacts | None:
    """The facts in a row that comes from a file or another process; None if it holds none, or anything else."""
    if not isinstance(row, list | tuple) or len(row) != len(PhotoFacts._fields):
        return None
    for value, kind in zip(row, (float, int, float, float, str, int, int, int), strict=True):
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if value is not None and (not fits or (kind is float and not math.isfinite(value))):
            return None
    return PhotoFacts(*row)


def read_facts(content: bytes | memoryview) -> PhotoFacts | None:
    """The facts in the JSON of another process, which hostile files may have reached; None where there are none."""
    if not content:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        return checked(json.loads(bytes(content)))
    return None


def _at(exif: bytes, start: int | None) -> Directory | None:
    if not is_tiff(exif):
        return None
    try:
        return first_directory(exif) if start is None else directory_at(exif, start)
    except UnreadableImage:
        return None


def _inner(exif: bytes, main: Directory, tag: int) -> Directory | None:
    start = next(iter(numbers(exif, main, tag, 1)), None)
    return None if start is None else _at(exif, start)


def _text(exif: bytes, directory: Directory, tag: int) -> str:
    """A tag's text up to its end, without control characters."""
    found, _, _ = value_of(exif, directory, tag, _MOST_CHARACTERS).partition(b"\0")
    return "".join(filter(str.isprintable, found.decode("utf-8", "replace"))).strip()


def _taken(exif: bytes, details: Directory) -> tuple[float | None, int | None]:
    for time, fraction, zone in _TAKEN:
        taken = _seconds(_text(exif, details, time), _text(exif, details, fraction))
        if taken is not None:
            offset = _minutes(_text(exif, details, zone))
            return taken - 60 * (offset or 0), offset
    return None, None


def _seconds(time: str, fraction: str) -> float | None:
    found = _TIME.match(time)
    if found is None or int(found[1]) < _FIRST_YEAR:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        # Some phones count the hours of a day from 1: with them 24:04 is four minutes after the day began.
        since = datetime.datetime(year, month, day, 0 if hour == 24 else hour, minute, second) - _EPOCH
    except ValueError:  # such as 2000:00:00, of a clock that was never set
        return None
    return since.total_seconds() + (float(f"0.{fraction}") if fraction.isascii() and fraction.isdecimal() else 0.0)


def _minutes(zone: str) -> int | None:
    found = _OFFSET.match(zone)
    if found is None:
        return 0 if zone == "Z" else None
    minutes = int(found[2]) * 60 + int(found[3])
    return (-minutes if found[1] == "-" else minutes) if minutes <= 14 * 60 else None


def _place(exif: bytes, place: Directory) -> tuple[float | None, float | None]:
    latitude = _degrees(exif, place, 1, "NS", 90)
    longitude = _degrees(exif, place, 3, "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:  # zeros: before the first fix
        return None, None
    return latitude, longitude


def _degrees(exif: bytes, place: Directory, tag: int, letters: str, most: int) -> float | None:
    """Degrees, minutes and seconds as degrees; the tag before them says the half of the globe."""
    found, half = value_of(exif, place, tag + 1, 24), _text(exif, place, tag)[:1].upper()
    if len(found) != 24 or not half or half not in letters:
        return None
    parts = struct.unpack("<6I" if exif.startswith(b"II") else ">6I", found)
    if not all(parts[1::2]):
        return None
    degrees = parts[0] / parts[1] + parts[2] / parts[3] / 60 + parts[4] / parts[5] / 3600
    if degrees > most:
        return None
    return round(-degrees if half == letters[1] else degrees, 7)


def _camera(exif: bytes, main: Directory) -> str | None:
    make, model = (_text(exif, main, tag) for tag in (_MAKE, _MODEL))
    return (model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()) or None
