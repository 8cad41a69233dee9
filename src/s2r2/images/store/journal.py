"""The journal of a pixel store: a line for each image, written after its pixels, so that what it names is whole."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s2r2.images.places import Stamp


class Entry(NamedTuple):
    """An image that was decoded, or could not be.

    Attributes:
        key: The image's key in its source.
        stamp: What its file looked like.
        content: CRC-32 of its file, 0 where it has none.
        height: Rows; 0 for an image that could not be decoded.
        width: Columns.
        offset: Where its pixels begin.
        checksum: CRC-32 of its pixels.
        reason: Why it could not be decoded, else empty.
        facts: The fields of a ``PhotoFacts``, unchecked; None where an earlier version decoded it, or it has no file.
    """

    key: str
    stamp: Stamp
    content: int = 0
    height: int = 0
    width: int = 0
    offset: int = 0
    checksum: int = 0
    reason: str = ""
    facts: Sequence[Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of the pixels."""
        return self.height * self.width * 3

    @property
    def end(self) -> int:
        """Where its pixels end."""
        return self.offset + self.size

    def line(self) -> bytes:
        """The journal's form: a CRC-32 of the rest, the rest as JSON."""
        text = json.dumps(self, separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)


def parse_line(line: bytes) -> Entry | None:
    """The entry of a line, or None when it is torn or damaged."""
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        key, stamp, *rest = json.loads(line[9:])
        return Entry(key, tuple(stamp), *rest)
    except (ValueError, TypeError):
        return None


class Journal(NamedTuple):
    """What a journal file says.

    Attributes:
        entries: The last word on each image, by key.
        length: Bytes of it that are whole lines; a kill can leave half a line behind them.
        unproven: Keys whose lines came after the last finished build: their pixels may not have reached the disk.
    """

    entries: dict[str, Entry]
    length: int
    unproven: set[str]


def read_journal(path: Path, available: int, proven: int) -> Journal:
    """Read a journal; damaged lines are passed over, and so their images are decoded anew.

    Args:
        path: The file; it need not exist.
        available: Bytes of pixels that there are; entries beyond them do not count.
        proven: Bytes of the journal that a finished build has made durable.
    """
    content = path.read_bytes() if path.exists() else b""
    length = content.rfind(b"\n") + 1
    entries: dict[str, Entry] = {}
    unproven: set[str] = set()
    position = 0
    for line in content[:length].split(b"\n")[:-1]:
        position += len(line) + 1
        entry = parse_line(line)
        if entry is None or entry.end > available:
            continue
        entries[entry.key] = entry
        if position > proven:
            unproven.add(entry.key)
        else:
            unproven.discard(entry.key)
    return Journal(entries, length, unproven)
