"""Where an image is: in a file or a part of one, at an address, or in memory."""

import os
import stat
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from s2r2.errors import UnreadableImage
from s2r2.images.remote import Stamp, is_remote, read_remote, remote_stamp
from s2r2.system.files import os_reason, stamp

MAX_FILE_BYTES = 2 << 30
"""Larger files are not read: the largest image that is allowed is smaller in every format."""


class FilePlace(NamedTuple):
    """A file, or ``size`` bytes of one from ``offset`` (-1: to its end), such as a member of a tar."""

    path: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The bytes. Pipes and devices, which would block for ever, are refused.

        Raises:
            UnreadableImage: It is gone, not a regular file, too large, may not be read, or ends too early.
        """
        try:
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(self.path, flags), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise UnreadableImage("not a regular file")
                size = status.st_size - self.offset if self.size < 0 else self.size
                if size > MAX_FILE_BYTES:
                    raise UnreadableImage(f"a file of {size / 1e9:.1f} GB")
                if self.offset + size > status.st_size:
                    raise UnreadableImage("the tar ends before the image does")
                file.seek(self.offset)
                return file.read(size) or b""
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UnreadableImage(os_reason(error)) from None

    def stamp(self) -> Stamp:
        """What changes when the whole file does.

        Raises:
            UnreadableImage: It is gone or cannot be looked at.
        """
        try:
            return stamp(self.path)
        except (OSError, ValueError) as error:
            raise UnreadableImage(os_reason(error)) from None


class RemotePlace(NamedTuple):
    """A file at an address, or ``size`` bytes of one from ``offset`` (-1: to its end)."""

    address: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UnreadableImage: It is gone, may not be read, ends too early, or the connection broke.
        """
        return read_remote(self.address, self.offset, self.size)

    def stamp(self) -> Stamp:
        """What changes when the whole file does.

        Raises:
            UnreadableImage: It is gone or cannot be asked for.
        """
        return remote_stamp(self.address)


@dataclass(frozen=True)
class ArrayPlace:
    """No file: the source has the pixels at hand."""


Place: TypeAlias = FilePlace | RemotePlace | ArrayPlace


def place_of(text: str, folder: str) -> FilePlace | RemotePlace:
    """What a path or an address stands for.

    Args:
        text: The path or address.
        folder: Where relative paths begin.
    """
    return RemotePlace(text) if is_remote(text) else FilePlace(os.path.join(folder, text))
