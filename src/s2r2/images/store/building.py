"""Bringing a pixel store up to date: decode what is new, keep what is not, survive being killed.

A store is a folder: ``pixels-N.bin`` (the pixels of all images, appended), ``journal-N.jsonl`` (a line for each image,
appended after its pixels), ``store.json`` (written when a build has finished) and a lock. N counts the times that the
store was packed. Pixels without a line, left by a kill, are cut off; images are appended in the source's order, so a
build that was killed and gone on with leaves the bytes of one that was not.
"""

import json
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.decoder import max_pixels_allowed
from s2r2.images.decoding.formats import DECODER, readers
from s2r2.images.places import RemotePlace, Stamp
from s2r2.images.sources.names import ending
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import ImageSource
from s2r2.images.store.cache import DESCRIPTION, LOCK
from s2r2.images.store.journal import Entry, read_journal
from s2r2.images.store.writer import SPARE_DISK, Task, Writer
from s2r2.system.files import make_folder, remove_temporaries, sync_folder, why_not_written, write_bytes, write_text
from s2r2.system.locking import locked, say_waiting

SUSPECT = "suspect"
"""A file of this name says that a pixel was found changed: the next build checks all of them."""
CHANGED = frozenset((".tif", ".tiff", ".avif", ".avifs"))
"""Files of which decoders before the third made other pixels: turned twice, another page, colors that numbers name."""
PACK_BYTES = 64 << 20
"""A store is packed when more than this, and more than half of it, belongs to images that are gone or changed."""


class Built(NamedTuple):
    """A store that is up to date.

    Attributes:
        pixels: The file of pixels.
        readable: Index in the source and entry of each readable image, in the source's order.
        skipped: What was left out.
        decoded: How many images were decoded.
    """

    pixels: Path
    readable: list[tuple[int, Entry]]
    skipped: list[Skipped]
    decoded: int


def bring_up_to_date(source: ImageSource, short_side: int | None, place: Path, workers: int, progress: bool) -> Built:
    """Make the store in ``place`` hold the source's images as they are now.

    Raises:
        S2R2Error: The place cannot be written to, the disk is too full, or decoding processes cannot be started.
    """
    try:
        make_folder(place)
        show = say_waiting if progress else None
        with locked(
            place / LOCK, f"building the pixel store {place}", "wait until it has finished", wait=math.inf, waiting=show
        ):
            return _Build(source, short_side, place, workers, progress).run()
    except OSError as error:
        raise S2R2Error(
            f"cannot write the pixel store in {place}: {why_not_written(error)}choose another `store`"
        ) from error


