"""A table at an address, copied to the cache folder: it is read by the row, and mapped."""

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.remote import file_system, reason, refuse_going_on, remote_stamp, without_query
from s2r2.images.sources.kept import UNUSED_DAYS, clear_kept
from s2r2.system.cache_folder import cache_folder
from s2r2.system.files import atomic_write, make_folder, why_not_written

BLOCK = 16 << 20


def copied(address: str) -> Path:
    """The copy of a table, made anew if the table has changed; the one before is removed.

    Raises:
        S2R2Error: It cannot be read, or there is no room for it.
    """
    name = without_query(address)
    try:
        stamp = remote_stamp(address)
    except UnreadableImage as error:
        raise S2R2Error(f"cannot read {name}: {error.reason}") from None
    folder = cache_folder() / "tables" / _digest(name)
    copy = folder / f"{_digest(repr(stamp))}{PurePosixPath(name).suffix.lower()}"
    if copy.exists():
        with suppress(OSError):
            os.utime(copy)  # when it was last used
        return copy
    try:
        make_folder(folder)
        before = [other for other in folder.iterdir() if not other.name.startswith(".")]
        with atomic_write(copy) as file:
            _fetch(address, file)
    except OSError as error:
        raise S2R2Error(
            f"cannot copy {name} to {folder}: {why_not_written(error)}set S2R2_CACHE to another folder"
        ) from None
    for other in before:
        with suppress(OSError):
            other.unlink()
    clear_kept(UNUSED_DAYS)
    return copy


def _fetch(address: str, file: IO[Any]) -> None:
    try:
        system, path = file_system(address)
        with system.open(path, "rb", block_size=BLOCK, cache_type="readahead") as table:
            shutil.copyfileobj(table, file, BLOCK)
    except S2R2Error:
        raise
    except Exception as error:  # each kind of address has its own
        refuse_going_on(address, error)
        raise S2R2Error(f"cannot read {without_query(address)}: {reason(error)}") from None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
