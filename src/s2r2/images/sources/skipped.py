"""What was left out, and why: ``skipped.csv``, a table of ``image`` and ``reason``."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2r2.images.sources.names import printable
from s2r2.system.files import atomic_write
from s2r2.system.terminal import csv_plain, csv_safe

HEADER = ("image", "reason")


@dataclass(frozen=True)
class Skipped:
    """An image or folder that was left out: where, and why."""

    key: str
    reason: str

    def line(self) -> str:
        """Its line in ``skipped.csv``; a spreadsheet runs none of it."""
        return _line(csv_safe(printable(self.key)), csv_safe(printable(self.reason)))


def write_skipped(path: str | Path, skipped: Sequence[Skipped]) -> None:
    """Write ``skipped.csv`` anew."""
    with atomic_write(path, "w") as file:
        file.write(_line(*HEADER))
        file.writelines(entry.line() for entry in skipped)


def read_skipped(content: bytes) -> list[Skipped]:
    """The entries of ``skipped.csv``, or of a part of it that begins with a line."""
    rows = csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline=""))
    return [Skipped(csv_plain(row[0]), csv_plain(row[1])) for row in rows if len(row) == 2 and tuple(row) != HEADER]


def _line(*cells: str) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
