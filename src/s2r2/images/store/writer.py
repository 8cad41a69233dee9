"""Decoding and appending images to a pixel store, in the source's order."""

import contextlib
import os
import shutil
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.decoder import max_pixels_allowed
from s2r2.images.decoding.pool import shared_pool
from s2r2.images.decoding.protocol import DECODED, SIZE, UNCHANGED, UNREADABLE, Answer, Job, Settings
from s2r2.images.places import ArrayPlace, FilePlace, RemotePlace, Stamp
from s2r2.images.remote import AT_ONCE
from s2r2.images.sources.source import ImageSource
from s2r2.images.store.journal import Entry
from s2r2.system.files import NO_ROOM, why_not_written
from s2r2.system.prefetch import in_order
from s2r2.system.progress import ProgressLine

COMMIT_IMAGES = 256
COMMIT_BYTES = 16 << 20
"""Pixels are handed to the system, and then their lines, after so many: what a kill can cost."""
SPARE_DISK = 64 << 20
"""Bytes that a store leaves free on its disk."""
SAMPLE = 256
"""Images whose headers are read to estimate a store's size."""


@dataclass(frozen=True)
class Task:
    """An image to bring up to date: its place, key and stamp in the source, and what the store knows of it."""

    index: int
    key: str
    stamp: Stamp
    known: Entry | None


class Writer:
    """Appends to a store's two files.

    Args:
        pixels: The file of pixels.
        journal: The file of lines.
        pixels_end: Bytes of the first that count; what follows was left by a kill.
        journal_end: Bytes of the second that count.
    """

    def __init__(self, pixels: Path, journal: Path, pixels_end: int, journal_end: int) -> None:
        self.pixels = pixels
        self.journal = journal
        self.pixels_end = pixels_end
        self.journal_end = journal_end
        self.decoded = 0

    def write(
        self, source: ImageSource, tasks: Sequence[Task], short_side: int | None, workers: int, progress: bool
    ) -> dict[str, Entry]:
        """Decode and append; returns the entries by key.

        Raises:
            S2R2Error: The images will not fit, or did not.
        """
        settings = Settings(short_side, max_pixels_allowed(), facts=True)
        entries: dict[str, Entry] = {}
        lines: list[bytes] = []
        with open(self.pixels, "ab") as pixels, open(self.journal, "ab") as journal:
            pixels.truncate(self.pixels_end)
            journal.truncate(self.journal_end)
            _refuse_if_too_large(source, tasks, settings, workers, self.pixels.parent)
            uncommitted = 0
            answers = _answers(source, tasks, settings, workers)
            try:
                with contextlib.closing(answers), ProgressLine("decoding", len(tasks), visible=progress) as line:
                    for task, answer in zip(tasks, answers, strict=True):
                        entry = self._entry(task, answer)
                        pixels.write(answer.payload if answer.status == DECODED else b"")
                        entries[task.key] = entry
                        lines.append(entry.line())
                        uncommitted += entry.size
                        if uncommitted >= COMMIT_BYTES or len(lines) >= COMMIT_IMAGES:
                            pixels.flush()
                            journal.write(b"".join(lines))
                            journal.flush()
                            line.advance(len(lines))
                            lines, uncommitted = [], 0
                pixels.flush()
                os.fsync(pixels.fileno())
                journal.write(b"".join(lines))
                journal.flush()
                os.fsync(journal.fileno())
            except OSError as error:
                self._discard(pixels, journal)
                raise _full(error, self.pixels.parent, len(entries), len(tasks)) from error
        return entries

    def _entry(self, task: Task, answer: Answer) -> Entry:
        """The journal's entry for an answer; one whose file has not changed keeps its pixels."""
        if answer.status == UNCHANGED and task.known is not None:
            return task.known._replace(stamp=task.stamp)
        self.decoded += 1
        if answer.status == UNREADABLE:
            return Entry(task.key, task.stamp, answer.content_checksum, reason=answer.reason)
        offset = self.pixels_end
        self.pixels_end += len(answer.payload)
        pixels = (answer.height, answer.width, offset, answer.pixel_checksum)
        return Entry(task.key, task.stamp, answer.content_checksum, *pixels, facts=answer.facts)

    @staticmethod
    def _discard(*files: object) -> None:
        """Close files on a full disk without trying again to write what they hold."""
        for file in files:
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[attr-defined]


