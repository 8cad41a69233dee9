"""Where the images of a tar shard are: found once by going from header to header, then kept in the cache folder."""

import contextlib
import hashlib
import json
import os
import posixpath
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.formats import EXTENSIONS
from s2r2.images.places import FilePlace, RemotePlace, Stamp
from s2r2.images.remote import file_system, reason
from s2r2.images.sources.names import ending, inside, is_helper, is_image, printable, raw_beside, why_unread
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.strings import from_arrow
from s2r2.images.sources.tar_headers import (
    FILE,
    HARD_LINK,
    LINK,
    OTHER,
    SPARSE,
    DamagedTar,
    Header,
    NoTar,
    Read,
    headers,
)
from s2r2.system.cache_folder import cache_folder
from s2r2.system.files import atomic_write, make_folder

VERSION = 2
REMOTE_BLOCK = 4 << 20
LOCAL_BLOCK = 1 << 14
MOST_LABEL_BYTES, MOST_TABLE_BYTES = 1 << 16, 1 << 28
CHECKSUM_BYTES = 64
"""As many as keep what follows where Arrow wants it."""
MOST_LINKS = 40
"""Links from link to link that are followed, as in Linux."""


class Member(NamedTuple):
    """A file in a tar: its name, where its content begins, its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """The images of a shard in their order.

    Attributes:
        names: The members' names.
        offsets: ``(N,)`` int64, where their content begins.
        sizes: ``(N,)`` int64 bytes.
        labels: Arrow array of what the ``.cls`` beside each image says, empty where there is none.
        stamp: What the shard looked like.
        problems: What was left out.
    """

    names: Sequence[str]
    offsets: np.ndarray
    sizes: np.ndarray
    labels: Any
    stamp: Stamp
    problems: list[Skipped]

    def __len__(self) -> int:
        return len(self.offsets)


def tar_index(shard: FilePlace | RemotePlace, written: str) -> TarIndex:
    """The index of a shard, from the cache folder if the shard has not changed since.

    Args:
        shard: An uncompressed tar.
        written: Its path or address as the user wrote it.

    Raises:
        S2R2Error: It is gone, may not be read, or is no uncompressed tar.
    """
    try:
        stamp = shard.stamp()
    except UnreadableImage as error:
        raise S2R2Error(f"cannot read the shard {printable(written)}: {error.reason}") from None
    identity = json.dumps(
        [VERSION, shard[0], stamp, sorted(EXTENSIONS)]
    )  # an extra that was installed since reads more
    digest = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    kept = cache_folder() / "shards" / f"{digest}.arrow"
    index = _load(kept, stamp)
    if index is not None:
        with contextlib.suppress(OSError):
            os.utime(kept)  # when it was last used
    else:
        index = _build(shard, written, stamp)
        with contextlib.suppress(S2R2Error, OSError):  # where nothing can be kept it is found again the next time
            _keep(kept, index)
    return index


@dataclass
class Contents:
    """What is of use in a tar. Names are places below its root: ``./a``, ``/a`` and ``x/../a`` are all ``a``.

    Attributes:
        images: Members with the ending of an image, in the tar's order, each name once.
        labels: What each ``.cls`` says, by the key of its sample.
        tables: Contents of the ``.csv``, by name.
        problems: Photos that are left out, and why the tar could not be followed to its end.
        dotted: Whether the names of all images are written as ``./a``.
    """

    dotted: bool = False
    images: list[Member] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    tables: dict[str, bytes] = field(default_factory=dict)
    problems: list[Skipped] = field(default_factory=list)

    def label(self, image: str) -> str:
        """What the ``.cls`` beside an image says; empty where there is none."""
        return self.labels.get(_sample_key(image), "")


def read_contents(tar: FilePlace | RemotePlace, written: str, *, tables: bool = False) -> Contents:
    """Go through a tar from header to header; hidden members, and those of systems and network drives, do not count.

    A link is the member that it leads to. Of members of one name the last one counts, as in unpacking.

    Args:
        tar: Where it is.
        written: Its path or address as the user wrote it.
        tables: Read tables as well.

    Raises:
        S2R2Error: It is gone, may not be read, or is no uncompressed tar.
    """
    found, where = Contents(), printable(written)
    members: dict[str, Header] = {}
    try:
        with _opened(tar) as (read, end):
            for header in headers(read, end):
                name = inside(header.name)
                if any(map(is_helper, name.split("/"))):
                    continue
                if members.pop(name, None) is not None and is_image(name):
                    found.problems.append(Skipped(f"{where}::{name}", "a later member of this name takes its place"))
                members[name] = header
                _take_table(found, where, name, header, read, tables)
    except NoTar:
        raise S2R2Error(f"{where} is no uncompressed tar: pack its files again without compression") from None
    except DamagedTar as error:
        found.problems.append(Skipped(where, f"damaged: {error}; what follows is left out"))
    except S2R2Error:
        raise
    except Exception as error:  # each kind of address has its own
        raise S2R2Error(f"cannot read the tar {where}: {getattr(error, 'strerror', None) or reason(error)}") from None
    found.dotted = all(header.name.startswith("./") for name, header in members.items() if is_image(name))
    twice = raw_beside([name for name in members if is_image(name)])
    for name in members:
        if why := twice.get(name):
            found.problems.append(Skipped(f"{where}::{name}", why))
        elif is_image(name):
            _take_image(found, where, name, members)
        elif why := why_unread(name):
            found.problems.append(Skipped(f"{where}::{name}", why))
    return found


def _take_table(found: Contents, where: str, name: str, header: Header, read: Read, tables: bool) -> None:
    """Keep what a member says of others."""
    suffix = ending(name)
    if header.kind != FILE or not (suffix == ".cls" or (tables and suffix == ".csv")):
        return
    most = MOST_LABEL_BYTES if suffix == ".cls" else MOST_TABLE_BYTES
    if header.size > most:
        problem = f"no labels are taken from it: {header.size:,} bytes are more than {most:,}"
        found.problems.append(Skipped(f"{where}::{name}", problem))
    elif suffix == ".csv":
        found.tables[name] = read(header.offset, header.size)
    else:
        text = read(header.offset, header.size).decode("utf-8", "backslashreplace").strip()
        if len(text.splitlines()) > 1:
            found.problems.append(Skipped(f"{where}::{name}", "no label is taken from it: it has several lines"))
        else:
            found.labels[_sample_key(name)] = text


def _take_image(found: Contents, where: str, name: str, members: dict[str, Header]) -> None:
    """Keep an image, or the one that a link leads to, or why there is none."""
    header: Header | None = members[name]
    at = name
    for _ in range(MOST_LINKS):
        if header is None or header.kind not in (LINK, HARD_LINK):
            break
        target = header.target if header.kind == HARD_LINK else posixpath.join(posixpath.dirname(at), header.target)
        at = inside(target)
        header = members.get(at)
    if header is None or header.kind in (LINK, HARD_LINK):
        reason = f"a link to {members[name].target}, which is not in the tar"
    elif header.kind == SPARSE:
        reason = "a file with holes: pack it again without --sparse"
    elif header.kind == OTHER:
        reason = "not a regular file"
    else:
        found.images.append(Member(name, header.offset, header.size))
        return
    found.problems.append(Skipped(f"{where}::{name}", reason))


def _build(shard: FilePlace | RemotePlace, written: str, stamp: Stamp) -> TarIndex:
    import pyarrow

    found = read_contents(shard, written)
    text = pyarrow.large_string()
    return TarIndex(
        from_arrow(pyarrow.array([member.name for member in found.images], text)),
        np.array([member.offset for member in found.images], np.int64),
        np.array([member.size for member in found.images], np.int64),
        pyarrow.array([found.label(member.name) for member in found.images], text),
        stamp,
        found.problems,
    )


def _sample_key(name: str) -> str:
    """A sample's key, as in WebDataset: all up to the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@contextlib.contextmanager
