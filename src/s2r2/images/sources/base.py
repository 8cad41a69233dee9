"""Where images come from: a folder, a manifest, a tar read in place, arrays, or several of these."""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from s2r2.images.decoding.decoder import UnreadableImage
from s2r2.images.decoding.pool import decode_expendable
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable as printable
from s2r2.images.sources.remote import is_remote, read_remote, remote_stamp
from s2r2.images.sources.text_sequence import chosen, joined
from s2r2.system.files import stamp

Stamp: TypeAlias = tuple[int | str, ...]

MAX_FILE_BYTES = 2 << 30
"""Larger files are not read: the largest image that is allowed is smaller in every format."""


class Slice(NamedTuple):
    """Where an image's bytes are: a file, or ``size`` bytes of one from ``offset`` (-1: to its end)."""

    path: str
    offset: int = 0
    size: int = -1


@dataclass(frozen=True)
class Skipped:
    """An image or folder that was left out: where, and why."""

    key: str
    reason: str


class ImageSource(ABC):
    """A sequence of images with a stable key each.

    Attributes:
        name: What to call it.
        keys: Unique name of each image inside the source, in the source's order.
        labels: What is known of the images, or None.
        problems: What could not even be listed, such as folders without read permission.
        folds: Predefined training subsets, as numbers of images, where the data set has them.
        parts: Numbers of the images of each part that a table names, such as train and test.
        former_prefix: What each key began with in earlier versions, and does not any more.
        identity: What tells this source from others, from any folder: its pixel store is found again by it.
    """

    folds: Sequence[np.ndarray] = ()
    parts: Mapping[str, np.ndarray] = MappingProxyType({})
    former_prefix: str = ""

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        labels: Labels | None,
        problems: Sequence[Skipped] = (),
        *,
        identity: str | None = None,
    ) -> None:
        self.name = name
        self.identity = name if identity is None else identity
        self.keys = keys
        self.labels = labels
        self.problems = list(problems)

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Pixels of one image, ``(H, W, 3)`` uint8, reduced to ``short_side`` if that is less.

        Raises:
            UnreadableImage: It cannot be decoded; the exception says why.
        """

    @abstractmethod
    def stamp(self, index: int) -> Stamp:
        """What changes when the image does, found without reading it.

        Raises:
            UnreadableImage: The file is gone or cannot be looked at.
        """

    def slice(self, index: int) -> Slice | None:
        """Where the image's file is, for those who decode it elsewhere; None when the pixels are at hand."""
        return None

    def content(self, index: int) -> bytes | None:
        """The image's file; None when the pixels are at hand.

        Raises:
            UnreadableImage: It cannot be read.
        """
        where = self.slice(index)
        return None if where is None else read_slice(where)

    def location(self, index: int) -> str:
        """Where a person finds the image."""
        return f"{self.name}::{self.keys[index]}"

    @property
    def fingerprint(self) -> str:
        """Hash of all keys: equal when the same images are listed. Their pixels are not looked at."""
        return self._hash_of_keys("")

    @property
    def former_fingerprint(self) -> str:
        """The same as earlier versions made it, to go on with their runs."""
        return self._hash_of_keys(self.former_prefix)

    def _hash_of_keys(self, prefix: str) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key in self.keys:
            digest.update(f"{prefix}{printable(key)}\n".encode())
        return digest.hexdigest()


