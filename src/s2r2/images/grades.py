"""``--grades``: what photos know of each other, as levels of relevance for the ranking, the finest first."""

import datetime
import functools
import hashlib
import math
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2r2.errors import ArgumentError
from s2r2.images import DirectImages, ImageSource, PhotoFacts, PixelStore
from s2r2.images.grouping import bursts, nested, places
from s2r2.images.sources.names import printable
from s2r2.images.sources.tables import without_nan

_UNITS = {
    "time": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "place": {"m": 1.0, "km": 1000.0},
}
_WIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_EXAMPLES = {"time": "time:30s", "place": "place:50m"}
TIME, CAMERA, LATITUDE, LONGITUDE = ("time",), ("camera",), ("latitude", "lat"), ("longitude", "lon", "lng")
"""Columns of a manifest that stand for what EXIF says."""
_DAY = re.compile(r"(19[7-9]\d|20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_MOST_SECONDS = 1e11
"""In the year 5138: more are milliseconds, or digits of a date."""


class Grade(NamedTuple):
    """A level of relevance: photos of one burst, place or folder, or with the same text in a column of a manifest.

    Attributes:
        kind: ``time``, ``place``, ``folder``, or the name of a column.
        width: Seconds or meters; 0 where the kind has none.
        text: As it was given.
    """

    kind: str
    width: float
    text: str


@dataclass(frozen=True)
class PhotoGroups:
    """The groups of a run's photos.

    Attributes:
        columns: ``(N, L)`` int64: each photo's group at each grade, the finest first.
        sentence: What was found, for people.
    """

    columns: np.ndarray
    sentence: str

    @property
    def digest(self) -> str:
        """Equal when the groups are."""
        return hashlib.blake2b(np.ascontiguousarray(self.columns).tobytes(), digest_size=6).hexdigest()


def read_grades(text: str) -> list[Grade]:
    """The grades of a list such as ``time:30s,place:50m,folder``.

    Raises:
        S2R2Error: It is no such list.
    """
    found = [_read(part.strip(), text) for part in text.split(",")] if text.strip() else []
    twice = next((grade.kind for n, grade in enumerate(found) if grade in found[:n]), None)
    if twice:
        raise ArgumentError(f"`grades={text!r}`: {twice} is there twice: leave one out")
    return found


def _read(part: str, text: str) -> Grade:
    kind, colon, width = (piece.strip().lower() for piece in part.partition(":"))
    if not kind:
        raise ArgumentError(f"`grades={text!r}`: a name is missing: write it like time:30s,place:50m,folder")
    units = _UNITS.get(kind)
    if units is None and colon:
        raise ArgumentError(f"`grades={text!r}`: only time and place have a width: write {kind} alone, or time:30s")
    if units is None:
        return Grade(kind, 0.0, part)
    given = _WIDTH.fullmatch(width)
    if given is None or given[2] not in units or not 0 < float(given[1]) * units[given[2]] <= 1e9:
        raise ArgumentError(
            f"`grades={text!r}`: {kind} needs a width above 0 in {', '.join(units)}: write it like {_EXAMPLES[kind]}"
        )
    return Grade(kind, float(given[1]) * units[given[2]], part)


def refuse_unknown_columns(grades: Sequence[Grade], source: ImageSource) -> None:
    """Refuse the first grade that is a column which the photos' table does not have.

    Raises:
        S2R2Error: There is no such column.
    """
    for grade in grades:
        if grade.kind not in (*_UNITS, "folder", *source.columns):
            there = (
                printable(", ".join(name for name in source.columns if name != "path")[:200])
                or "no columns (only a manifest does)"
            )
            raise ArgumentError(
                f"`grades`: {grade.kind} is neither time, place or folder nor a column of {source.name}, which has "
                f"{there}: choose one of these"
            )


def group_photos(grades: Sequence[Grade], photos: PixelStore | DirectImages) -> PhotoGroups:
    """The groups of a run's photos at each grade.

    Raises:
        S2R2Error: A grade finds no two photos that belong together, or puts all into one group; a time or a coordinate
            in a manifest is none.
    """
    facts = _Facts(photos)
    apart = [grade.kind for grade in grades if grade.kind not in (*_UNITS, "folder")]
    found = [_numbers(grade, facts, apart) for grade in grades]
    columns = nested(found)
    counts = columns.max(axis=0)
    said: list[str] = []
    for grade, numbers, column in zip(grades, found, columns.T, strict=True):
        sizes, known = np.bincount(column), np.bincount(column, weights=numbers >= 0) > 0
        shared = sizes[(sizes > 1) & known]  # a burst of which nobody says where it was is no place
        together, held = len(shared), int(shared.sum())
        unknown = int((numbers < 0).sum())
        _refuse_idle(grade, len(photos), unknown, together, int(sizes.max()))
        said.append(_sentence(grade, together, held, unknown, len(photos) if not said else 0))
    for number in np.flatnonzero(np.diff(counts) == 0).tolist():
        raise ArgumentError(
            f"`grades`: {grades[number + 1].text} adds nothing to {grades[number].text}: name the closest first, or "
            "leave it out"
        )
    return PhotoGroups(columns, ", ".join(said))


def _sentence(grade: Grade, groups: int, held: int, unknown: int, photos: int) -> str:
    names = {"time": ("burst", "bursts"), "place": ("place", "places"), "folder": ("folder", "folders")}
    one, many = names.get(grade.kind, (f"group of {grade.kind}", f"groups of {grade.kind}"))
    share = f"{held:,} of {photos:,} photos" if photos else f"{held:,}"
    lacking = {"time": "no time", "place": "no GPS"}.get(grade.kind, "none")
    without = f" ({unknown:,} {'has' if unknown == 1 else 'have'} {lacking})" if unknown else ""
    return f"{groups:,} {one if groups == 1 else many} {'holds' if groups == 1 else 'hold'} {share}{without}"


def _refuse_idle(grade: Grade, photos: int, unknown: int, together: int, largest: int) -> None:
    if unknown == photos:
        what = {"time": "when it was taken (EXIF)", "place": "where it was taken (GPS)"}.get(grade.kind, grade.kind)
        columns = {"time": " or name a manifest with a column time",
                   "place": " or name a manifest with columns latitude and longitude"}.get(grade.kind, "")  # fmt: skip
        raise ArgumentError(
            f"`grades`: none of the {photos:,} photos says {what}: leave {grade.text} out,{columns}".rstrip(",")
        )
    if not together:
        wider = " or give it a larger width" if grade.width else ""
        raise ArgumentError(
            f"`grades`: {grade.text} finds no two of the {photos:,} photos that belong together: leave it out{wider}"
        )
    if largest == photos:
        smaller = " or give it a smaller width" if grade.width else ""
        raise ArgumentError(
            f"`grades`: {grade.text} puts all {photos:,} photos into one group, which tells nothing apart: leave it "
            f"out{smaller}"
        )


def _numbers(grade: Grade, facts: "_Facts", apart: Sequence[str]) -> np.ndarray:
    """Group of each photo, -1 where unknown; bursts lie within one value of each of the columns ``apart``."""
    if grade.kind == "time":
        return bursts(facts.times(), facts.cameras(apart), grade.width)
    if grade.kind == "place":
        return places(*facts.degrees(), grade.width)
    if grade.kind == "folder" and "folder" not in facts.photos.columns:
        return np.unique([posixpath.dirname(key) for key in facts.photos.keys], return_inverse=True)[1]
    cells = facts.column((grade.kind,)) or []
    _, numbers = np.unique(cells, return_inverse=True)
    return np.where(np.array([bool(cell) for cell in cells]), numbers, -1)


class _Facts:
    """What manifests and EXIF say; where a cell of a manifest is empty, EXIF is asked."""

    def __init__(self, photos: PixelStore | DirectImages) -> None:
        self.photos = photos

    @functools.cached_property
    def exif(self) -> list[PhotoFacts]:
        """Of each photo; files are looked at only if they are asked for."""
        return self.photos.facts()

    def column(self, names: Sequence[str]) -> list[str] | None:
        """The cells of the first column of these names that there is."""
        name = next((name for name in names if name in self.photos.columns), None)
        return None if name is None else without_nan([cell.strip() for cell in self.photos.column(name)])

    def times(self) -> np.ndarray:
        known = self._known(TIME, _seconds)
        return np.where(np.isnan(known), self._said("taken"), known) if np.isnan(known).any() else known

    def degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes and longitudes; those of a photo come from the same place, and zeros say as little as in EXIF."""
        north, east = (
            self._known(names, functools.partial(_degrees, most=most))
            for names, most in ((LATITUDE, 90), (LONGITUDE, 180))
        )
        unknown = np.isnan(north) | np.isnan(east) | ((north == 0) & (east == 0))
        if unknown.any():
            north, east = (
                np.where(unknown, self._said(fact), known) for fact, known in (("latitude", north), ("longitude", east))
            )
        return north, east

    def cameras(self, apart: Sequence[str]) -> list[str]:
        """Of each photo; of drives that all begin at second 0, frames of one second are not by the same camera."""
        cameras = self.column(CAMERA) or [""] * len(self.photos)
        if not all(cameras):
            cameras = [given or facts.camera or "" for given, facts in zip(cameras, self.exif, strict=True)]
        for name in apart:
            cells = self.column((name,)) or [""] * len(cameras)
            cameras = [f"{camera}\0{cell}" for camera, cell in zip(cameras, cells, strict=True)]
        return cameras

    def _known(self, names: Sequence[str], read: Callable[[str, str], float]) -> np.ndarray:
        """What a manifest's column says, NaN in empty cells."""
        cells = self.column(names) or [""] * len(self.photos)
        if names is TIME and all(_DAY.fullmatch(cell) for cell in cells if cell):  # days, no seconds of the year 1970
            cells = [f"{cell[:4]}-{cell[4:6]}-{cell[6:]}" if cell else "" for cell in cells]
        return np.array([read(c, k) if c else math.nan for c, k in zip(cells, self.photos.keys, strict=True)])

    def _said(self, fact: str) -> np.ndarray:
        """What EXIF says, NaN where it does not."""
        said = (getattr(facts, fact) for facts in self.exif)
        return np.array([math.nan if value is None else float(value) for value in said])


def _seconds(cell: str, key: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, an EXIF time, or any number of seconds."""
    try:
        return _moment(cell)
    except ValueError:
        raise ArgumentError(
            f"`grades`: the time of {key} in the manifest is {cell[:40]!r}: write it as 2026-05-01 12:30:00, or in "
            "seconds"
        ) from None


def _moment(cell: str) -> float:
    try:
        seconds = float(cell)
    except ValueError:
        # EXIF has colons in its dates.
        moment = datetime.datetime.fromisoformat(re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", cell))
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    if not abs(seconds) <= _MOST_SECONDS:
        raise ValueError(cell)
    return seconds


def _degrees(cell: str, key: str, most: float) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if not abs(value) <= most:
        raise ArgumentError(
            f"`grades`: a coordinate of {key} in the manifest is {cell[:40]!r}: write degrees from -{most} to {most}"
        )
    return value
