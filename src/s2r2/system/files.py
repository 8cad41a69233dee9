"""Writing files so that a crash leaves the old one or the new one, never a torn one; and checksums that tell."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from s2r2.errors import ArgumentError, S2R2Error

NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UMASK = os.umask(0o077)  # reading the mask means setting it; done once, at import
os.umask(_UMASK)
_PIECE = 16 << 20
_LONGEST_NAME = 200  # bytes; file systems take 255, and a file being written has a longer name
_FILE_MODE = 0o666 & ~_UMASK  # what open() would have given; mkstemp gives 0600


def os_reason(error: Exception) -> str:
    """An operating system's error in its own words, without number and path."""
    return getattr(error, "strerror", None) or str(error)


def why_not_written(error: OSError | str, link: str = "or") -> str:
    """Why nothing could be written, and what removes that cause where it is known: to be said before other advice.

    Args:
        error: The operating system's error, or the words of a library that quotes it.
        link: The word before the other advice.
    """
    if isinstance(error, str):
        said, codes = error, {code for code in NO_ROOM | _NO_RIGHT if os.strerror(code) in error}
    else:
        said, codes = os_reason(error), {error.errno}
    if codes & NO_ROOM:
        return f"{said}; free space {link} "
    return f"{said}; make it writable {link} " if codes & _NO_RIGHT else f"{said}; "


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable (fsync of the directory itself)."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks sync no folders
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for good: what is synced in it cannot be lost with its name.

    Raises:
        OSError: It cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        with contextlib.suppress(PermissionError):  # one may write to a folder, yet not read it
            sync_folder(made.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file that another library has written durable."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def checksum(content: str | Path | memoryview) -> str:
    """A checksum of a file or of bytes in memory: CRC-32 of pieces of 16 MiB, some GB a second, several at once.

    It tells damage, such as a flipped bit, a lost end or a page of zeros; it is no proof against forgers.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(content, memoryview):
        size = content.nbytes

        def piece(start: int) -> bytes:
            return zlib.crc32(content[start : start + _PIECE]).to_bytes(4, "big")

    else:
        size = os.stat(content).st_size

        def piece(start: int) -> bytes:
            with open(content, "rb", buffering=0) as file:
                file.seek(start)
                return zlib.crc32(file.read(_PIECE) or b"").to_bytes(4, "big")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # starts no thread before it has work
        starts = range(0, size, _PIECE)
        parts = list((pool.map if size > _PIECE else map)(piece, starts))
    return hashlib.blake2b(b"".join(parts) + str(size).encode(), digest_size=16).hexdigest()


def stamp(path: str | Path) -> tuple[int, int, int, int]:
    """What changes when a file does, found without reading it: size, times of content and of status (ns), inode.

    Size and time of content alone may be equal after a change: tools set times back, and disks round them. The time of
    status cannot be set, and a file put in another's place has another inode. What differs here need not have changed:
    the contents decide.

    Raises:
        OSError: It is gone or cannot be looked at.
        ValueError: The path has a NUL in it.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and put it in place when the block ends without an error.

    Temporary file in the same folder, fsync of the file, ``os.replace``, fsync of the folder: after a
    crash at any moment ``path`` holds either its old or its new content. The temporary file is locked as long as it is
    written: one that is not was left by a process that was killed, and the next writer of ``path`` removes it.

    Args:
        path: The file to write.
        mode: ``"wb"`` or ``"w"`` (UTF-8; bytes of a file name that are none become escapes).

    Yields:
        The open temporary file.

    Raises:
        S2R2Error: The disk is full or the folder cannot be written to.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    temporary, lock = None, None
    _refuse_devices(path)
    try:
        _remove_abandoned(path)
        descriptor, temporary, lock = _temporary_beside(path)
        with os.fdopen(descriptor, mode, encoding=encoding, errors=encoding and "backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _FILE_MODE)
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise S2R2Error(
                f"cannot write {path}: there is no folder {path.parent}; make it, or choose another"
            ) from None
        raise S2R2Error(f"cannot write {path}: {why_not_written(error)}choose another folder") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if lock is not None:
            os.close(lock)


def _refuse_devices(path: Path) -> None:
    """Refuse ``/dev/null`` and the like: putting a file in its place would take it from all programs."""
    with contextlib.suppress(OSError):
        if (path.exists() and not path.is_file()) or path.parent.samefile("/dev"):
            raise S2R2Error(f"cannot write {path}: it is no regular file; choose another name")


def refuse_overwriting(out: Path, inputs: Iterable[str | Path], argument: str = "out") -> None:
    """Refuse to write a result over what it is made from.

    Args:
        out: The file to be written.
        inputs: Files that are read.
        argument: What the file to be written is called in Python.

    Raises:
        ArgumentError: It is one of them.
    """
    if os.path.lexists(out) and os.path.realpath(out) in map(os.path.realpath, inputs):
        raise ArgumentError(f"`{argument}={out}` is read by this command, and would be lost: choose another name")


def _temporary_beside(path: Path) -> tuple[int, str, int | None]:
    """A new file to be written, its name, and its lock; no lock where the disk has none."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        lock = try_lock(name)
        if lock is None or os.path.exists(name):
            return descriptor, name, lock
        for closed in (descriptor, lock):  # another writer took it for abandoned before it was locked
            os.close(closed)


def _remove_abandoned(path: Path) -> None:
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")
    with contextlib.suppress(OSError):  # a folder that one may write to, yet not read
        for entry in os.scandir(path.parent):
            if name.fullmatch(entry.name) and (lock := try_lock(entry.path)) is not None:
                os.unlink(entry.path)
                os.close(lock)


def try_lock(path: str | Path) -> int | None:
    """Lock a file, unless another holds it, it is no ordinary one, or the system or its disk has no such locks.

    Returns:
        A descriptor; the lock ends when it is closed, or with the process.
    """
    if os.name == "nt":  # an open file could not be renamed
        return None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def lock_until_closed(file: IO[bytes]) -> None:
    """Wait until no other process holds the file; without a lock where the system or its disk has none."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def remove_temporaries(folder: Path, *names: str) -> None:
    """Remove what :func:`atomic_write` of files that are not written again left at a kill; only for the one writer."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            name, _, random = entry.name[1:].removesuffix(".tmp").rpartition(".")
            if name in names and entry.name == f".{name}.{random}.tmp":
                entry.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically (see :func:`atomic_write`)."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically as UTF-8 (see :func:`atomic_write`)."""
    with atomic_write(path, "w") as file:
        file.write(content)


def fitting_name(name: str) -> str:
    """The name of a file, if it is so long that a file system might not take it cut, with a hash of all of it."""
    text = name.encode(errors="replace")
    if len(text) <= _LONGEST_NAME:
        return name
    return f"{text[: _LONGEST_NAME - 13].decode(errors='ignore')}-{hashlib.sha256(text).hexdigest()[:12]}"


def private_folder(name: str) -> Path | None:
    """A folder of this user's among the temporary ones, which nobody else can write to; None where it is not so."""
    if not hasattr(os, "getuid"):
        return None
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None
