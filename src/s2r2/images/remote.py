"""Files at an address (``https://``, ``s3://``, ``gs://`` ...), read by ranges through fsspec."""

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.system.extras import require_extra

Stamp: TypeAlias = tuple[int | str, ...]
"""What changes when an image does, found without reading it."""

PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Kinds of addresses that are read; a stranger's table may not choose another: some of fsspec's start programs, log in
elsewhere or unpack archives. ``S2R2_PROTOCOLS`` adds some, as ``ftp,hdfs``."""

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs"} | dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs")
"""What fsspec needs for stores that have no extra."""

FILE = "file://"

AT_ONCE = 16
"""Requests that wait for answers at the same time."""

_WEB = ("http", "https")
"""Photos on the web are on many servers, each of which may be gone for good; all others are in one store."""
_CONNECTION = frozenset(
    (
        *("ConnectionError", "TimeoutError", "gaierror", "HTTPClientError", "ClientConnectionError"),
        *("ClientPayloadError", "ServiceRequestError"),
    )
)
_CREDENTIALS = frozenset(
    (
        *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"),
        *("TokenRetrievalError", "ClientAuthenticationError", "DefaultCredentialsError", "RefreshError"),
    )
)
_KEYS = frozenset(
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
)
"""Errors by the names of their classes, since each package has its own, and by S3's codes."""


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
    require_extra("s3" if protocol(address) in ("s3", "s3a") else "remote", f"reading {without_query(address)}")
    import fsspec

    if (log := logging.getLogger("gcsfs")).level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)  # it prints the traceback of what it raises, too
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(protocol(address))
        if package is None:
            raise S2R2Error(f"reading {without_query(address)} needs another package ({error}): install it") from None
        raise S2R2Error(f"reading {without_query(address)} needs {package}: pip install {package}") from None
    except Exception as error:  # each kind of address has its own
        raise UnreadableImage(f"no such address: {reason(error)}") from None
    return system, path


def protocol(address: str) -> str:
    """What stands before ``://``."""
    return address.partition("://")[0].strip().lower()


def server_of(address: str) -> str:
    """The bucket or web server that an address is at, with its protocol."""
    return "/".join(address.split("/")[:3])


def read_remote(address: str, offset: int = 0, size: int = -1) -> bytes:
    """``size`` bytes of a remote file from ``offset`` (-1: to its end).

    Raises:
        UnreadableImage: It is gone, may not be read, ends too early, or the connection broke.
    """
    system, path = file_system(address)
    try:
        content: bytes = system.cat_file(path, start=offset, end=None if size < 0 else offset + size)
    except Exception as error:  # each kind of address has its own
        refuse_going_on(address, error)
        raise UnreadableImage(reason(error)) from None
    if size >= 0 and len(content) != size:
        raise UnreadableImage("the tar ends before the image does")
    return content


def remote_stamp(address: str) -> Stamp:
    """What changes when a remote file does: its size, and its time or tag where the server tells them.

    Raises:
        UnreadableImage: It is gone or cannot be asked for.
        S2R2Error: As :func:`refuse_going_on`.
    """
    system, path = file_system(address)
    try:
        return stamp_of(system.info(path))
    except Exception as error:
        refuse_going_on(address, error)
        raise UnreadableImage(reason(error)) from None


def stamp_of(about: Mapping[str, Any]) -> Stamp:
    """The stamp of a file that a file system describes."""
    tags = (about.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "created", "md5Hash"))
    return (int(about.get("size") or -1), *(_in_seconds(tag) for tag in tags if tag is not None))


def _in_seconds(tag: Any) -> str:
    """A tag, or a time in whole seconds: some stores list fractions, and leave them out where one file is asked for."""
    return str(tag.replace(microsecond=0) if isinstance(tag, datetime) else tag)


def files_below(address: str) -> dict[str, Stamp]:
    """Name, as seen from a folder, and stamp of each file below it, as the store lists them now.

    A folder that is not there has none. A file has itself, under the empty name.

    Raises:
        S2R2Error: It cannot be listed.
    """
    try:
        system, path = file_system(address)
        path = path.rstrip("/")
        system.invalidate_cache()
        found = system.find(path, detail=True)
    except UnreadableImage as error:
        raise S2R2Error(f"cannot list {address}: {error.reason}") from None
    except S2R2Error:
        raise
    except Exception as error:  # each kind of address has its own
        if isinstance(error, FileNotFoundError) and "bucket" not in str(error):
            return {}
        refuse_going_on(address, error)
        if isinstance(error, PermissionError):
            raise _no_access(address, error) from None
        raise S2R2Error(f"cannot list {address}: {reason(error)}") from None
    return {name[len(path) :].lstrip("/"): stamp_of(about) for name, about in found.items()}


def refuse_going_on(address: str, error: Exception) -> None:
    """Stop where an error is one of the whole store, so that it does not look as if every photo in it were damaged.

    A package for a store has tried several times before it gives up. Web servers are not meant: they come and go.

    Raises:
        S2R2Error: The store cannot be reached, or lets nobody in.
    """
    if protocol(address) in _WEB:
        return
    names = {kind.__name__ for kind in type(error).__mro__}
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    answer: Mapping[str, Any] = response if isinstance(response, Mapping) else {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if names & _CONNECTION or status >= 500:
        raise S2R2Error(
            f"cannot reach {without_query(address)} ({reason(error)}): check the network and the server (for s3 "
            f"AWS_ENDPOINT_URL), then run the command again"
        ) from None
    if names & _CREDENTIALS or answer.get("Error", {}).get("Code") in _KEYS:
        raise _no_access(address, error) from None


def _no_access(address: str, error: Exception) -> S2R2Error:
    if protocol(address) not in ("s3", "s3a"):
        return S2R2Error(f"no access to {without_query(address)} ({reason(error)})")
    return S2R2Error(
        f"no access to {without_query(address)} ({reason(error)}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        f"FSSPEC_S3_ANON=true if it is open to all"
    )


def without_query(address: str) -> str:
    """An address without its query, which may hold a signature, and is no part of the file's name."""
    return address.partition("?")[0]


def reason(error: Exception) -> str:
    """An error of a file system in one line."""
    if isinstance(error, FileNotFoundError) and "bucket does not exist" not in str(error):
        return "No such file or directory"
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
