"""The pixel store: every image decoded once, then read from a memory map."""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.files import write_text
from s2r2.images.labels import Labels
from s2r2.images.sources import ImageSource, Skipped

STORE_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One line of the journal: an image that was decoded, or could not be.

    Attributes:
        key: The image's key in its source.
        stamp: What its file looked like.
        height: Rows, 0 for an image that could not be decoded.
        width: Columns.
        offset: Where its pixels begin in ``pixels.bin``.
        checksum: CRC-32 of its pixels.
        reason: Why it could not be decoded, else empty.
    """

    key: str
    stamp: tuple[int | str, ...]
    height: int = 0
    width: int = 0
    offset: int = 0
    checksum: int = 0
    reason: str = ""

    @property
    def size(self) -> int:
        """Bytes of the pixels."""
        return self.height * self.width * 3

    def to_line(self) -> str:
        """The journal's form."""
        fields = [self.key, list(self.stamp), self.height, self.width, self.offset, self.checksum, self.reason]
        text = json.dumps(fields, ensure_ascii=False)
        return f"{zlib.crc32(text.encode()):08x} {text}\n"

    @classmethod
    def from_line(cls, line: str) -> "Entry | None":
        """The entry of a line, or None when it is torn or damaged."""
        checksum, _, text = line.rstrip("\n").partition(" ")
        try:
            if int(checksum, 16) != zlib.crc32(text.encode()):
                return None
            key, stamp, *rest = json.loads(text)
        except ValueError:
            return None
        return cls(key, tuple(stamp), *rest)


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
        skipped: What was left out, and why.
        decoded: How many images this opening had to decode.
        fingerprint: Hash of keys and pixels' checksums: equal when the images are.
    """

    def __init__(
        self,
        source: ImageSource,
        path: Path,
        readable: list[tuple[int, Entry]],
        skipped: list[Skipped],
        decoded: int,
    ) -> None:
        indices = [index for index, _ in readable]
        entries = [entry for _, entry in readable]
        self.name = source.name
        self.path = path
        self.keys = [entry.key for entry in entries]
        self.locations = [source.location(index) for index in indices]
        self.sizes = np.array([(e.height, e.width) for e in entries], np.int32).reshape(-1, 2)
        self.image_ids = np.array([image_id(key) for key in self.keys], np.uint64)
        self.labels: Labels | None = source.labels.subset(indices) if source.labels is not None else None
        self.skipped = skipped
        self.decoded = decoded
        digest = hashlib.blake2b(digest_size=16)
        for entry in entries:
            digest.update(f"{entry.key}\0{entry.height}\0{entry.width}\0{entry.checksum}\n".encode())
        self.fingerprint = digest.hexdigest()
        self._entries = entries
        self._pixels = _map(path / "pixels.bin")

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
            workers: Threads that decode; by default one for each core.
            progress: Show a progress bar while decoding.

        Raises:
            S2R2Error: No image is readable, another process builds the same store, or the disk is too full.
        """
        from s2r2.images.building import bring_up_to_date

        place = store_path(source, short_side, folder)
        readable, skipped, decoded = bring_up_to_date(source, short_side, place, workers, progress)
        if not readable:
            first = f"; the first: {skipped[0].key}: {skipped[0].reason}" if skipped else ""
            raise S2R2Error(f"none of the {len(source)} images of {source.name} can be read{first}")
        return cls(source, place, readable, skipped, decoded)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        entry = self._entries[index]
        return self._pixels[entry.offset : entry.offset + entry.size].reshape(entry.height, entry.width, 3)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def verify(self) -> list[str]:
        """Keys of the images whose pixels on disk are not what was written."""
        pairs = zip(self, self._entries, strict=True)
        return [entry.key for pixels, entry in pairs if zlib.crc32(pixels.tobytes()) != entry.checksum]


def image_id(key: str) -> int:
    """64-bit hash of an image's key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def cache_folder() -> Path:
    """Where stores are kept: ``S2R2_CACHE``, or ``s2r2`` in the user's cache folder."""
    chosen = os.environ.get("S2R2_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "s2r2"


def store_path(source: ImageSource, short_side: int | None, folder: Path | None) -> Path:
    """Folder of a source's store: a readable name and a hash of what it is of."""
    identity = json.dumps([STORE_VERSION, source.identity, short_side])
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(source.name).stem)[:40] or "photos"
    name = f"{stem}-{short_side or 'full'}-{hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()}"
    return (folder or cache_folder() / "stores") / name


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk: of what, how large, last used when (seconds since 1970)."""

    path: Path
    name: str
    images: int
    size: int
    used: float


def list_stores(folder: Path | None = None) -> list[StoreInfo]:
    """The stores in a folder (by default the cache), the last used first."""
    found = []
    for description in (folder or cache_folder() / "stores").glob("*/store.json"):
        try:
            content = json.loads(description.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        size = sum(file.stat().st_size for file in description.parent.iterdir() if file.is_file())
        used = description.stat().st_mtime
        found.append(StoreInfo(description.parent, content["name"], content["images"], size, used))
    return sorted(found, key=lambda store: -store.used)


def clear_stores(folder: Path | None = None) -> int:
    """Delete the stores in a folder (by default the cache); returns the bytes set free."""
    freed = 0
    for store in list_stores(folder):
        shutil.rmtree(store.path, ignore_errors=True)
        freed += store.size
    return freed


def describe_store(path: Path, name: str, images: int) -> None:
    """Write ``store.json``; its time says when the store was last used."""
    write_text(
        path / "store.json", json.dumps({"version": STORE_VERSION, "name": name, "images": images, "at": time.time()})
    )


def _map(path: Path) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")
