"""Where the images of a tar shard are: found once by going from header to header, then kept in the cache folder."""

import contextlib
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.files import atomic_write
from s2r2.files import stamp as file_stamp
from s2r2.images.cache import cache_folder
from s2r2.images.decoding import EXTENSIONS, UnreadableImage
from s2r2.images.remote import file_system, is_remote, reason, remote_stamp

Read: TypeAlias = Callable[[int, int], bytes]
"""Gives so many bytes (the second number) from an offset on (the first)."""

VERSION = 1
BLOCK = 512
REMOTE_BLOCK = 4 << 20
MOST_LABEL_BYTES, MOST_TABLE_BYTES = 1 << 16, 1 << 28


class Member(NamedTuple):
    """A file in a tar: its name, where its content begins, its bytes."""

    name: str
    offset: int
    size: int


class DamagedTar(Exception):
    """What is here is no header of a tar.

    Attributes:
        offset: Where.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"no tar header at byte {offset:,}")
        self.offset = offset


@dataclass(frozen=True)
class ShardIndex:
    """The images of a shard in their order.

    Attributes:
        names: Arrow array of the members' names.
        offsets: ``(N,)`` int64, where their content begins.
        sizes: ``(N,)`` int64 bytes.
        labels: Arrow array of what the ``.cls`` beside each image says, empty where there is none.
        stamp: What the shard looked like.
        problem: Why the shard could not be followed to its end, else empty.
    """

    names: Any
    offsets: np.ndarray
    sizes: np.ndarray
    labels: Any
    stamp: tuple[int | str, ...]
    problem: str

    def __len__(self) -> int:
        return len(self.offsets)


def shard_index(shard: str) -> ShardIndex:
    """The index of a shard, from the cache folder if the shard has not changed since.

    Args:
        shard: Path or address of an uncompressed tar.

    Raises:
        S2R2Error: It is gone, may not be read, or is no uncompressed tar.
    """
    try:
        stamp = remote_stamp(shard) if is_remote(shard) else file_stamp(shard)
    except (OSError, UnreadableImage) as error:
        raise S2R2Error(f"cannot read the shard {shard}: {_reason(error)}") from None
    place = shard if is_remote(shard) else os.path.abspath(shard)
    digest = hashlib.blake2b(json.dumps([VERSION, place, stamp]).encode(), digest_size=12).hexdigest()
    kept = cache_folder() / "shards" / f"{digest}.arrow"
    index = _load(kept, stamp)
    if index is None:
        index = _build(shard, stamp)
        with contextlib.suppress(S2R2Error, OSError):  # where nothing can be kept it is found again the next time
            _keep(kept, index)
    return index


def members(read: Read, end: int) -> Iterator[Member]:
    """The regular files of a tar in their order: ustar, GNU and PAX; a file with holes is passed over.

    Args:
        read: Reads from the tar.
        end: Its bytes.

    Raises:
        DamagedTar: A header is none.
    """
    at, name, size = 0, "", -1
    while at + BLOCK <= end:
        header = read(at, BLOCK)
        if not header.strip(b"\0"):
            return
        content, kind = at + BLOCK, header[156:157]
        length = _number(header[124:136])
        if length < 0 or not _is_header(header):
            raise DamagedTar(at)
        if kind == b"x":
            values = _pax(read(content, length))
            name, size = values.get("path", name), int(values.get("size", size))
            at = content + _padded(length)
            continue
        if kind == b"L":
            name = _text(read(content, length).rstrip(b"\0"))
            at = content + _padded(length)
            continue
        length = size if size >= 0 else length
        if kind in (b"0", b"\0", b"7") and not (name or _name(header)).endswith("/"):
            yield Member(name or _name(header), content, length)
        if kind not in (b"K", b"g"):  # these say something of what follows, and keep what was said of it
            name, size = "", -1
        at = content + (0 if kind in (b"1", b"2", b"5") else _padded(length))


@dataclass
class Contents:
    """What is of use in a tar.

    Attributes:
        images: Members with the ending of an image, in the tar's order.
        labels: What each ``.cls`` says, by the key of its sample.
        tables: Contents of the ``.csv``.
        problem: Why the tar could not be followed to its end, else empty.
    """

    images: list[Member] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    tables: list[bytes] = field(default_factory=list)
    problem: str = ""

    def label(self, image: str) -> str:
        """What the ``.cls`` beside an image says; empty where there is none."""
        return self.labels.get(_sample_key(image), "")


def read_contents(tar: str, *, tables: bool = False) -> Contents:
    """Go through a tar from header to header; what file managers have hidden in it does not count.

    Args:
        tar: Its path or address.
        tables: Read tables as well.

    Raises:
        S2R2Error: It is gone, may not be read, or is no uncompressed tar.
    """
    found = Contents()
    try:
        with _opened(tar) as (read, end):
            for member in members(read, end):
                base = member.name.rpartition("/")[2]
                suffix = os.path.splitext(base)[1].lower()
                if any(part.startswith((".", "__MACOSX")) for part in member.name.removeprefix("./").split("/")):
                    continue
                if suffix in EXTENSIONS:
                    found.images.append(member)
                elif suffix == ".cls" and member.size <= MOST_LABEL_BYTES:
                    content = read(member.offset, member.size)
                    found.labels[_sample_key(member.name)] = content.decode("utf-8", "replace").strip()
                elif tables and suffix == ".csv" and member.size <= MOST_TABLE_BYTES:
                    found.tables.append(read(member.offset, member.size))
    except DamagedTar as error:
        if error.offset == 0:
            raise S2R2Error(f"{tar} is no uncompressed tar: pack its files again without compression") from None
        found.problem = f"damaged: {error}; what follows is left out"
    except S2R2Error:
        raise
    except Exception as error:  # each kind of address has its own
        raise S2R2Error(f"cannot read the tar {tar}: {_reason(error)}") from None
    return found


def _build(shard: str, stamp: tuple[int | str, ...]) -> ShardIndex:
    import pyarrow

    found = read_contents(shard)
    text = pyarrow.large_string()
    return ShardIndex(
        pyarrow.array([member.name for member in found.images], text),
        np.array([member.offset for member in found.images], np.int64),
        np.array([member.size for member in found.images], np.int64),
        pyarrow.array([found.label(member.name) for member in found.images], text),
        stamp,
        found.problem,
    )


def _sample_key(name: str) -> str:
    """A sample's key, as in WebDataset: all up to the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@contextlib.contextmanager
