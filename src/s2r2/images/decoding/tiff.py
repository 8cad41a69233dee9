"""A TIFF's directories: which page is shown, whether it is a raw photo of a camera, and why it is not read."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from s2r2.errors import UnreadableImage

MOST_TAGS = 4_096
MOST_PAGES = 1_000
"""Further pages are not looked at."""
SPARE_BYTES = 1 << 20

_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">", b"II\0*": "<", b"MM*\0": ">"}
_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], float)
_WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
"""Bytes of each type that holds counts and offsets."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _INNER, _NUMBERS, _DNG_VERSION = 277, 330, 339, 50706
_MASK = 4
_SENSOR = (32803, 34892)
"""Kinds of colors of a sensor's own values: one color in each place, or all of them but linear."""


class Directory(NamedTuple):
    """One of a TIFF's directories.

    Attributes:
        start: Where it begins.
        tags: Its entries: ``tag``, ``type``, ``count``, ``value``.
        next: Where the next one begins; 0 if it is the last.
    """

    start: int
    tags: np.ndarray
    next: int


def is_tiff(content: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return content[:4] in _ORDERS


def shown_page(content: bytes) -> bytes:
    """A TIFF whose first page is the largest of its pages, of equal ones the first.

    Raises:
        UnreadableImage: Reading that page's tags would take time or memory without bound.
    """
    best, largest = None, -1
    for directory in _directories(content):
        width, height, kind = (_number(content, directory, tag) for tag in (_WIDTH, _HEIGHT, _SUBFILE))
        if best is None or (width * height > largest and not kind & _MASK):
            best, largest = directory, width * height
    if best is None:
        return content
    sizes = _SIZES[np.minimum(best.tags["type"], len(_SIZES) - 1)] * best.tags["count"].astype(float)
    if sizes.sum() > 2 * len(content) + SPARE_BYTES:
        raise UnreadableImage("damaged: a TIFF whose tags are larger than the file")
    place, width = _first_offset(content)
    start = best.start.to_bytes(width, _spelled(content))
    return content if content[place : place + width] == start else content[:place] + start + content[place + width :]


def is_raw_tiff(content: bytes) -> bool:
    """Whether a TIFF holds a sensor's values, as DNG, NEF, CR2, ARW and most other raw photos do."""
    if content[8:10] == b"CR":  # CR2 says so behind its header
        return True
    for directory in _directories(content, most=8):
        inner = (d for start in _offsets(content, directory) if (d := _directory(content, start)) is not None)
        if any(_number(content, found, _PHOTOMETRIC) in _SENSOR for found in (directory, *inner)):
            return True
        if (directory.tags["tag"] == _DNG_VERSION).any():
            return True
    return False


def why_not_read(content: bytes) -> str:
    """What kind of TIFF it is that no decoder reads, and what to do."""
    directory = next(_directories(content), None)
    if directory is None or not len(directory.tags):
        return "damaged: a TIFF without a directory"
    numbers = {1: "whole numbers", 2: "signed numbers", 3: "floating point", 5: "complex", 6: "complex"}
    samples, bits, kind, compression = (
        _number(content, directory, tag, 1) for tag in (_SAMPLES, _BITS, _NUMBERS, _COMPRESSION)
    )
    return (
        f"a TIFF of a kind that is not read ({samples} x {bits} bits a pixel, "
        f"{numbers.get(kind, 'no usual numbers')}, compression {compression}): "
        "convert it to whole numbers of 8 or 16 bits"
    )


def _spelled(content: bytes) -> Literal["little", "big"]:
    return "little" if _ORDERS[content[:4]] == "<" else "big"


def _first_offset(content: bytes) -> tuple[int, int]:
    """Where the first directory's offset is, and its bytes."""
    return (8, 8) if b"+" in content[:4] else (4, 4)


def _directories(content: bytes, most: int = MOST_PAGES) -> Iterator[Directory]:
    """The directories in the order of their chain, each once."""
    place, width = _first_offset(content)
    start = int.from_bytes(content[place : place + width], _spelled(content))
    seen: set[int] = set()
    while start and start not in seen and len(seen) < most:
        seen.add(start)
        directory = _directory(content, start)
        if directory is None:
            return
        yield directory
        start = directory.next


def _directory(content: bytes, start: int) -> Directory | None:
    """The directory that begins there; None if it lies outside.

    Raises:
        UnreadableImage: It has more tags than any program writes.
    """
    order, big = _ORDERS[content[:4]], b"+" in content[:4]
    wide, short = (f"{order}u8", f"{order}u8") if big else (f"{order}u4", f"{order}u2")
    row = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", wide), ("value", wide)])
    try:
        count = int(np.frombuffer(content, short, 1, start)[0])
        if count > MOST_TAGS:
            raise UnreadableImage(f"refused: a TIFF of more than {MOST_TAGS:,} tags")
        first = start + (8 if big else 2)
        tags = np.frombuffer(content, row, min(count, (len(content) - first) // row.itemsize), first)
    except (ValueError, OverflowError):
        return None
    end = first + count * row.itemsize
    return Directory(start, tags, int.from_bytes(content[end : end + (8 if big else 4)], _spelled(content)))


def _number(content: bytes, directory: Directory, tag: int, otherwise: int = 0) -> int:
    """The first number of a tag."""
    return next(iter(_numbers(content, directory, tag, 1)), otherwise)


def _offsets(content: bytes, directory: Directory) -> list[int]:
    """Where the directories inside a page begin."""
    return _numbers(content, directory, _INNER, 16)


def _numbers(content: bytes, directory: Directory, tag: int, most: int) -> list[int]:
    for entry in directory.tags[directory.tags["tag"] == tag][:1]:
        size, count = _WHOLE_NUMBERS.get(int(entry["type"]), 0), min(int(entry["count"]), most)
        found = entry["value"].tobytes()
        if size * int(entry["count"]) > len(found):
            start = int(entry["value"])
            found = content[start : start + size * count]
        if size and len(found) >= size * count:
            return np.frombuffer(found, f"{_ORDERS[content[:4]]}u{size}", count).tolist()
    return []
