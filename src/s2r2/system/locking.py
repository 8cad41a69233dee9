"""One writer at a time: a lock of the operating system, which ends with its holder, and who holds it."""

import contextlib
import errno
import getpass
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.system.terminal import say

LOCK = ".lock"
_POLL = 0.1
_MOST_BYTES = 300
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no waiting pipe
_FAR = 1 << 30
"""Where Windows locks a byte: it forbids others to read what is locked."""


class HeldError(S2R2Error):
    """Another process holds the lock."""


def say_waiting(line: str) -> None:
    """Tell whoever waits for a lock, as ``waiting`` of :func:`locked`."""
    say(f"{line}: waiting until it has finished", error=True)


@contextlib.contextmanager
def locked(
    path: Path, doing: str, remedy: str, *, wait: float = 0.0, waiting: Callable[[str], object] | None = None
) -> Iterator[int]:
    """Hold the lock ``path``, a file that is there only as long as somebody holds it, or was killed.

    Args:
        path: The lock; its folder must exist.
        doing: What the holder does, such as ``training in runs/mine``.
        remedy: What whoever is refused can do.
        wait: Seconds to wait for it; ``math.inf`` is allowed.
        waiting: Called once with the line that says who holds it, when waiting begins.

    Yields:
        The descriptor: a child that inherits it holds the lock as well, also when this process is killed.

    Raises:
        HeldError: Another holds it, and how to go on.
        S2R2Error: There can be no such file.
    """
    until = time.monotonic() + wait
    while (descriptor := _take(path)) is None:
        line = f"another process ({_holder(path)}) is {doing}"
        if time.monotonic() >= until:
            raise HeldError(f"{line}: {remedy}")
        if waiting is not None:
            waiting(line)
            waiting = None
        time.sleep(_POLL)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _me().encode())
        yield descriptor
    finally:
        if os.name != "nt":  # there an open file stays
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """The locked file, open; None while another holds it."""
    try:
        descriptor = os.open(path, _OPEN, 0o666)
    except OSError as error:
        raise S2R2Error(f"cannot lock {path}: {error.strerror}") from error
    try:
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            raise S2R2Error(f"cannot lock {path}: it is not a regular file; remove it")
        _lock(descriptor, path)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(there, os.lstat(path)):  # not what its holder has just removed
                return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int, path: Path) -> None:
    """Lock an open file, or say that its disk knows no locks.

    Raises:
        BlockingIOError: Another holds it.
    """
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            except OSError as error:
                raise BlockingIOError from error
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise S2R2Error(f"cannot lock {path}: {error.strerror}") from error
        say(f"s2r2: the disk of {path} knows no locks: let no other process write there", error=True)


def _me() -> str:
    """This process, for others to read."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{os.getpid()} of {user} on {platform.node() or 'this machine'} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _holder(path: Path) -> str:
    """Who holds the lock, as far as the file says; it may be anybody's."""
    with contextlib.suppress(OSError), open(os.open(path, _OPEN & ~os.O_CREAT), "rb") as file:
        said = file.read(_MOST_BYTES).decode(errors="replace")
        return "".join(c for c in said if c.isprintable()) or "unknown"
    return "unknown"