def _opened(tar: FilePlace | RemotePlace) -> Iterator[tuple[Read, int]]:
    if isinstance(tar, RemotePlace):
        system, path = file_system(tar.address)
        with system.open(path, "rb", block_size=REMOTE_BLOCK, cache_type="readahead") as file:

            def read_remote(offset: int, size: int) -> bytes:
                file.seek(offset)
                content: bytes = file.read(size)
                return content

            yield read_remote, int(system.size(path))
        return
    with open(tar.path, "rb", buffering=LOCAL_BLOCK) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise S2R2Error(f"{tar.path} is not a regular file")

        def read(offset: int, size: int) -> bytes:  # not mapped: a file that shrinks meanwhile would end the process
            file.seek(offset)
            return file.read(size)

        yield read, status.st_size


def _load(path: Path, stamp: Stamp) -> TarIndex | None:
    """The index that was kept, mapped into memory; None where there is none, or one that is damaged."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            content = file.read_buffer()
    except (OSError, pyarrow.ArrowException):
        return None
    if len(content) < CHECKSUM_BYTES or zlib.crc32(content[CHECKSUM_BYTES:]) != int.from_bytes(
        content[:CHECKSUM_BYTES]
    ):
        return None
    table = pyarrow.ipc.open_stream(content.slice(CHECKSUM_BYTES)).read_all().combine_chunks()
    columns = [table[name].chunk(0) if table.num_rows else table[name].combine_chunks() for name in _COLUMNS]
    names, offsets, sizes, labels = columns
    problems = [Skipped(*entry) for entry in json.loads(table.schema.metadata[b"problems"])]
    return TarIndex(from_arrow(names), offsets.to_numpy(), sizes.to_numpy(), labels, stamp, problems)


_COLUMNS = ("name", "offset", "size", "label")


def _keep(path: Path, index: TarIndex) -> None:
    import pyarrow

    make_folder(path.parent)
    columns = [pyarrow.array(list(index.names), pyarrow.large_string()), index.offsets, index.sizes, index.labels]
    problems = json.dumps([(problem.key, problem.reason) for problem in index.problems])
    table = pyarrow.table(dict(zip(_COLUMNS, columns, strict=True))).replace_schema_metadata({"problems": problems})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    with atomic_write(path) as file:
        file.write(zlib.crc32(content).to_bytes(CHECKSUM_BYTES))
        file.write(content)
