"""Which photos a search may find: by folder, label, date, camera and size, all of them together."""

import difflib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error

if TYPE_CHECKING:
    from s2r2.search.storage.catalog import Catalogue

_FIRST_DAY = date(1970, 1, 1)
_DAY = 86_400


@dataclass(frozen=True)
class Filter:
    """Which photos may be found. None leaves a fact open; a photo of which it is not known is left out otherwise.

    Attributes:
        folder: Only photos in this folder of the source, and below it.
        label: Only photos with this label.
        camera: Only photos of this camera: its make and model, as the index lists them.
        taken_from: Only photos taken on this day or later, by the camera's clock.
        taken_to: Only photos taken on this day or earlier.
        megapixels_from: Only photos of so many megapixels or more, before any reduction.
        megapixels_to: Only photos of so many megapixels or fewer.

    Raises:
        ArgumentError: A range ends before it begins, or a label or camera is empty.
    """

    folder: str | None = None
    label: str | None = None
    camera: str | None = None
    taken_from: date | None = None
    taken_to: date | None = None
    megapixels_from: float | None = None
    megapixels_to: float | None = None

    def __post_init__(self) -> None:
        for name in ("label", "camera"):
            if getattr(self, name) == "":
                raise ArgumentError(f"`{name}=''` names no {name}: leave it out to search all photos")
        for name in ("taken", "megapixels"):
            first, last = getattr(self, f"{name}_from"), getattr(self, f"{name}_to")
            if first is not None and last is not None and first > last:
                raise ArgumentError(f"`{name}_from={first}` is more than `{name}_to={last}`: exchange them")

    @property
    def by_facts(self) -> bool:
        """Whether it asks for what photos' files say of them."""
        return replace(self, folder=None, label=None) != EVERYTHING

    def mask(self, catalogue: "Catalogue") -> np.ndarray | None:
        """``(N,)`` bool: which photos of an index may be found; None for all of them.

        Raises:
            S2R2Error: An earlier version made the index, and read nothing of what is asked for.
        """
        if self.by_facts and not catalogue.has_facts:
            raise S2R2Error(
                f"the index in {catalogue.folder} does not know when and with what its photos were taken: run s2r2 "
                "index once more, which reads it without embedding anything again"
            )
        masks = []
        if self.folder:
            names, codes = catalogue.folders
            folder = _folder_of_keys(self.folder)
            inside = [name == folder or name.startswith(f"{folder}/") or not folder for name in names]
            masks.append(np.array(inside, bool)[codes])
        if self.label:
            names, codes = catalogue.labels
            masks.append(np.array([self.label in name.split(";") for name in names], bool)[codes])
        if self.camera:
            names, codes = catalogue.cameras
            masks.append(np.array([name == self.camera for name in names], bool)[codes])
        if self.taken_from is not None:
            masks.append(catalogue.taken >= _seconds(self.taken_from))
        if self.taken_to is not None:
            masks.append(catalogue.taken < _seconds(self.taken_to) + _DAY)
        if self.megapixels_from is not None:
            masks.append(catalogue.megapixels >= self.megapixels_from)
        if self.megapixels_to is not None:
            masks.append(catalogue.megapixels <= self.megapixels_to)
        return np.logical_and.reduce(masks) if masks else None


EVERYTHING = Filter()


def matching(catalogue: "Catalogue", *filters: Filter) -> np.ndarray | None:
    """``(N,)`` bool: which photos all of these filters let through; None for all photos."""
    masks = [mask for one in filters if (mask := one.mask(catalogue)) is not None]
    return np.logical_and.reduce(masks) if masks else None


def asked_in_vain(catalogue: "Catalogue", where: Filter) -> Iterator[str]:
    """Says which folder, label or camera no photo of an index has, and such as they have."""
    known = {"folder": catalogue.folders[0], "label": catalogue.labels[0], "camera": catalogue.cameras[0]}
    for what, names in known.items():
        asked = getattr(where, what)
        if not asked or np.any(Filter(**{what: asked}).mask(catalogue)):
            continue
        if what == "folder":  # perhaps as it is seen from here, with the name of the folder of photos before it
            asked = _folder_of_keys(asked)
            names = [*names, *(str(above) for name in names for above in PurePosixPath(name).parents if above.name)]
        there = sorted({name for text in names for name in (text.split(";") if what == "label" else [text]) if name})
        below = [name for name in there if asked.endswith(f"/{name}")]
        near = [max(below, key=len)] if below else difflib.get_close_matches(asked, there[:10_000]) or there[:3]
        if near:
            yield f"no photo of the index has this {what}: {asked}; try {', '.join(near)}"


def day(taken: float) -> date:
    """The day of a time in seconds since 1970."""
    return _FIRST_DAY + timedelta(seconds=taken)


def _folder_of_keys(folder: str) -> str:
    """A folder as keys name it, however it is typed: ``cats`` for ``cats/`` and ``./cats``, nothing for ``.``."""
    named = posixpath.normpath(folder)
    return "" if named == "." else named


def _seconds(when: date) -> int:
    return (when - _FIRST_DAY).days * _DAY
