"""Files at an address (``https://``, ``s3://``, ``gs://`` ...), read by ranges through fsspec."""

import os
from typing import Any

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.system.extras import require_extra

PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Kinds of addresses that are read; a stranger's table may not choose another: some of fsspec's start programs, log in
elsewhere or unpack archives. ``S2R2_PROTOCOLS`` adds some, as ``ftp,hdfs``."""

FILE = "file://"


def is_remote(place: str) -> bool:
    """Whether this is an address and no path; ``file://`` stands for a path."""
    return "://" in place and not place.startswith(FILE)


def local(place: str) -> str:
    """The path that a ``file://`` stands for; anything else as it is."""
    return place.removeprefix(FILE)


def _not_allowed(address: str) -> str | None:
    """The first of an address's protocols that is not allowed; fsspec chains them with ``::``."""
    more = os.environ.get("S2R2_PROTOCOLS", "").lower().replace(",", " ").split()
    named = (link.partition("://")[0].strip().lower() for link in address.split("::"))
    return next((name for name in named if name not in (*PROTOCOLS, *more)), None)


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        UnreadableImage: There can be no such address, or it is of a kind that is not allowed.
        S2R2Error: fsspec, or what it needs for this kind of address, is not installed.
    """
    if (other := _not_allowed(address)) is not None:
        raise UnreadableImage(
            f"addresses of the kind {other[:40]}:// are not read ({', '.join(PROTOCOLS)} are): set "
            f"S2R2_PROTOCOLS={other[:40]} if you trust whoever wrote it"
        )
    require_extra("remote", f"reading {address}")
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise S2R2Error(f"reading {address} needs another package ({error}): install it") from None
    except Exception as error:  # each kind of address has its own
        raise UnreadableImage(f"no such address: {reason(error)}") from None
    return system, path


def read_remote(address: str, offset: int = 0, size: int = -1) -> bytes:
    """``size`` bytes of a remote file from ``offset`` (-1: to its end).

    Raises:
        UnreadableImage: It is gone, may not be read, ends too early, or the connection broke.
    """
    system, path = file_system(address)
    try:
        content: bytes = system.cat_file(path, start=offset, end=None if size < 0 else offset + size)
    except Exception as error:  # each kind of address has its own
        raise UnreadableImage(reason(error)) from None
    if size >= 0 and len(content) != size:
        raise UnreadableImage("the tar ends before the image does")
    return content


def remote_stamp(address: str) -> tuple[int | str, ...]:
    """What changes when a remote file does: its size, and its time or tag where the server tells them.

    Raises:
        UnreadableImage: It is gone or cannot be asked for.
    """
    system, path = file_system(address)
    try:
        about = system.info(path)
        tags = (about.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "created", "md5Hash"))
        return (int(about.get("size") or -1), *(str(tag) for tag in tags if tag is not None))
    except Exception as error:
        raise UnreadableImage(reason(error)) from None


def reason(error: Exception) -> str:
    """An error of a file system in one line."""
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
