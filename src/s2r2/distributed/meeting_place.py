"""The folder in which processes of one machine meet: this user's only, and gone when they are, even after a kill."""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.system.files import try_lock

PREFIX = "s2r2-"
HELD = "held"
"""A file that is locked as long as the launcher lives."""
_OURS = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
_LOGS = "[0-9a-f]*_*/attempt_*/*"
"""Folders that torchrun makes for its logs."""


@contextlib.contextmanager
def meeting_place() -> Iterator[Path]:
    """A temporary folder that only this user may look into.

    Raises:
        S2R2Error: There is no place for one.
    """
    try:
        _remove_abandoned(Path(tempfile.gettempdir()))
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)  # mode 0700
        held = Path(folder.name, HELD)
        held.touch()
    except OSError as error:
        raise S2R2Error(f"several processes need a folder for temporary files ({error}): set TMPDIR to one") from error
    lock = try_lock(held)
    try:
        with folder as path:
            yield Path(path)
    finally:
        if lock is not None:
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of launchers that were killed: what is in them by name, and then what is empty."""
    for folder in parent.iterdir():
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(folder.name) and _is_private(folder) and (lock := try_lock(folder / HELD)) is not None:
                try:
                    _remove(folder)
                finally:
                    os.close(lock)


def _is_private(folder: Path) -> bool:
    """Whether it is a folder, and no link to one, of this user's, which nobody else may look into."""
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _remove(folder: Path) -> None:
    for name in ("processes-*", f"{_LOGS}/error.json", f"{_LOGS}/std*.log"):
        for file in folder.glob(name):
            file.unlink()
    for logs in folder.glob(_LOGS):
        for made in (logs, logs.parent, logs.parent.parent):
            if not any(made.iterdir()):
                made.rmdir()
    if {entry.name for entry in folder.iterdir()} == {HELD}:
        (folder / HELD).unlink()
        folder.rmdir()