def _opened(shard: str) -> Iterator[tuple[Read, int]]:
    if is_remote(shard):
        system, path = file_system(shard)
        with system.open(path, "rb", block_size=REMOTE_BLOCK, cache_type="readahead") as file:

            def read_remote(offset: int, size: int) -> bytes:
                file.seek(offset)
                content: bytes = file.read(size)
                return content

            yield read_remote, int(system.size(path))
        return
    with open(shard, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        if not end:
            yield (lambda offset, size: b""), 0
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield (lambda offset, size: content[offset : offset + size]), end


def _is_header(header: bytes) -> bool:
    """Whether its checksum holds: the sum of its bytes, with eight spaces in its own place.

    The low half of Adler-32 is one more than the sum, modulo 65521, and ten times as fast to have.
    """
    total = (zlib.adler32(header) & 0xFFFF) - sum(header[148:156]) + 8 * 32
    return (total - 1 - _number(header[148:156])) % 65521 == 0


def _number(field: bytes) -> int:
    """A number in octal digits, or in GNU's binary form; -1 for neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _pax(content: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE``, a line each, of an extended header."""
    values = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or int(length) <= len(length):
            break
        record, content = content[len(length) + 1 : int(length) - 1], content[int(length) :]
        key, _, value = record.partition(b"=")
        values[_text(key)] = _text(value)
    return values


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _reason(error: Exception) -> str:
    if isinstance(error, UnreadableImage):
        return error.reason
    return getattr(error, "strerror", None) or reason(error)


def _load(path: Path, stamp: tuple[int | str, ...]) -> ShardIndex | None:
    """The index that was kept, mapped into memory; None where there is none, or none that can be read."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            table = pyarrow.ipc.open_file(file).read_all().combine_chunks()
    except (OSError, pyarrow.ArrowException):
        return None
    columns = [table[name].chunk(0) if table.num_rows else table[name].combine_chunks() for name in _COLUMNS]
    names, offsets, sizes, labels = columns
    problem = (table.schema.metadata or {}).get(b"problem", b"").decode()
    return ShardIndex(names, offsets.to_numpy(), sizes.to_numpy(), labels, stamp, problem)


_COLUMNS = ("name", "offset", "size", "label")


def _keep(path: Path, index: ShardIndex) -> None:
    import pyarrow

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [index.names, index.offsets, index.sizes, index.labels]
    table = pyarrow.table(dict(zip(_COLUMNS, columns, strict=True))).replace_schema_metadata({"problem": index.problem})
    with atomic_write(path) as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
