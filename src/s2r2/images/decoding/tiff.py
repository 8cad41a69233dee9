"""A TIFF's directories: which page is shown, whether it is a raw photo of a camera, and why it is not read."""

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from s2r2.errors import UnreadableImage

MOST_TAGS = 4_096
MOST_PAGES = 1_000
"""Further pages are not looked at."""
SPARE_BYTES = 1 << 20

_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">", b"II\0*": "<", b"MM*\0": ">"}
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
"""Bytes of each type that holds counts and offsets."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _INNER, _NUMBERS, _DNG_VERSION = 277, 330, 339, 50706
_MASK = 4
_SENSOR = (32803, 34892)
"""Kinds of colors of a sensor's own values: one color in each place, or all of them but linear."""


class Entry(NamedTuple):
    """A tag's type, how many values it has, and these, or where they are."""

    kind: int
    values: int
    value: int

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return _SIZES[min(self.kind, len(_SIZES) - 1)] * self.values


class Directory(NamedTuple):
    """One of a TIFF's directories.

    Attributes:
        start: Where it begins.
        tags: Its entries by their tags; of several for one the first.
        next: Where the next one begins; 0 if it is the last.
    """

    start: int
    tags: dict[int, Entry]
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
    if sum(entry.size for entry in best.tags.values()) > 2 * len(content) + SPARE_BYTES:
        raise UnreadableImage("damaged: a TIFF whose tags are larger than the file")
    place, width = _first_offset(content)
    start = best.start.to_bytes(width, _spelled(content))
    return content if content[place : place + width] == start else content[:place] + start + content[place + width :]


def is_raw_tiff(content: bytes) -> bool:
    """Whether a TIFF holds a sensor's values, as DNG, NEF, CR2, ARW and most other raw photos do."""
    if content[8:10] == b"CR":  # CR2 says so behind its header
        return True
    for directory in _directories(content, most=8):
        inner = (
            d for start in numbers(content, directory, _INNER, 16) if (d := directory_at(content, start)) is not None
        )
        if any(_number(content, found, _PHOTOMETRIC) in _SENSOR for found in (directory, *inner)):
            return True
        if _DNG_VERSION in directory.tags:
            return True
    return False


def first_directory(content: bytes) -> Directory | None:
    """The first directory; None if it lies outside.

    Raises:
        UnreadableImage: It has more tags than any program writes.
    """
    return next(_directories(content, most=1), None)


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
        directory = directory_at(content, start)
        if directory is None:
            return
        yield directory
        start = directory.next


def directory_at(content: bytes, start: int) -> Directory | None:
    """The directory that begins there; None if it lies outside.

    Raises:
        UnreadableImage: It has more tags than any program writes.
    """
    order, big = _ORDERS[content[:4]], b"+" in content[:4]
    short, row = (f"{order}Q", f"{order}HHQQ") if big else (f"{order}H", f"{order}HHII")
    first = start + struct.calcsize(short)
    if first > len(content):
        return None
    (count,) = struct.unpack_from(short, content, start)
    if count > MOST_TAGS:
        raise UnreadableImage(f"refused: a TIFF of more than {MOST_TAGS:,} tags")
    width = struct.calcsize(row)
    end = first + count * width
    tags: dict[int, Entry] = {}
    for tag, *entry in struct.iter_unpack(
        row, content[first : first + min(count, (len(content) - first) // width) * width]
    ):
        tags.setdefault(tag, Entry(*entry))
    return Directory(start, tags, int.from_bytes(content[end : end + (8 if big else 4)], _spelled(content)))


def _number(content: bytes, directory: Directory, tag: int, otherwise: int = 0) -> int:
    """The first number of a tag."""
    return next(iter(numbers(content, directory, tag, 1)), otherwise)


def numbers(content: bytes, directory: Directory, tag: int, most: int) -> list[int]:
    """The first whole numbers of a tag; none if it is not there, of another type, or outside the file."""
    entry = directory.tags.get(tag)
    size = _WHOLE_NUMBERS.get(entry.kind, 0) if entry is not None else 0
    found = value_of(content, directory, tag, size * most)
    order = _spelled(content)
    return (
        [int.from_bytes(found[at : at + size], order) for at in range(0, len(found) - size + 1, size)] if size else []
    )


def value_of(content: bytes, directory: Directory, tag: int, most: int) -> bytes:
    """Up to so many bytes of a tag's value as they lie there; none if it is not there, or outside the file."""
    entry = directory.tags.get(tag)
    if entry is None:
        return b""
    size, width = entry.size, 8 if b"+" in content[:4] else 4
    if size > width:
        return content[entry.value : entry.value + min(size, most)]
    return entry.value.to_bytes(width, _spelled(content))[: min(size, most)]