def _answers(
    source: ImageSource, tasks: Sequence[Task], settings: Settings, workers: int
) -> Generator[Answer, None, None]:
    """Answers in the order of the tasks: files from the pool, the others read in this process.

    What is at addresses is asked for ahead, several at a time.
    """
    jobs: list[Job | None] = []
    remote = []
    for task in tasks:
        place = source.place(task.index)
        # An entry without pixels that was refused for want of time or memory is tried again when it is touched.
        checksum = task.known.content if task.known is not None else 0
        jobs.append(Job(*place, checksum or -1) if isinstance(place, FilePlace) else None)
        remote.append(isinstance(place, RemotePlace))
    files = shared_pool().run([job for job in jobs if job is not None], settings, workers)
    fetched = in_order(
        lambda task: _read(source, task.index, settings),
        [task for task, is_remote in zip(tasks, remote, strict=True) if is_remote],
        threads=AT_ONCE if any(remote) else 0,
        ahead=2 * AT_ONCE,
        size=lambda answer: len(answer.payload),
        name="s2r2-fetch",
    )
    try:
        for task, job, is_remote in zip(tasks, jobs, remote, strict=True):
            yield next(files) if job else next(fetched) if is_remote else _read(source, task.index, settings)
    finally:
        files.close()  # type: ignore[attr-defined]
        fetched.close()


def _read(source: ImageSource, index: int, settings: Settings) -> Answer:
    """What is at an address, fetched here and decoded by a worker; an array's pixels as if one had decoded them."""
    try:
        place = source.place(index)
        if isinstance(place, RemotePlace):
            return shared_pool().one(Job("", content=place.read()), settings)
        pixels = np.ascontiguousarray(source.read(index, settings.short_side))
    except UnreadableImage as error:
        return Answer(UNREADABLE, 0, 0, 0, 0, error.reason.encode("utf-8", "backslashreplace"))
    flat = pixels.reshape(-1).data
    return Answer(DECODED, pixels.shape[0], pixels.shape[1], 0, zlib.crc32(flat), flat)


def _refuse_if_too_large(
    source: ImageSource, tasks: Sequence[Task], settings: Settings, workers: int, place: Path
) -> None:
    """Estimate the bytes from the headers of some of the images, and compare them with the disk's free ones.

    Those at addresses are taken to be like the others: they are not fetched twice.
    """
    short_side = settings.short_side
    chosen = [tasks[i] for i in np.unique(np.linspace(0, len(tasks) - 1, min(SAMPLE, len(tasks)), dtype=int))]
    free = shutil.disk_usage(place).free
    places = [(task, source.place(task.index)) for task in chosen]
    total = sum(_array_bytes(source, task, short_side) for task, place in places if isinstance(place, ArrayPlace))
    jobs = [Job(*place, kind="size") for _, place in places if isinstance(place, FilePlace)]
    # Without reduction even few images can be large; reduced, a store this small fits wherever anything does.
    most = 3 * short_side * short_side * 4 * len(tasks) if short_side is not None else None
    if jobs and (most is None or most + SPARE_DISK > free):
        total += sum(3 * a.height * a.width for a in shared_pool().run(jobs, settings, workers) if a.status == SIZE)
    looked_at = sum(not isinstance(place, RemotePlace) for _, place in places)
    needed = total * len(tasks) // max(1, looked_at)
    if needed + SPARE_DISK > free and needed:
        raise S2R2Error(
            f"the pixel store needs about {_size(needed)} in {place}, {_size(free)} are free: free space, choose "
            "another `store`, or use smaller images (`image_size`)"
        )


def _array_bytes(source: ImageSource, task: Task, short_side: int | None) -> int:
    try:
        return int(np.prod(source.read(task.index, short_side).shape))
    except UnreadableImage:  # it is listed when its turn comes
        return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _full(error: OSError, place: Path, done: int, total: int) -> S2R2Error:
    if error.errno in NO_ROOM:
        why = f"the disk is full after {done:,} of {total:,} images: free space and run again; it continues from there"
    else:
        why = f"{why_not_written(error)}choose another `store`"
    return S2R2Error(f"cannot write the pixel store in {place}: {why}")
