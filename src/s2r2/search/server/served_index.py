"""An index as the page sees it: what it says about photos, reloaded when an update replaces it."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from s2r2.embedding_map import positions
from s2r2.errors import S2R2Error
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.search.duplicates.acting import script
from s2r2.search.duplicates.finding import ORIGINAL, Duplicates, Group, find_duplicates
from s2r2.search.duplicates.planning import plan
from s2r2.search.filtering import Filter, day
from s2r2.search.hit import iso
from s2r2.search.index import ImageIndex
from s2r2.search.storage.layout import DESCRIPTION, IndexGone
from s2r2.search.storage.stored_map import read_map
from s2r2.system.files import stamp
from s2r2.system.thumbnails import jpeg

LARGE_SIDE = 1280
_LOOK_AGAIN = 1.0
_NICER = 5
_LOADING = threading.Lock()
"""Held while an encoder loads, of whichever index: two threads that import torch at once can leave it half imported."""
Result = TypeVar("Result")


class Background:
    """One thread for heavy work. It gives way to the others, and ends with the process, whatever it is doing."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="s2r2-background").start()

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Have work done when all before it is."""
        future: Future[Result] = Future()
        self._waiting.put((future, work))
        return future

    def _work(self) -> None:
        if sys.platform == "linux":  # where each thread has a priority, which those and the processes it starts inherit
            os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICER))
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)


class LiveIndex:
    """An index on disk that updates may replace at any time.

    Args:
        folder: Of the index.
        backend: As in :meth:`ImageIndex.open`; if an update makes the index for another one, that is used.
    """

    def __init__(self, folder: str | Path, backend: str | None = None) -> None:
        self.folder = Path(folder)
        self._later_backend = "exact" if backend == "exact" else None
        self._background = Background()
        self._lock = threading.Lock()
        self._stamp = _stamp(self.folder)
        self._served = ServedIndex(ImageIndex.open(folder, backend=backend), self._background)
        self._looked = time.monotonic()

    @property
    def now(self) -> "ServedIndex":
        """What is on disk, checked once a second. An answer is made from one state of it.

        Raises:
            IndexGone: There is no index any more.
        """
        with self._lock:
            if time.monotonic() - self._looked > _LOOK_AGAIN:
                self._looked = time.monotonic()
                found = _stamp(self.folder)
                if found is not None and found != self._stamp:
                    # what is damaged or half written does not replace what is open
                    with contextlib.suppress(S2R2Error):
                        index = ImageIndex.open(self.folder, backend=self._later_backend)
                        self._served = ServedIndex(index, self._background)
                        self._served.warm_up()
                self._stamp = found
            if self._stamp is None:
                raise IndexGone(f"the index {self.folder.name} is gone; once it is made again, it is shown again")
            return self._served


class ServedIndex:
    """One state of an index.

    Args:
        index: The open index.
        background: Where long work (map, duplicates) is done.
    """

    def __init__(self, index: ImageIndex, background: Background) -> None:
        self.index = index
        self._background = background
        self._lock = threading.Lock()
        self._work: dict[str, Future[Any]] = {}
        self._map: np.ndarray | None = None
        self.thumbnail = lru_cache(2048)(index.thumbnail)

    def warm_up(self) -> None:
        """Have a decoder started, the encoder loaded and the vectors read from disk before the first photo comes."""
        index = self.index

        def work() -> None:
            with contextlib.suppress(UnreadableImage):
                decode_expendable(b"no photo")  # from here, so that decoding, too, gives way to answers
            index.nearest(self.embed(np.zeros((64, 64, 3), np.uint8)), 1)

        self._background.submit(work)

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded; until then uploads and parts wait, photos of the index do not."""
        return "encoder" in vars(self.index)

    def _load(self) -> None:
        with _LOADING:  # once, whoever asks first
            self.index.encoder  # noqa: B018 (kept)

    @property
    def side(self) -> int:
        """Short side in pixels to which photos are reduced for the encoder, which is loaded for it."""
        self._load()
        return self.index.side

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """Vector ``(D,)`` of a picture ``(H, W, 3)`` uint8."""
        self._load()
        return self.index.embed(picture)

    def about(self) -> dict[str, Any]:
        """What the page says of the index."""
        about = self.index.about
        return {
            "name": self.index.folder.name,
            "encoder": about.encoder,
            "fingerprint": about.fingerprint,
            "data": os.path.basename(about.data.rstrip("/")),
            "photos": about.photos,
            "dimensions": about.dimensions,
            "skipped": about.skipped,
            "ready": self.ready,
            "updated": about.updated,
            "backend": self.index.backend_name,
            "no_words": self.index.words.why_not,
        }

    def folders(self) -> list[dict[str, Any]]:
        """Folders with the number of photos in and below each."""
        names, codes = self.index.catalogue.folders
        counts: Counter[str] = Counter()
        for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
            parts = name.split("/")
            for depth in range(len(parts)):
                counts["/".join(parts[: depth + 1])] += count
        return [{"name": name, "photos": counts[name]} for name in sorted(counts) if name]

    def labels(self) -> list[dict[str, Any]]:
        """Labels with the number of photos that have each."""
        names, codes = self.index.catalogue.labels
        counts: Counter[str] = Counter()
        for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
            counts.update(dict.fromkeys(set(name.split(";")), count))
        return [{"name": name, "photos": counts[name]} for name in sorted(counts) if name]

    def describe(self, row: int) -> dict[str, Any]:
        """What the page needs to show a photo."""
        table = self.index.catalogue.table
        cell = {name: table[name][row].as_py() for name in ("id", "key", "label", "content", "taken")}
        return {
            "id": f"{cell['id']:016x}",
            "version": cell["content"][:8],
            "key": cell["key"],
            "labels": [label for label in cell["label"].split(";") if label],
            "taken": iso(cell["taken"]),
        }

    def details(self, row: int) -> dict[str, Any]:
        """All that is told of one photo."""
        table = self.index.catalogue.table
        cell = {name: table[name][row].as_py() for name in ("bytes", "modified", "camera", "width", "height")}
        cell["location"] = self.index.location(row)
        return self.describe(row) | cell

    def cameras(self) -> list[dict[str, Any]]:
        """Cameras with the number of photos of each."""
        names, codes = self.index.catalogue.cameras
        counts = dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))
        return [{"name": name, "photos": counts[name]} for name in sorted(counts) if name]

    def ranges(self) -> dict[str, list[Any] | None]:
        """The first and the last day on which a photo was taken, and the fewest and the most megapixels of one."""
        catalogue = self.index.catalogue
        taken, megapixels = (_ends(values) for values in (catalogue.taken, catalogue.megapixels))
        return {
            "taken": taken and [day(value).isoformat() for value in taken],
            "megapixels": megapixels,
        }

    def photos(self, where: Filter, offset: int, limit: int) -> dict[str, Any]:
        """Some photos in the order of their keys."""
        catalogue = self.index.catalogue
        rows = catalogue.by_key
        mask = where.mask(catalogue)
        if mask is not None:
            rows = rows[mask[rows]]
        return {"total": len(rows), "photos": [self.describe(int(row)) for row in rows[offset : offset + limit]]}

    def hits(
        self,
        more: Sequence[np.ndarray],
        less: Sequence[np.ndarray],
        k: int,
        where: Filter,
        leave_out: Sequence[int] = (),
    ) -> list[dict[str, Any]]:
        """The ranking of the photos for vectors to be like and to be less like, without some rows."""
        mask = where.mask(self.index.catalogue)
        rows, scores = self.index.nearest_to(more, less, k, mask, leave_out)
        found = zip(rows.tolist(), scores.tolist(), strict=True)
        return [
            self.describe(row) | {"rank": rank, "score": round(score, 6)}
            for rank, (row, score) in enumerate(found, start=1)
        ]

    def large(self, row: int) -> tuple[bytes, bool]:
        """A photo of at most 1280 pixels a side, and whether it is its file, not the thumbnail in the index.

        It is re-encoded: none of the file's metadata leaves the machine.
        """
        pixels, is_file = self.index.picture_or_thumbnail(row, LARGE_SIDE)
        image = Image.fromarray(pixels)
        image.thumbnail((LARGE_SIDE, LARGE_SIDE))
        return jpeg(image, quality=88), is_file

    def map(self) -> np.ndarray | None:
        """Place of each photo on the map, ``(N, 2)``; None while it is being made, for an index without one."""
        if self._map is None:
            self._map = read_map(self.index.folder, self.index.about)
        return self._map if self._map is not None else self._worked_out("map", lambda: positions(self.index.vectors))

    def duplicates(self, threshold: float | None) -> Duplicates | None:
        """Groups of copies; None while they are being looked for."""
        return self._worked_out(f"duplicates {threshold}", lambda: find_duplicates(self.index, threshold))

    def group(self, group: Group) -> dict[str, Any]:
        """What the page needs to show a group of copies."""
        return {
            "photos": [
                self.describe(row) | {"kinds": [ORIGINAL] if row == group.original else group.kinds[row]}
                for row in group.rows
            ]
        }

    def removing_script(self, threshold: float | None, keep: str) -> bytes | None:
        """A script that removes copies, as of the index and the files now; None while it is being made."""
        found = self.duplicates(threshold)
        if found is None:
            return None
        return self._worked_out(f"script {threshold} {keep}", lambda: script(self.index, plan(self.index, found, keep)))

    def _worked_out(self, name: str, work: Callable[[], Result]) -> Result | None:
        """The result of long work that is done once, beside the answering of requests; None until it is there."""
        with self._lock:
            if name not in self._work:
                if len(self._work) > 16:  # thresholds come from the page: do not keep them for ever
                    for key in [key for key in self._work if key != "map"]:
                        self._work.pop(key).cancel()
                self._work[name] = self._background.submit(work)
            future = self._work[name]
            if not future.done():
                return None
            if future.exception() is not None:  # the next one to ask may have more luck
                del self._work[name]
        return future.result()


def _ends(values: np.ndarray) -> list[float] | None:
    """The smallest and the largest of the values that are known."""
    known = values[~np.isnan(values)]
    return [float(known.min()), float(known.max())] if len(known) else None


def _stamp(folder: Path) -> tuple[int, ...] | None:
    try:
        return stamp(folder / DESCRIPTION)
    except OSError:
        return None
