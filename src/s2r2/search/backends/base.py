"""The seam of all search backends: what one is given, what it answers, and the register.

A new backend is one file: a subclass of :class:`SearchBackend` under :func:`register_backend`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.layout import backend_file
from s2r2.search.storage.rows import Rows

Settings = dict[str, float]
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From a query ``(D,)`` of length 1 and k to rows ``(k,)`` and cosines ``(k,)``, largest first."""


@dataclass(frozen=True)
class SearchPlace:
    """What a backend finds in an index.

    Attributes:
        catalogue: The N photos, whose rows answers name; ``catalogue.vectors`` is ``(N, D)`` float32, of length 1.
        rows: Opens the table in LanceDB that the catalogue was made from.
        folder: Where the backend's files lie.
        number: Of the catalogue.
    """

    catalogue: Catalogue
    rows: Callable[[], Rows]
    folder: Path
    number: int

    def file(self, suffix: str) -> Path:
        """A file of the backend's own, of this catalogue; ``suffix`` is made of letters."""
        return self.folder / backend_file(self.number, suffix)


class Built(NamedTuple):
    """What a backend has made: numbers to search by (and what was measured), and its files (synced, checksummed)."""

    settings: Settings
    files: tuple[Path, ...] = ()


class SearchBackend(ABC):
    """A way to find the nearest vectors of an index.

    Filtered searches, and those that a backend fails to answer because an update has replaced its files, are answered
    by exact search.

    Attributes:
        title: One line for people.
    """

    title: ClassVar[str]

    def prepare(self, rows: Rows, before: Settings | None) -> None:  # noqa: B027
        """Called while rows may still change, before the catalogue is written from them; by default nothing."""

    @abstractmethod
    def build(self, place: SearchPlace, before: Settings | None) -> Built | None:
        """Make what searches need, in the process that writes the index.

        Args:
            place: The index as it will be published.
            before: What was in force, if this backend made it.

        Returns:
            None where exact search does as well: it answers then.
        """

    @abstractmethod
    def open(self, place: SearchPlace, settings: Settings) -> Search:
        """Get ready for searches.

        Raises:
            KeyError, TypeError, ValueError: The settings are not what was written.
        """


_BACKENDS: dict[str, SearchBackend] = {}


def register_backend(name: str, backend: SearchBackend) -> None:
    """Make a backend known by a name, for ``update_index(backend=NAME)`` and ``s2r2 index --backend NAME``."""
    _BACKENDS[name] = backend


def backend_names() -> list[str]:
    """All registered backends."""
    return list(_BACKENDS)


def find_backend(name: str) -> SearchBackend:
    """The backend of that name.

    Raises:
        S2R2Error: There is none.
    """
    if name not in _BACKENDS:
        raise S2R2Error(f"--backend {name}: choose auto, {', '.join(_BACKENDS)}")
    return _BACKENDS[name]