class _Build:
    """One build of one store, with the lock held."""

    def __init__(self, source: ImageSource, short_side: int | None, place: Path, workers: int, progress: bool) -> None:
        self.source = source
        self.short_side = short_side
        self.place = place
        self.workers = workers
        self.progress = progress
        self.description = _read_description(place)
        self.generation = int(self.description.get("generation", 0))
        self.limits = {"max_pixels": max_pixels_allowed(), **readers()}

    @property
    def pixels(self) -> Path:
        """The file of pixels."""
        return self.place / f"pixels-{self.generation}.bin"

    @property
    def journal(self) -> Path:
        """The file of lines."""
        return self.place / f"journal-{self.generation}.jsonl"

    def run(self) -> Built:
        """Find out what is missing, decode it, and say what there is."""
        self._remove_leftovers()
        stamps, skipped = self._stamps()
        available = self.pixels.stat().st_size if self.pixels.exists() else 0
        journal = read_journal(self.journal, available, int(self.description.get("journal_bytes", 0)))
        known = self._proven(journal.entries, journal.unproven)
        current, tasks = self._compare(stamps, known)
        decoded = 0
        if tasks or available == 0:
            written = max((entry.end for entry in journal.entries.values()), default=0)
            writer = Writer(self.pixels, self.journal, written, journal.length)
            fresh = writer.write(self.source, tasks, self.short_side, self.workers, self.progress)
            current.update(fresh)
            decoded = writer.decoded
        in_order = [(index, current[key]) for key, (index, _) in stamps.items()]
        readable = [(index, entry) for index, entry in in_order if not entry.reason]
        packed = self._pack([entry for _, entry in in_order])
        if packed is not None:
            readable = [(index, packed[entry.key]) for index, entry in readable]
        self._describe(len(readable))
        skipped += [Skipped(entry.key, entry.reason) for _, entry in in_order if entry.reason]
        return Built(self.pixels, readable, skipped, decoded)

    def _stamps(self) -> tuple[dict[str, tuple[int, Stamp]], list[Skipped]]:
        """Index and stamp of each image that can be looked at, and those that cannot.

        Raises:
            S2R2Error: Two images have the same key.
        """
        stamps: dict[str, tuple[int, Stamp]] = {}
        skipped = list(self.source.problems)
        self.source.prepare_stamps(range(len(self.source)))
        for index, key in enumerate(self.source.keys):
            if key in stamps:
                raise S2R2Error(f"{self.source.name} has two images called {key}: give each a key of its own")
            try:
                stamps[key] = (index, self.source.stamp(index))
            except UnreadableImage as error:
                skipped.append(Skipped(key, error.reason))
        return stamps, skipped

    def _proven(self, entries: dict[str, Entry], unproven: set[str]) -> dict[str, Entry]:
        """The entries without those whose pixels are not what was written.

        Checked are the lines since the last finished build, which a power cut may have written without their
        pixels, and all of them once a changed pixel was found.
        """
        suspects = set(entries) if (self.place / SUSPECT).exists() else unproven
        if not suspects or not self.pixels.exists():
            return entries
        with open(self.pixels, "rb") as file:
            damaged = {key for key in suspects if not _intact(file, entries[key])}
        return {key: entry for key, entry in entries.items() if key not in damaged}

    def _compare(
        self, stamps: dict[str, tuple[int, Stamp]], known: dict[str, Entry]
    ) -> tuple[dict[str, Entry], list[Task]]:
        """Entries that hold, and what is to be done for the others."""
        same_limits = all(self.description.get(name) == value for name, value in self.limits.items())
        unfinished = not self.description
        current: dict[str, Entry] = {}
        tasks: list[Task] = []
        for key, (index, stamp) in stamps.items():
            entry = known.get(key)
            # What was refused under another limit, or by another decoder, may be readable now.
            if entry is not None and entry.reason and not (same_limits or unfinished):
                entry = None
            if entry is not None and int(self.description.get("decoder", DECODER)) < 3 and ending(key) in CHANGED:
                entry = None
            if entry is not None and entry.reason and not entry.content and self._is_remote(index):
                entry = None  # it was not even received: a connection broke
            if entry is not None and entry.stamp == stamp:
                current[key] = entry
            else:
                tasks.append(Task(index, key, stamp, entry))
        return current, tasks

    def _is_remote(self, index: int) -> bool:
        return isinstance(self.source.place(index), RemotePlace)

    def _pack(self, live: list[Entry]) -> dict[str, Entry] | None:
        """Copy the images that are left to a new file when most of the old one belongs to others."""
        needed = sum(entry.size for entry in live)
        total = self.pixels.stat().st_size
        if total - needed <= max(PACK_BYTES, needed) or shutil.disk_usage(self.place).free < needed + SPARE_DISK:
            return None
        old = self.pixels
        self.generation += 1
        packed: dict[str, Entry] = {}
        with open(old, "rb") as source, open(self.pixels, "wb") as target:
            for entry in live:
                source.seek(entry.offset)
                packed[entry.key] = entry._replace(offset=target.tell() if entry.size else 0)
                target.write(source.read(entry.size))
            target.flush()
            os.fsync(target.fileno())
        write_bytes(self.journal, b"".join(entry.line() for entry in packed.values()))
        return packed

    def _describe(self, images: int) -> None:
        """Note that the build has finished; the note's time says when the store was last used."""
        path = self.place / DESCRIPTION
        description = {
            "name": self.source.name,
            "images": images,
            "short_side": self.short_side,
            "generation": self.generation,
            "journal_bytes": self.journal.stat().st_size,
            **self.limits,
        }
        if description != self.description:
            sync_folder(self.place)
            write_text(path, json.dumps(description, indent=1) + "\n")
            self._remove_leftovers()
        else:
            os.utime(path)
        (self.place / SUSPECT).unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """What a kill left: half-written files, and those of another generation, when the store was packed."""
        packed = f"journal-{self.generation + 1}.jsonl"
        remove_temporaries(self.place, DESCRIPTION, self.journal.name, packed)
        for file in (*self.place.glob("pixels-*.bin"), *self.place.glob("journal-*.jsonl")):
            if file not in (self.pixels, self.journal):
                file.unlink()


def _intact(file: Any, entry: Entry) -> bool:
    file.seek(entry.offset)
    return zlib.crc32(file.read(entry.size)) == entry.checksum


def _read_description(place: Path) -> dict[str, Any]:
    try:
        content = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}
