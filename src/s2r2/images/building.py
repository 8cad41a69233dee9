"""Building a pixel store: decode what is new, keep what is not, survive being killed."""

import contextlib
import fcntl
import os
import shutil
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from s2r2.errors import S2R2Error
from s2r2.images.decoding import UnreadableImage
from s2r2.images.sources import ImageSource, Skipped
from s2r2.images.store import Entry, describe_store

SYNC_EVERY = 64 << 20
"""Bytes of pixels after which they, and then the journal, are made durable."""
SPARE_DISK = 64 << 20
"""Bytes that a store leaves free on its disk."""


def bring_up_to_date(
    source: ImageSource, short_side: int | None, place: Path, workers: int | None, progress: bool
) -> tuple[list[tuple[int, Entry]], list[Skipped], int]:
    """Make the store in ``place`` hold the source's images as they are now.

    The journal (``index.jsonl``) gets a line for each image after its pixels were written, so that whatever it
    names is whole. A store that was killed while it was built keeps the lines that are; pixels without a line are
    overwritten. Images that have gone stay in the file until more than half of it is theirs; then it is rebuilt.

    Returns:
        Index and entry of each readable image, what was skipped, and how many images were decoded.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            known = _read_journal(place)
            stamps, skipped = _stamps(source)
            fresh = {key: e for key, e in known.items() if key in stamps and e.stamp == stamps[key][1]}
            used = sum(entry.size for entry in fresh.values())
            written = max((entry.offset + entry.size for entry in known.values()), default=0)
            if written > 2 * used + SYNC_EVERY:
                known, fresh, written = {}, {}, 0
                (place / "index.jsonl").unlink(missing_ok=True)
            missing = [(index, key, stamp) for key, (index, stamp) in stamps.items() if key not in fresh]
            if missing:
                writer = _Writer(place, source, short_side, written, workers, progress)
                fresh.update(writer.write(missing))
            if missing or len(fresh) != len(known) or not (place / "store.json").exists():
                describe_store(place, source.name, sum(not entry.reason for entry in fresh.values()))
            else:
                os.utime(place / "store.json")
    except OSError as error:
        raise S2R2Error(
            f"cannot write the pixel store {place}: {error.strerror or error}; choose another --store"
        ) from error
    in_order = [(index, fresh[key]) for key, (index, _) in stamps.items()]
    skipped += [Skipped(entry.key, entry.reason) for _, entry in in_order if entry.reason]
    return [(index, entry) for index, entry in in_order if not entry.reason], skipped, len(missing)


class _Writer:
    """Decodes on all cores and appends in the source's order, so that every undisturbed build gives the same bytes."""

    def __init__(
        self, place: Path, source: ImageSource, short_side: int | None, offset: int, workers: int | None, progress: bool
    ) -> None:
        self.place = place
        self.source = source
        self.short_side = short_side
        self.offset = offset
        self.workers = workers or os.cpu_count() or 1
        self.progress = progress

    def write(self, missing: list[tuple[int, str, tuple[int | str, ...]]]) -> dict[str, Entry]:
        """Decode and append images; returns their entries by key."""
        entries: dict[str, Entry] = {}
        with (
            open(self.place / "pixels.bin", "ab") as pixels,
            open(self.place / "index.jsonl", "a", encoding="utf-8") as journal,
        ):
            pixels.truncate(self.offset)
            pixels.seek(self.offset)
            pending: list[Entry] = []
            unsynced = 0
            for done, (key, stamp, array, reason) in enumerate(self._decoded(missing)):
                if array is None:
                    entry = Entry(key, stamp, reason=reason)
                else:
                    height, width = array.shape[:2]
                    entry = Entry(key, stamp, height, width, self.offset, zlib.crc32(array.data))
                    if done % 256 == 0:
                        self._refuse_full_disk(done, len(missing))
                    pixels.write(array.data)
                    self.offset += entry.size
                    unsynced += entry.size
                entries[key] = entry
                pending.append(entry)
                if unsynced >= SYNC_EVERY or len(pending) >= 4096:
                    self._commit(pixels, journal, pending)
                    unsynced = 0
            self._commit(pixels, journal, pending)
        return entries

    def _commit(self, pixels: IO[bytes], journal: IO[str], pending: list[Entry]) -> None:
        """Pixels first, then the lines that name them."""
        pixels.flush()
        os.fsync(pixels.fileno())
        journal.writelines(entry.to_line() for entry in pending)
        journal.flush()
        os.fsync(journal.fileno())
        pending.clear()

    def _decoded(
        self, missing: list[tuple[int, str, tuple[int | str, ...]]]
    ) -> Iterator[tuple[str, tuple[int | str, ...], np.ndarray | None, str]]:
        """Pixels or reasons in order, decoded by threads (Pillow lets go of the GIL), a few images ahead."""

        def decode_one(index: int) -> tuple[np.ndarray | None, str]:
            try:
                return np.ascontiguousarray(self.source.read(index, self.short_side)), ""
            except UnreadableImage as error:
                return None, error.reason

        bar = Progress(
            TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            disable=not (self.progress and sys.stdout.isatty()), transient=True,
        )  # fmt: skip
        with bar, ThreadPoolExecutor(self.workers, thread_name_prefix="s2r2-decode") as pool:
            task = bar.add_task("", total=len(missing))
            ahead = deque(
                ((key, stamp, pool.submit(decode_one, index)) for index, key, stamp in missing[: 4 * self.workers])
            )
            following = iter(missing[4 * self.workers :])
            try:
                while ahead:
                    key, stamp, future = ahead.popleft()
                    array, reason = future.result()
                    with contextlib.suppress(StopIteration):
                        index, next_key, next_stamp = next(following)
                        ahead.append((next_key, next_stamp, pool.submit(decode_one, index)))
                    bar.advance(task)
                    yield key, stamp, array, reason
            finally:
                for _, _, future in ahead:
                    future.cancel()

    def _refuse_full_disk(self, done: int, total: int) -> None:
        """Compare what is still to be written, from the images so far, with the space that there is."""
        if done == 0:
            return
        needed = int(self.offset / done * (total - done))
        free = shutil.disk_usage(self.place).free
        if needed + SPARE_DISK > free:
            raise S2R2Error(
                f"the pixel store needs about {needed / 1e9:.1f} GB more in {self.place}, {free / 1e9:.1f} GB are "
                f"free: free space, choose another --store, or use a smaller --image-size"
            )


def _stamps(source: ImageSource) -> tuple[dict[str, tuple[int, tuple[int | str, ...]]], list[Skipped]]:
    stamps: dict[str, tuple[int, tuple[int | str, ...]]] = {}
    skipped = list(source.problems)
    for index, key in enumerate(source.keys):
        try:
            stamps[key] = (index, source.stamp(index))
        except UnreadableImage as error:
            skipped.append(Skipped(key, error.reason))
    return stamps, skipped


def _read_journal(place: Path) -> dict[str, Entry]:
    """Entries whose pixels are there; a later line for the same key stands for a changed file."""
    path = place / "index.jsonl"
    if not path.exists():
        return {}
    pixels = place / "pixels.bin"
    available = pixels.stat().st_size if pixels.exists() else 0
    entries: dict[str, Entry] = {}
    whole = True
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        entry = Entry.from_line(line) if line.endswith("\n") else None
        if entry is None:
            whole = False
            continue
        if entry.offset + entry.size <= available:
            entries[entry.key] = entry
    if not whole:  # a torn last line must not swallow the next one
        from s2r2.files import write_text

        write_text(path, "".join(entry.to_line() for entry in entries.values()))
    return entries


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process builds a store; others wait for it."""
    with open(place / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
