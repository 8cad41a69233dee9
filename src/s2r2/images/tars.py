"""One tar, read in place: its images, labelled by a table inside it, by a file beside each, or by folder."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.files import stamp
from s2r2.images.decoding import EXTENSIONS
from s2r2.images.labels import Labels
from s2r2.images.pool import decode_expendable
from s2r2.images.sources import ImageSource, Skipped, Slice, Stamp, folder_labels
from s2r2.images.tar_index import Member, read_contents


class TarSource(ImageSource):
    """Members of an uncompressed tar, read in place by offset."""

    def __init__(
        self,
        path: Path,
        keys: Sequence[str],
        members: Sequence[Member],
        labels: Labels | None,
        problems: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(path.name, keys, labels, problems)
        self.path = path
        self.members = members
        self._stamp = stamp(path)

    @property
    def identity(self) -> str:
        """The tar's place."""
        return os.path.abspath(self.path)

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Decode the member."""
        return decode_expendable(self.slice(index), short_side=short_side)

    def slice(self, index: int) -> Slice:
        """The member's part of the tar."""
        member = self.members[index]
        return Slice(str(self.path), member.offset, member.size)

    def stamp(self, index: int) -> Stamp:
        """Place and size of the member, and the tar's own stamp."""
        return (*self.members[index][1:], *self._stamp)

    def location(self, index: int) -> str:
        """Path of the tar and name of the member."""
        return f"{self.path}::{self.members[index].name}"


def open_tar(path: Path) -> ImageSource:
    """The images of a tar, labelled by a table inside it, by a ``.cls`` beside each image, or by folder.

    What follows a damaged header is left out and listed among the skipped.

    Raises:
        S2R2Error: It is compressed, cannot be read, or holds no image.
    """
    found = read_contents(str(path), tables=True)
    if not found.images:
        raise S2R2Error(f"no images in {path}: looked for {', '.join(sorted(EXTENSIONS))}")
    members = sorted(found.images)
    names = [member.name for member in members]
    common = _common_folder(names)
    keys = [name[len(common) :] for name in names]
    known = Labels.from_lists([[label] if (label := found.label(name)) else [] for name in names])
    problems = [Skipped(str(path), found.problem)] if found.problem else []
    source = TarSource(path, keys, members, known or folder_labels(keys), problems)
    rows = next((rows for content in found.tables if (rows := _table_rows(content, keys))), None)
    if rows is not None:
        source.labels = _table_labels(rows) or source.labels
        source.parts = table_parts(rows)
    return source


def _common_folder(names: Sequence[str]) -> str:
    """The folders that all names begin with, with a slash, or nothing; each file keeps at least its own folder."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    shortest = min(len(parts) for parts in folders)
    first = folders[0]
    same = next((n for n in range(shortest) if any(parts[n] != first[n] for parts in folders)), shortest)
    return "".join(f"{part}/" for part in first[:same])


def _table_rows(content: bytes, keys: Sequence[str]) -> list[dict[str, str]] | None:
    """A row of the table inside a tar for each image, empty where it has none; None when it names none of them."""
    try:
        rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        return None
    column = next((c for c in ("path", "filename", "file_name") if rows and c in rows[0]), None)
    if column is None:
        return None
    by_name = {PurePosixPath(row[column] or "").name: row for row in rows}
    found = [by_name.get(PurePosixPath(key).name, {}) for key in keys]
    return found if any(found) else None


def _table_labels(rows: Sequence[Mapping[str, str]]) -> Labels | None:
    column = next((c for c in ("labels", "label", "categories") if any(c in row for row in rows)), None)
    if column is None:
        return None
    return Labels.from_lists([[part for part in (row.get(column) or "").split(";") if part] for row in rows])


def table_parts(rows: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
    """Parts that a table names in a column ``split``, or in columns whose names end in ``_split``."""
    columns = dict.fromkeys(c for row in rows for c in row if c == "split" or str(c).endswith("_split"))
    parts: dict[str, list[int]] = {}
    for column in columns:
        for index, row in enumerate(rows):
            if value := (row.get(column) or "").strip():
                parts.setdefault(value, []).append(index)
    return {name: np.unique(indices) for name, indices in parts.items()}
