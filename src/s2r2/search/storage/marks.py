"""What people said of search results: which photos are right for a query, and which are wrong, in ``marks.csv``.

One line a mark: the query's key, the part of it that was searched for (empty for the whole photo), the marked photo's
key, ``right`` or ``wrong``, and when. Marks of photos that have left the index stay in the file.
"""

import csv
import io
import re
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from s2r2.errors import S2R2Error
from s2r2.search.storage.layout import MARKS, MARKS_LOCK
from s2r2.system.files import stamp, write_bytes
from s2r2.system.locking import locked
from s2r2.system.terminal import csv_plain, csv_safe

HEADER = ("query", "part", "photo", "mark", "time")
MOST_MARKS = 20_000
MOST_BYTES = 8 << 20
A_SECOND, AT_ONCE = 10.0, 60
"""So many marks a second are taken for long, and so many at once after a pause."""
_WAIT = 5.0
_PART = re.compile(r"(?:[01]\.\d{4}(?:,[01]\.\d{4}){3})?")


class Asked(NamedTuple):
    """A query as marks name it.

    Attributes:
        key: Of the photo.
        part: ``left,top,width,height`` in parts of its sides, with four decimals each, or empty for all of it.
    """

    key: str
    part: str = ""


class Mark(NamedTuple):
    """What was said of a result, and when (ISO 8601)."""

    right: bool
    time: str


class TooManyMarks(S2R2Error):
    """Marks come faster than a person makes them, or there is no room for more."""


Marks = dict[Asked, dict[str, Mark]]


def read_marks(folder: str | Path) -> Marks:
    """The marks in the folder of an index, by query and by the key of the marked photo; none where there is no file.

    Raises:
        S2R2Error: The file cannot be read, or a line of it is no mark.
    """
    path = Path(folder) / MARKS
    try:
        if path.stat().st_size > MOST_BYTES:
            raise S2R2Error(f"{path} is larger than {MOST_BYTES >> 20} MB: remove lines, or move it away")
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise S2R2Error(f"cannot read {path} ({error}): correct it, or move it away") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    marks: Marks = {}
    try:
        for cells in reader:
            if reader.line_num == 1 and tuple(cells) == HEADER:
                continue
            query, part, photo, mark, when = cells
            if mark not in ("right", "wrong") or not _PART.fullmatch(part):
                raise ValueError(mark)
            marks.setdefault(Asked(csv_plain(query), part), {})[csv_plain(photo)] = Mark(mark == "right", when)
    except (ValueError, csv.Error) as error:
        columns = ",".join(HEADER)
        raise S2R2Error(
            f"{path}, line {reader.line_num}, is no mark: make it {columns} with right or wrong as mark, or remove it"
        ) from error
    return marks


class MarkBook:
    """The marks of an index, for a server: reads them, and writes each change at once.

    The file is replaced as a whole, so a kill leaves the marks before or after a change. Other servers of the same
    index may write too: each change is made to what the file then holds.

    Args:
        folder: Of the index.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._marks: Marks = {}
        self._left, self._counted = float(AT_ONCE), time.monotonic()

    def of(self, asked: Asked) -> dict[str, bool]:
        """Whether each photo that was marked for a query is right, by key.

        Raises:
            S2R2Error: The file cannot be read, or a line of it is no mark.
        """
        with self._lock:
            return {photo: mark.right for photo, mark in self._read().get(asked, {}).items()}

    def set(self, asked: Asked, photo: str, right: bool | None) -> None:
        """Keep a mark; None takes it back.

        Raises:
            TooManyMarks: They come too fast, or there is no room for more.
            S2R2Error: The file cannot be read or written.
        """
        with self._lock:
            self._count()
            doing = f"writing {MARKS} of {self._folder.name}"
            with locked(self._folder / MARKS_LOCK, doing, "mark it again", wait=_WAIT):
                marks = {query: dict(found) for query, found in self._read().items()}
                of_query = marks.setdefault(asked, {})
                if right is None:
                    of_query.pop(photo, None)
                else:
                    of_query[photo] = Mark(right, datetime.now().astimezone().isoformat(timespec="seconds"))
                write_bytes(self._folder / MARKS, _as_csv(marks))
                self._marks, self._stamp = marks, self._stamped()

    def _count(self) -> None:
        now = time.monotonic()
        self._left = min(AT_ONCE, self._left + A_SECOND * (now - self._counted))
        self._counted = now
        if self._left < 1:
            raise TooManyMarks("marks come faster than they are kept: wait a second")
        self._left -= 1

    def _read(self) -> Marks:
        found = self._stamped()
        if found != self._stamp or found is None:
            self._marks, self._stamp = read_marks(self._folder), found
        return self._marks

    def _stamped(self) -> tuple[int, ...] | None:
        try:
            return stamp(self._folder / MARKS)
        except OSError:
            return None


def _as_csv(marks: Marks) -> bytes:
    """The file's content.

    Raises:
        TooManyMarks: There is no room for that many.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for asked, found in marks.items():
        for photo, mark in found.items():
            kind = "right" if mark.right else "wrong"
            writer.writerow((csv_safe(asked.key), asked.part, csv_safe(photo), kind, mark.time))
    content = out.getvalue().encode()
    if sum(map(len, marks.values())) > MOST_MARKS or len(content) > MOST_BYTES:
        raise TooManyMarks(f"{MARKS} of this index is full: take some marks back, or move the file away")
    return content
