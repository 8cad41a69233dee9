"""The seam between an index and what finds its nearest vectors.

A new way to search is one file in :mod:`s2r2.search.backends`, or in a package of one's own that names its module as an
entry point of the group ``s2r2.search_backends``::

    @register_backend
    class EveryOther(SearchBackend):
        name = "every-other"

        def search(self, query, k):
            rows = np.arange(0, len(self.vectors), 2)
            return top_k(self.vectors, query, k, rows)
"""

import abc
import importlib.util
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.extras import require_extra
from s2r2.system.plugins import load_plugins

ENTRY_POINTS = "s2r2.search_backends"
AUTO = "auto"
"""The backend of an index for which nobody has chosen one: it follows from the number of photos."""

Settings = dict[str, float]


class SearchBackend(abc.ABC):
    """Finds the nearest vectors of one state of an index. An update that changes the index builds a new one.

    Args:
        vectors: ``(N, D)`` float32 with rows of length 1, mapped from disk.
        folder: What :meth:`build` has written; it is checked before the backend is opened.
        settings: What :meth:`build` has returned.

    Attributes:
        name: By which it is asked for.
        extra: The extra of s2r2 that installs what it imports; empty if none does.
        packages: What it imports beyond that. Import it in the methods only, so that other backends do not wait for it.
        automatic_from: From how many photos on it is chosen unless the user chooses; None: never.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    automatic_from: ClassVar[int | None] = None

    def __init__(self, vectors: np.ndarray, folder: Path, settings: Settings) -> None:
        self.vectors, self.folder, self.settings = vectors, folder, settings

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> Settings | None:
        """Write what searches need into ``folder``, which is there and empty; by default nothing.

        Files end in ``.bin``, ``.npy``, ``.json``, ``.idx``, ``.faiss`` or as LanceDB's do: no others are removed.

        Returns:
            Settings, which the index remembers. ``recall``, ``milliseconds`` and ``exact_milliseconds`` are printed.
            None where it is not good enough for these vectors: the index is then searched exactly.
        """
        return {}

    @abc.abstractmethod
    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors.

        Args:
            query: ``(D,)`` float32 of length 1.
            k: How many; fewer where there are fewer.

        Returns:
            Rows of ``vectors`` ``(k,)``, each once, and their cosines ``(k,)`` float32, largest first.
        """


Backend = TypeVar("Backend", bound=type[SearchBackend])
_registered: dict[str, type[SearchBackend]] = {}


def register_backend(backend: Backend) -> Backend:
    """Register a class under its name; for use as a decorator."""
    _registered[backend.name] = backend
    return backend


def backend_names() -> list[str]:
    """Names of all registered backends.

    Raises:
        S2R2Error: A plugin cannot be loaded.
    """
    load_plugins(__name__.rpartition(".")[0], ENTRY_POINTS)
    return sorted(_registered)


def get_backend(name: str) -> type[SearchBackend]:
    """The backend of a name.

    Raises:
        S2R2Error: None is registered under this name, or a package that it needs is not installed.
    """
    names = backend_names()
    if name not in _registered:
        raise ArgumentError(f"no search backend {name!r} is registered: use {', '.join(names)}")
    backend = _registered[name]
    if backend.extra:
        require_extra(backend.extra, f"the search backend {name}")
    for package in backend.packages:
        if importlib.util.find_spec(package) is None:
            raise S2R2Error(f"the search backend {name} needs {package}: pip install {package}")
    return backend


def automatic_backend(photos: int, approximate_from: int | None = None) -> str:
    """The backend for a number of photos: of those that may be chosen, the one for the largest indexes.

    Args:
        photos: How many the index has.
        approximate_from: From how many on exact search is not chosen; by default what each backend says.
    """
    starts = {name: _registered[name].automatic_from for name in backend_names()}
    if approximate_from is not None:
        starts = {name: start and approximate_from for name, start in starts.items()}
    return max((start, name) for name, start in starts.items() if start is not None and start <= photos)[1]
