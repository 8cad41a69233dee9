"""The pixel store: every image decoded once, then read from a memory map."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.decoding.facts import PhotoFacts, checked
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.source import ImageSource
from s2r2.images.store.building import SUSPECT, Built, bring_up_to_date
from s2r2.images.store.cache import stores_folder
from s2r2.images.store.facts import look_up_facts
from s2r2.images.store.journal import Entry

STORE_VERSION = 2
NO_STORE = Path("none")
"""In place of a folder: do not make a store."""


class PixelStore:
    """Decoded images of a source, in a memory map that may be larger than memory.

    ``store[i]`` is image i as a read-only ``(H, W, 3)`` uint8 view. Build one with :meth:`build`.

    Attributes:
        name: The source's name.
        path: The store's folder.
        keys: Keys of the readable images, in the source's order.
        locations: Where a person finds each of them.
        sizes: ``(N, 2)`` int32 heights and widths.
        image_ids: ``(N,)`` uint64, a hash of each key: random views are drawn by it, so that they stay the same
            when other photos come and go.
        labels: Labels of the readable images, or None.
        folds: Predefined training subsets as positions in this store, where the data set has them.
        skipped: What was left out, and why.
        decoded: How many images this opening had to decode.
        fingerprint: Hash of keys and pixels' checksums: equal when the images are.
        former_fingerprint: The same as earlier versions made it, to go on with their runs.
    """

    def __init__(self, source: ImageSource, path: Path, built: Built) -> None:
        indices = [index for index, _ in built.readable]
        entries = [entry for _, entry in built.readable]
        self.name = source.name
        self.path = path
        self.keys = [entry.key for entry in entries]
        self.locations = [source.location(index) for index in indices]
        self.sizes = np.array([(e.height, e.width) for e in entries], np.int32).reshape(-1, 2)
        self.image_ids = np.array([image_id(key) for key in self.keys], np.uint64)
        self.labels: Labels | None = source.labels.subset(indices) if source.labels is not None else None
        self.folds = _positions(source.folds, indices)
        self.skipped = built.skipped
        self.decoded = built.decoded
        self.fingerprint = _hash_of(entries, "")
        self.former_fingerprint = _hash_of(entries, source.former_prefix)
        self._entries, self._source, self._indices = entries, source, indices
        # A plain array over the map: every slice of a memmap runs Python code of NumPy's.
        self._pixels = np.asarray(np.memmap(built.pixels, np.uint8, mode="r"))
        self._checked = np.zeros(len(entries), bool)

    @classmethod
    def build(
        cls,
        source: ImageSource,
        short_side: int | None,
        folder: Path | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> "PixelStore":
        """Open the store of a source, decoding what is new or changed since the last time.

        Args:
            source: The images.
            short_side: Larger images are reduced, antialiased, to this shorter side; None keeps their size.
            folder: Where stores are kept; by default the cache folder (``S2R2_CACHE``).
            workers: Processes that decode; by default one for each core.
            progress: Show a progress bar while decoding.

        Raises:
            S2R2Error: No image is readable, the store cannot be written or does not fit on the disk, or it may not be
                made (``none``).
        """
        if folder == NO_STORE:
            raise ArgumentError(
                "`store='none'` is only for training: here photos are decoded into a store; name its folder"
            )
        place = store_path(source, short_side, folder)
        built = bring_up_to_date(source, short_side, place, workers or os.cpu_count() or 1, progress)
        if not built.readable:
            skipped = built.skipped
            first = f"; the first: {skipped[0].key}: {skipped[0].reason}" if skipped else ""
            raise S2R2Error(f"none of the {len(source)} images of {source.name} can be read{first}")
        return cls(source, place, built)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        """Pixels of an image, checked against their checksum when they are first read.

        Raises:
            S2R2Error: They are not what was written: the disk or another program changed them.
        """
        entry = self._entries[index]
        flat = self._pixels[entry.offset : entry.end]
        if not self._checked[index]:
            if zlib.crc32(flat.data) != entry.checksum:
                self._suspect()
                raise S2R2Error(
                    f"the pixel store {self.path} is damaged at {entry.key}: run the command again, which checks every "
                    f"image of it and decodes the damaged ones anew"
                )
            self._checked[index] = True
        return flat.reshape(entry.height, entry.width, 3)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def facts(self) -> list[PhotoFacts]:
        """When, where and with what each photo was taken, as its file says; a file of which that is not kept is read.

        Raises:
            S2R2Error: Such a file is to be read, and no process can be started.
        """
        found = [checked(entry.facts) for entry in self._entries]
        unknown = [number for number, facts in enumerate(found) if facts is None]
        looked_up = look_up_facts(self._source, [self._indices[number] for number in unknown])
        later = dict(zip(unknown, looked_up, strict=True))
        return [later[number] if facts is None else facts for number, facts in enumerate(found)]

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns of the table that lists the images."""
        return self._source.columns

    def column(self, name: str) -> list[str]:
        """The cells of one of :attr:`columns`, one for each image."""
        cells = self._source.column(name)
        return [cells[index] for index in self._indices]

    def some(self, count: int) -> list[np.ndarray]:
        """Up to ``count`` images, taken evenly."""
        return [self[int(i)] for i in np.linspace(0, len(self) - 1, num=min(count, len(self)), dtype=int)]

    def verify(self) -> list[str]:
        """Keys of the images whose pixels on disk are not what was written; the next build decodes them anew."""
        damaged = [e.key for e in self._entries if zlib.crc32(self._pixels[e.offset : e.end].data) != e.checksum]
        if damaged:
            self._suspect()
        return damaged

    def _suspect(self) -> None:
        """Have the next build check every image."""
        with contextlib.suppress(OSError):
            (self.path / SUSPECT).touch()


def _hash_of(entries: Sequence[Entry], prefix: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for entry in entries:
        line = f"{prefix}{entry.key}\0{entry.height}\0{entry.width}\0{entry.checksum}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _positions(folds: Sequence[np.ndarray], indices: list[int]) -> list[np.ndarray]:
    """Folds given as numbers in the source, as positions among the readable images."""
    if not folds:
        return []
    position = np.full(max(indices) + 1, -1)
    position[indices] = np.arange(len(indices))
    return [found[found >= 0] for found in (position[fold[fold < len(position)]] for fold in folds)]


def image_id(key: str) -> int:
    """64-bit hash of an image's key."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def store_path(source: ImageSource, short_side: int | None, folder: Path | None) -> Path:
    """Folder of a source's store: a readable name and a hash of what it is of."""
    identity = json.dumps([STORE_VERSION, source.identity, short_side])
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(source.name).stem)[:40] or "photos"
    name = f"{stem}-{short_side or 'full'}-{hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()}"
    return stores_folder(folder) / name
