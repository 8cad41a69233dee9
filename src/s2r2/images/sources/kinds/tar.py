"""One tar, read in place: its images, labeled by tables inside it, by a file beside each, or by folder."""

import io
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.formats import READ
from s2r2.images.places import FilePlace
from s2r2.images.sources.joining import part_of
from s2r2.images.sources.labels import Labels, folder_labels
from s2r2.images.sources.names import inside, printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import ImageSource
from s2r2.images.sources.tables import is_split, label_lists, places, rows, surplus
from s2r2.images.sources.tar_index import TarIndex, read_contents
from s2r2.images.sources.tars import TarSource

NAMES = ("path", "filename", "file_name")
LABELS = ("labels", "label", "categories")


@register_source(
    "a .tar",
    "photos.tar, read in place; labels from tables in it, .cls files or folders",
    parts="those in the column split of a table in it",
)
def open_tar(data: Data) -> ImageSource | None:
    """The images of a tar, labeled by tables inside it, by a ``.cls`` beside each image, or by folder.

    What follows a damaged header is left out and listed among the skipped.

    Raises:
        S2R2Error: It is compressed, cannot be read, or holds no image.
    """
    path = data.path
    if path.suffix.lower() != ".tar" or not path.is_file():
        return None
    place, tar = printable(str(path)), FilePlace(os.path.abspath(path))
    try:
        before = tar.stamp()  # of what is looked at now, should it change meanwhile
    except UnreadableImage as error:
        raise S2R2Error(f"cannot read the tar {place}: {error.reason}") from None
    found = read_contents(tar, str(path), tables=True)
    if not found.images:
        first = f" ({found.problems[0].key}: {found.problems[0].reason})" if found.problems else ""
        raise S2R2Error(f"no images in {place}{first}: looked for {READ}")
    members = sorted(found.images)
    names = [member.name for member in members]
    common = _common_folder(names)
    keys = [name[len(common) :] for name in names]
    tables = _TarTables(names, common, found.problems)
    for name, content in found.tables.items():
        tables.read(f"{place}::{name}", name, content)
    known = Labels.from_lists([[label] if (label := found.label(name)) else [] for name in names])
    labels = Labels.from_lists(tables.lists()) or known or folder_labels(keys)
    offsets, sizes = (np.array([member[column] for member in members], np.int64) for column in (1, 2))
    index = TarIndex(names, offsets, sizes, None, before, found.problems)
    source = TarSource(printable(path.name), keys, labels, [tar], [str(path)], [index])
    source.former_prefix = "./" if found.dotted and not common else ""
    source.parts = {part: np.array(sorted(numbers)) for part, numbers in tables.parts.items()}
    return part_of(source, data.part)


def _common_folder(names: Sequence[str]) -> str:
    """The folders that all names begin with, with a slash, or nothing."""
    folders = [name.split("/")[:-1] for name in names]
    first, shortest = folders[0], min(map(len, folders))
    same = next((n for n in range(shortest) if any(parts[n] != first[n] for parts in folders)), shortest)
    return "".join(f"{part}/" for part in first[:same])


@dataclass
class _TarTables:
    """What the tables inside a tar say of its images.

    Attributes:
        names: Full name of each image.
        common: The folder in which all images are.
        problems: What could not be used is added here.
        labels: Labels of the images of which a table says some.
        parts: Numbers of the images of each part.
    """

    names: Sequence[str]
    common: str
    problems: list[Skipped]
    labels: dict[int, list[str]] = field(default_factory=dict)
    parts: dict[str, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def lists(self) -> list[list[str]]:
        """The labels of each image."""
        return [self.labels.get(number, []) for number in range(len(self.names))]

    def read(self, table: str, name: str, content: bytes) -> None:
        """Take what a table says; one that has no column of names is some other table."""
        try:
            lines = io.StringIO(content.decode("utf-8-sig"), newline="")
            found = list(rows(lines, table))
            columns = places(found[0][1], (*NAMES, *LABELS), table) if found else {}
            if any(column in columns for column in NAMES):
                self._take(table, posixpath.dirname(name), columns, found[1:], len(found[0][1]))
        except UnicodeDecodeError:
            self.problems.append(Skipped(table, "no labels are taken from it: it is no table in UTF-8"))
        except S2R2Error as error:
            self.problems.append(Skipped(table, f"no labels are taken from it: {error}"))

    def _take(
        self, table: str, folder: str, columns: Mapping[str, int], found: Sequence[tuple[int, list[str]]], width: int
    ) -> None:
        wrong = [Skipped(f"{table}, line {line}", why) for line, row in found if (why := surplus(row, width))]
        self.problems += wrong
        good = [row + [""] * (width - len(row)) for _, row in found if not surplus(row, width)]
        column = next(columns[name] for name in NAMES if name in columns)
        numbers = self._numbers([row[column].strip() for row in good], folder)
        says_something = any(name in LABELS or is_split(name) for name in columns)
        if good and says_something and not any(number is not None for number in numbers):
            self.problems.append(Skipped(table, "none of its rows names an image of the tar: no labels are taken"))
        label = next((columns[name] for name in LABELS if name in columns), None)
        if label is not None:
            self._label(table, numbers, label_lists([row[label] for row in good], table))
        for split in (place for name, place in columns.items() if is_split(name)):
            for number, row in zip(numbers, good, strict=True):
                if number is not None and row[split].strip():
                    self.parts.setdefault(row[split].strip(), set()).add(number)

    def _numbers(self, names: Sequence[str], folder: str) -> list[int | None]:
        """The images that rows name: relative to the table's folder, to the tar, or to the folder of all images.

        Whichever of the three fits most rows holds for all of them, so that no name is looked up in two ways.
        """
        names = [name.replace("\\", "/") if name not in self.numbers else name for name in names]
        tried = [
            [self.numbers.get(inside(f"{base}/{name}")) if name else None for name in names]
            for base in dict.fromkeys((folder, "", self.common))
        ]
        return max(tried, key=lambda numbers: sum(number is not None for number in numbers))

    def _label(self, table: str, numbers: Sequence[int | None], lists: Sequence[list[str]]) -> None:
        """Keep a table's labels, unless an earlier table says others."""
        own: dict[int, list[str]] = {}
        twice: set[int] = set()
        for number, labels in zip(numbers, lists, strict=True):
            if number is not None and labels and sorted(own.setdefault(number, labels)) != sorted(labels):
                twice.add(number)
        for number in sorted(twice):
            own[number] = []
            problem = "its rows label it in two ways: it is taken as not labeled"
            self.problems.append(Skipped(f"{table}, {self.names[number]}", problem))
        if any(sorted(self.labels.get(number, labels)) != sorted(labels) for number, labels in own.items()):
            self.problems.append(Skipped(table, "it says other labels than an earlier table: none are taken from it"))
        else:
            self.labels |= own
