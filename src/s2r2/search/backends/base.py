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
import functools
import importlib.util
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.extras import require_extra
from s2r2.system.plugins import load_plugins
from s2r2.system.terminal import say

ENTRY_POINTS = "s2r2.search_backends"
AUTO = "auto"
"""The backend of an index for which nobody has chosen one: it follows from the number of photos."""

Settings = dict[str, float]


class Before(NamedTuple):
    """What a backend made of the state before an update.

    Attributes:
        folder: Where its files are; they have been checked.
        settings: What it returned then.
        rows: ``(N,)`` of the vectors of now: the row that each had then; -1 where it was not there, or another vector.
    """

    folder: Path
    settings: Settings
    rows: np.ndarray


class SearchBackend(abc.ABC):
    """Finds the nearest vectors of one state of an index. An update that changes the index builds a new one.

    Args:
        vectors: ``(N, D)`` float32 with rows of length 1, mapped from disk.
        folder: What :meth:`build` has written; it is checked before the backend is opened.
        settings: What :meth:`build` has returned.

    Attributes:
        name: By which it is asked for.
        extra: The extra of s2r2 that installs what it imports; empty if none does. Without it an index that was made
            for this backend is searched exactly.
        packages: What it imports beyond that. Import it in the methods only, so that other backends do not wait for it.
        automatic_from: From how many photos on it is chosen unless the user chooses; None: never. Of several that
            say the same, the first by name is chosen whose packages are installed.
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

    @classmethod
    def update(cls, vectors: np.ndarray, folder: Path, before: Before) -> Settings | None:
        """As :meth:`build`, from what was made of an earlier state, which has most of these vectors.

        Nothing in ``before.folder`` may be changed: searches read it until the new state is in force.

        Returns:
            As :meth:`build`; None where it takes over nothing, as by default: :meth:`build` is then called.
        """
        return None

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


def cannot_search(product: str, folder: Path, error: Exception) -> S2R2Error:
    """What to say, and to do, when the library of a backend fails in a search.

    Args:
        product: What the library is called.
        folder: Where its files are.
        error: What it raised; the first line of it is said.
    """
    reason = str(error).strip().partition("\n")[0][:200]
    return S2R2Error(
        f"{product} cannot search {folder} ({reason}): use `backend='exact'`, or rebuild the index "
        "with s2r2 index --rebuild"
    )


def usable_backend(made_for: str) -> str:
    """The backend that searches an index: the one it was made for, or exact search, which needs nothing but vectors.

    What is missing is said once.
    """
    if made_for not in backend_names():
        return "exact"
    missing = _what_is_missing(made_for)
    if missing:
        _say_once(f"s2r2: search is exact, and slower in a large index: {missing}")
    return "exact" if missing else made_for


@functools.cache
def _say_once(line: str) -> None:
    say(line, error=True)


def _what_is_missing(name: str) -> str:
    """What a registered backend lacks here, and how to install it; empty if it can be used."""
    try:
        get_backend(name)
    except S2R2Error as error:
        return str(error)
    return ""


def automatic_backend(photos: int, approximate_from: int | None = None) -> str:
    """The backend for a number of photos: of those that are installed, the one for the largest indexes.

    Args:
        photos: How many the index has.
        approximate_from: From how many on exact search is not chosen; by default what each backend says.
    """
    chosen, largest = "exact", (0, 0)
    for name in backend_names():
        own = _registered[name].automatic_from
        if own:
            start = own if approximate_from is None else approximate_from
            if start <= photos and (start, own) > largest and not _what_is_missing(name):
                chosen, largest = name, (start, own)
    return chosen
