"""What a source of images is, and the two plain ones: files and arrays."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.pool import decode_expendable
from s2r2.images.places import MAX_FILE_BYTES, ArrayPlace, FilePlace, Place, RemotePlace, Stamp, place_of
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.skipped import Skipped
from s2r2.system.files import refuse_overwriting


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
        columns: Names, in small letters, of the columns of the table that lists the images.
        tables: The table that lists the images, if one does; those of all sources that were joined.
        fingerprints: :attr:`fingerprint` (``""``), and that of each part, where they are known without looking.
    """

    columns: Sequence[str] = ()
    tables: Sequence[Path] = ()
    folds: Sequence[np.ndarray] = ()
    parts: Mapping[str, np.ndarray] = MappingProxyType({})
    former_prefix: str = ""
    fingerprints: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        labels: Labels | None,
        problems: Sequence[Skipped] = (),
        *,
        identity: str,
    ) -> None:
        self.name = name
        self.identity = identity
        self.keys = keys
        self.labels = labels
        self.problems = list(problems)

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Pixels of one image, ``(H, W, 3)`` uint8, reduced to ``short_side`` if it is larger.

        Raises:
            UnreadableImage: It cannot be decoded; the exception says why.
        """

    @abstractmethod
    def stamp(self, index: int) -> Stamp:
        """What changes when the image does, found without reading it.

        Raises:
            UnreadableImage: The file is gone or cannot be looked at.
        """

    def prepare_stamps(self, indices: Sequence[int]) -> None:  # noqa: B027 (nothing, where each is quick to find)
        """Say whose stamps are asked for next, once each: a source far away finds many of them at once."""

    def place(self, index: int) -> Place:
        """Where the image is, for those who read or decode it elsewhere."""
        return ArrayPlace()

    def content(self, index: int) -> bytes | None:
        """The image's file; None for one that is in memory.

        Raises:
            UnreadableImage: It cannot be read.
        """
        place = self.place(index)
        return None if isinstance(place, ArrayPlace) else place.read()

    def column(self, name: str) -> list[str]:
        """The cells of one of :attr:`columns`, one for each image.

        Raises:
            S2R2Error: The table cannot be read any more.
        """
        raise KeyError(name)

    def location(self, index: int) -> str:
        """Where a person finds the image."""
        return f"{self.name}::{self.keys[index]}"

    def refuse_overwriting(self, out: Path, argument: str = "out") -> None:
        """Refuse to write a result over an image, the archive that it is in, or the table that lists it.

        Args:
            out: The file to be written.
            argument: What it is called in Python.

        Raises:
            ArgumentError: There is such an image, or it is the table.
        """
        if os.path.lexists(out):
            places = (self.place(index) for index in range(len(self)))
            files = (place.path for place in places if isinstance(place, FilePlace))
            names = (out.name, os.path.basename(os.path.realpath(out)))
            named = {file for file in files if os.path.basename(file) in names}  # looks at few files on disk
            refuse_overwriting(out, [*named, *self.tables], argument)

    @property
    def fingerprint(self) -> str:
        """Hash of all keys: equal when the same images are listed. Their pixels are not looked at."""
        return self.fingerprints.get("") or self._hash_of_keys("")

    @property
    def former_fingerprint(self) -> str:
        """The same as earlier versions made it, to go on with their runs."""
        return self._hash_of_keys(self.former_prefix) if self.former_prefix else self.fingerprint

    def _hash_of_keys(self, prefix: str) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key in self.keys:
            digest.update(f"{prefix}{printable(key)}\n".encode())
        return digest.hexdigest()


class PlacedSource(ImageSource):
    """Images in files, in parts of files or at addresses: :meth:`place` says where, and the rest follows from it."""

    @abstractmethod
    def place(self, index: int) -> FilePlace | RemotePlace:
        """Where the image is."""

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Decode the image."""
        place = self.place(index)
        return decode_expendable(place.read() if isinstance(place, RemotePlace) else place, short_side=short_side)


class FileSource(PlacedSource):
    """Image files on disk, or at addresses.

    Attributes:
        prepared: Stamps that were found together; each is given once, and asked for again after that.

    Args:
        name: What to call it.
        keys: Unique name of each image.
        paths: As a person would write them; relative ones are found from any folder the program goes to later.
        labels: What is known of the images, or None.
        problems: What could not even be listed.
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
        self.prepared: dict[int, Stamp] = {}
        self._here = os.path.abspath("")

    def place(self, index: int) -> FilePlace | RemotePlace:
        """The whole file."""
        return place_of(self.paths[index], self._here)

    def stamp(self, index: int) -> Stamp:
        """The file's, or the address's."""
        place = self.place(index)
        found = self.prepared.pop(index, None) or place.stamp()
        if isinstance(place, RemotePlace) and isinstance(found[0], int) and found[0] > MAX_FILE_BYTES:
            raise UnreadableImage(f"a file of {found[0] / 1e9:.1f} GB")
        return found

    def location(self, index: int) -> str:
        """The path."""
        return printable(self.paths[index])


class ArraySource(ImageSource):
    """Images in memory or in a memory map.

    Args:
        name: What to call it.
        images: ``(N, H, W)`` or ``(N, H, W, 3)`` uint8.
        labels: What is known of the images, or None.
        keys: Unique name of each image; by default its number.
        stamp: What changes when the images do; by default a hash of each.
        identity: What tells this source from others: its pixel store is found again by it. By default the name.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Labels | None,
        keys: Sequence[str] | None = None,
        stamp: Stamp | None = None,
        *,
        identity: str | None = None,
    ) -> None:
        super().__init__(name, keys or [f"{i:06d}" for i in range(len(images))], labels, identity=identity or name)
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
