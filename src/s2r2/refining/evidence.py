"""What people said of the photos of an index: marks of the page, or labels."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.refining.learning import Judged
from s2r2.search import ImageIndex, read_marks
from s2r2.system.files import os_reason
from s2r2.system.terminal import csv_plain
from s2r2.system.wording import amount

OF_THE_INDEX = "index"
LEAST_GROUPS = 4
LEAST_QUERIES = 12


def judged_by_marks(index: ImageIndex) -> list[Judged]:
    """For each query that has right marks: the query and its right photos as one group, its wrong photos by themselves.

    Marks for a part of a photo are left out, as are those of photos that are not in the index any more.

    Raises:
        S2R2Error: The marks cannot be read, or there are too few.
    """
    found = []
    for asked, marks in read_marks(index.folder).items():
        query = index.catalogue.row_of_key(asked.key)
        if asked.part or query is None:
            continue
        rows = {row: mark.right for key, mark in marks.items() if (row := index.catalogue.row_of_key(key)) is not None}
        rows.pop(query, None)
        right = [row for row, is_right in rows.items() if is_right]
        wrong = [row for row, is_right in rows.items() if not is_right]
        if right and wrong:
            groups = [0] * (1 + len(right)) + list(range(1, 1 + len(wrong)))
            found.append(Judged(np.array([query, *right, *wrong]), np.array(groups)))
    queries = sum(int(part.queries.sum()) for part in found)
    if len(found) < LEAST_GROUPS or queries < LEAST_QUERIES:
        raise ArgumentError(
            f"too few marks in {index.folder}: {amount(len(found), 'query', 'queries')} with right and wrong ones, and "
            f"{amount(queries, 'photo')} that are right together; mark results of at least {LEAST_GROUPS} queries with "
            f"s2r2 serve, {LEAST_QUERIES} such photos in all, or give `labels`"
        )
    return found


def judged_by_labels(index: ImageIndex, labels: str | Path) -> list[Judged]:
    """All labeled photos: those with one label are right for each other, all others are wrong.

    Args:
        index: The index.
        labels: A CSV with the columns ``photo`` (its key) and ``label``, or ``"index"`` for the labels in the index.

    Raises:
        S2R2Error: The file cannot be read, names a photo twice, or there are too few labels.
    """
    if str(labels) == OF_THE_INDEX:
        named = dict(enumerate(index.catalogue.table["label"].to_pylist()))
        what = f"the labels in {index.folder}"
    else:
        named = _read_labels(index, Path(labels))
        what = str(labels)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, label in named.items():
        if label and ";" not in label:
            rows_of[label].append(row)
    rows_of = {label: rows for label, rows in rows_of.items() if len(rows) > 1}
    photos = sum(map(len, rows_of.values()))
    if len(rows_of) < LEAST_GROUPS or photos < LEAST_QUERIES:
        raise ArgumentError(
            f"too few labels: {what} give {len(rows_of)} labels to two photos or more, {photos} photos in all; label "
            f"at least {LEAST_QUERIES} photos of the index, with one label each, of {LEAST_GROUPS} kinds"
        )
    groups = np.repeat(np.arange(len(rows_of)), [len(rows) for rows in rows_of.values()])
    return [Judged(np.concatenate([np.array(rows) for rows in rows_of.values()]), groups)]


def _read_labels(index: ImageIndex, path: Path) -> dict[int, str]:
    named: dict[int, str] = {}
    for where, photo, label in _lines(path):
        row = index.catalogue.row_of_key(csv_plain(photo))
        if row is None:
            raise S2R2Error(f"{where}: {photo} is no photo of {index.folder}; remove the line")
        if named.setdefault(row, csv_plain(label)) != csv_plain(label):
            raise S2R2Error(f"{where}: {photo} has another label in a line before; keep one of them")
    return named


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where each line of a table of labels stands, its photo and its label."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = os_reason(error) if isinstance(error, OSError) else error
        raise S2R2Error(f"cannot read {path} ({why}): give a CSV with the columns photo and label") from error
    columns = reader.fieldnames or []
    photo = next((name for name in ("photo", "path") if name in columns), None)  # path: as a manifest has it
    if photo is None or "label" not in columns:
        raise S2R2Error(f"{path}, line 1, lacks photo or label: give a CSV with the columns photo and label")
    for number, line in lines:
        if line[photo] is None or line["label"] is None:
            raise S2R2Error(f"{path}, line {number}, ends too early: give it a photo and a label")
        yield f"{path}, line {number}", line[photo], line["label"]
