"""The headers of a tar, one after another: ustar, GNU and PAX. What they say is checked before it is believed."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

Read: TypeAlias = Callable[[int, int], bytes]
"""Gives so many bytes (the second number) from an offset on (the first)."""

BLOCK = 512
MOST_HEADER_BYTES = 1 << 20
"""Extended headers hold names and times; a longer one is refused."""
AT_ONCE = 1 << 16
FILE, HARD_LINK, LINK, SPARSE, OTHER = "file", "hard link", "link", "sparse", "other"

_KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARD_LINK, b"2": LINK, b"S": SPARSE}
_PLAIN = (b"0", b"\0")
_WITHOUT_CONTENT = b"123456"
_PAX_HEADERS, _GLOBAL, _LONG_NAME, _LONG_TARGET = b"xX", b"g", b"L", b"K"
_EXTENDED = _PAX_HEADERS + _GLOBAL + _LONG_NAME + _LONG_TARGET


class Header(NamedTuple):
    """What a tar says of one of its members, folders left out.

    Attributes:
        name: As it is written.
        offset: Where its content begins.
        size: Bytes of the content.
        kind: ``file``, ``hard link``, ``link``, ``sparse`` or ``other`` (pipes, devices, dumps).
        target: Where a link leads, as it is written.
    """

    name: str
    offset: int
    size: int
    kind: str
    target: str


class DamagedTar(Exception):
    """A tar that cannot be read any more; the text says why."""


class NoTar(DamagedTar):
    """The file does not begin as a tar does."""


def headers(read: Read, end: int) -> Iterator[Header]:
    """The members of a tar in their order; of tars one behind another, those of all.

    Args:
        read: Reads from the tar.
        end: Its bytes.

    Raises:
        DamagedTar: A header is none, says what cannot be, or the tar has been cut off.
    """
    at, extended, closed = 0, dict[str, str](), False
    while at + BLOCK <= end:
        block = read(at, BLOCK)
        if not block.strip(b"\0"):
            at, closed = _next_content(read, at, end), True
            if at + BLOCK > end or not _is_header(read(at, BLOCK)):
                return
            continue
        if len(block) < BLOCK or not _is_header(block):
            raise (DamagedTar if at else NoTar)(f"no tar header at byte {at:,}")
        kind, length, content, closed = block[156:157], _number(block[124:136]), at + BLOCK, False
        if kind in _EXTENDED:
            if not 0 <= length <= min(MOST_HEADER_BYTES, end - content):
                raise DamagedTar(f"an extended header at byte {at:,} of {length:,} bytes")
            extended |= _extended(kind, read(content, length), at)
            at = content + _padded(length)
            continue
        name = extended.get("GNU.sparse.name") or extended.get("path") or _name(block)
        if extended or kind not in _PLAIN:
            length, content = _content(read, block, extended, content, end)
        if length < 0 or length > end - content:
            raise DamagedTar(f"the tar ends before {name} does, which is said to have {length:,} bytes")
        what = (
            SPARSE if extended and any(key.startswith("GNU.sparse.") for key in extended) else _KINDS.get(kind, OTHER)
        )
        if kind != b"5" and not name.endswith("/"):
            target = extended.get("linkpath") or _text(block[157:257].partition(b"\0")[0])
            yield Header(name, content, length, what, target)
        extended = {}
        at = content + _padded(length)
    if not closed:
        raise DamagedTar("it ends without the mark of a tar's end, so that something may have been cut off")


def _content(read: Read, block: bytes, extended: dict[str, str], at: int, end: int) -> tuple[int, int]:
    """Bytes of a member's content, -1 for what is no number, and where it begins."""
    kind = block[156:157]
    if kind in _WITHOUT_CONTENT:
        return 0, at
    more = kind == b"S" and block[482] != 0
    while more and at + BLOCK <= end:  # a sparse file's map goes on in blocks of its own
        more, at = read(at, BLOCK)[504] != 0, at + BLOCK
    size = extended.get("size")
    if size is None:
        return _number(block[124:136]), at
    return int(size) if size.isascii() and size.isdigit() and len(size) < 20 else -1, at


def _next_content(read: Read, at: int, end: int) -> int:
    """The next block that is not all zero."""
    while at + BLOCK <= end:
        chunk = read(at, min(AT_ONCE, end - at))
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return at + zeros // BLOCK * BLOCK
        if not chunk:
            return end
        at += len(chunk)
    return at


def _extended(kind: bytes, content: bytes, at: int) -> dict[str, str]:
    """What an extended header says of the member that follows it."""
    if kind in _PAX_HEADERS:
        return _pax(content, at)
    text = _text(content.partition(b"\0")[0])
    return {"path": text} if kind == _LONG_NAME else {"linkpath": text} if kind == _LONG_TARGET else {}


def _pax(content: bytes, at: int) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE``, a line each, of an extended header."""
    values: dict[str, str] = {}
    start, content = 0, content.rstrip(b"\0")
    while start < len(content):
        space = content.find(b" ", start, start + 20)
        length = content[start : max(space, start)]
        stop = start + int(length) if length.isdigit() else 0
        if not start < space < stop <= len(content):
            raise DamagedTar(f"no extended header at byte {at:,}")
        key, _, value = content[space + 1 : stop - 1].partition(b"=")
        values[_text(key)] = _text(value)
        start = stop
    return values


def _is_header(block: bytes) -> bool:
    """Whether its checksum holds: the sum of its bytes, with eight spaces in its own place.

    The low half of Adler-32 is one more than the sum, modulo 65521, and ten times as fast to have.
    """
    total = (zlib.adler32(block) & 0xFFFF) - sum(block[148:156]) + 8 * 32
    return (total - 1 - _number(block[148:156])) % 65521 == 0


def _number(field: bytes) -> int:
    """A number in octal digits, or in GNU's binary form; -1 for neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