class FileSource(ImageSource):
    """Image files on disk, or at addresses.

    Args:
        name: What to call it.
        keys: Unique name of each image.
        paths: As a person would write them; relative ones are found from any folder the program goes to later.
        labels: What is known of the images, or None.
        problems: What could not even be listed.
        former_prefix: What each key began with in earlier versions, and does not any more.
        identity: What tells this source from others.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        paths: Sequence[str],
        labels: Labels | None,
        problems: Sequence[Skipped] = (),
        *,
        identity: str,
    ) -> None:
        super().__init__(name, keys, labels, problems, identity=identity)
        self.paths = paths
        self._here = os.path.abspath("")

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Decode the file."""
        where = self.slice(index)
        return decode_expendable(read_remote(self.paths[index]) if where is None else where, short_side=short_side)

    def slice(self, index: int) -> Slice | None:
        """The whole file; None for an address."""
        path = self.paths[index]
        return None if is_remote(path) else Slice(os.path.join(self._here, path))

    def content(self, index: int) -> bytes | None:
        """The whole file."""
        where = self.slice(index)
        return read_remote(self.paths[index]) if where is None else read_slice(where)

    def stamp(self, index: int) -> Stamp:
        """The file's, or the address's."""
        where = self.slice(index)
        if where is None:
            found = remote_stamp(self.paths[index])
            if isinstance(found[0], int) and found[0] > MAX_FILE_BYTES:
                raise UnreadableImage(f"a file of {found[0] / 1e9:.1f} GB")
            return found
        try:
            return stamp(where.path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UnreadableImage(os_reason(error)) from None

    def location(self, index: int) -> str:
        """The path."""
        return printable(self.paths[index])


class ArraySource(ImageSource):
    """Images in memory or in a memory map.

    Args:
        name: What to call it; its pixel store is found again by it.
        images: ``(N, H, W)`` or ``(N, H, W, 3)`` uint8.
        labels: What is known of the images, or None.
        keys: Unique name of each image; by default its number.
        stamp: What changes when the images do; by default a hash of each.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Labels | None,
        keys: Sequence[str] | None = None,
        stamp: Stamp | None = None,
    ) -> None:
        super().__init__(name, keys or [f"{i:06d}" for i in range(len(images))], labels)
        self.images = images
        self._stamp = stamp

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """The pixels."""
        image = self.images[index]
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image

    def stamp(self, index: int) -> Stamp:
        """The given one, or a hash of the pixels."""
        if self._stamp is not None:
            return self._stamp
        return (hashlib.blake2b(self.images[index].tobytes(), digest_size=8).hexdigest(),)


class PartSource(ImageSource):
    """Some of another source's images."""

    def __init__(self, whole: ImageSource, part: str) -> None:
        numbers = whole.parts[part]
        labels = whole.labels.subset(numbers) if whole.labels is not None else None
        name, identity = f"{whole.name}:{part}", f"{whole.identity}:{part}"
        super().__init__(name, chosen(whole.keys, numbers), labels, whole.problems, identity=identity)
        self.whole = whole
        self.former_prefix = whole.former_prefix
        self.chosen = numbers

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Read from the whole."""
        return self.whole.read(int(self.chosen[index]), short_side)

    def stamp(self, index: int) -> Stamp:
        """The stamp in the whole."""
        return self.whole.stamp(int(self.chosen[index]))

    def slice(self, index: int) -> Slice | None:
        """Where the image is in the whole."""
        return self.whole.slice(int(self.chosen[index]))

    def content(self, index: int) -> bytes | None:
        """The file in the whole."""
        return self.whole.content(int(self.chosen[index]))

    def location(self, index: int) -> str:
        """The location in the whole."""
        return self.whole.location(int(self.chosen[index]))


class JoinedSource(ImageSource):
    """Several sources one after another; their labels are joined by name."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        keys = joined([f"{i}-{Path(s.name).name}/" for i, s in enumerate(sources)], [s.keys for s in sources])
        labels = Labels.join([(s.labels, len(s)) for s in sources])
        identity = "\n".join(source.identity for source in sources)
        super().__init__(" + ".join(s.name for s in sources), keys, labels, identity=identity)
        self.sources = list(sources)
        self.problems = [problem for source in sources for problem in source.problems]
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Read from the source that the image belongs to."""
        source, inner = self._find(index)
        return source.read(inner, short_side)

    def stamp(self, index: int) -> Stamp:
        """The stamp of the source that the image belongs to."""
        source, inner = self._find(index)
        return source.stamp(inner)

    def slice(self, index: int) -> Slice | None:
        """Where the image is, if it is a file."""
        source, inner = self._find(index)
        return source.slice(inner)

    def content(self, index: int) -> bytes | None:
        """The file, from the source that the image belongs to."""
        source, inner = self._find(index)
        return source.content(inner)

    def location(self, index: int) -> str:
        """The location in the source that the image belongs to."""
        source, inner = self._find(index)
        return source.location(inner)

    def _find(self, index: int) -> tuple[ImageSource, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[which], index - int(self._starts[which])


def read_slice(where: Slice) -> bytes:
    """The bytes of an image. Pipes and devices, which would block for ever, are refused.

    Raises:
        UnreadableImage: It is gone, not a regular file, too large, may not be read, or ends too early.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(where.path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("not a regular file")
            size = status.st_size - where.offset if where.size < 0 else where.size
            if size > MAX_FILE_BYTES:
                raise UnreadableImage(f"a file of {size / 1e9:.1f} GB")
            if where.offset + size > status.st_size:
                raise UnreadableImage("the tar ends before the image does")
            file.seek(where.offset)
            content = file.read(size) or b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableImage(os_reason(error)) from None
    return content


def os_reason(error: Exception) -> str:
    """An operating system's error in its own words, without number and path."""
    return getattr(error, "strerror", None) or str(error)
