"""The register of sources: every kind of ``DATA`` says what it is called, recognizes what the user wrote, and opens it.

A new kind is one file in :mod:`s2r2.images.sources.kinds`, or in a package of one's own that names its module as an
entry point of the group ``s2r2.sources``. It holds one function::

    @register_source("a list of files", "photos.txt, a path in each line")
    def open_list(data: Data) -> ImageSource | None:
        if data.path.suffix != ".txt":
            return None  # it is of another kind
        ...
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from s2r2.system.plugins import load_plugins

if TYPE_CHECKING:
    from s2r2.images.sources.source import ImageSource

ENTRY_POINTS = "s2r2.sources"


@dataclass(frozen=True)
class Data:
    """What the user wrote for ``DATA``.

    Attributes:
        text: All of it.
        place: It without the part: a path, an address, a pattern or a built-in name.
        part: What follows the last colon, such as ``train``; empty where there is none.
    """

    text: str
    place: str
    part: str = ""

    @property
    def path(self) -> Path:
        """The place as a path."""
        return Path(self.place).expanduser()

    @property
    def name(self) -> str:
        """The place if it is a built-in name, and no file of that name is there; else empty."""
        return self.place if self.place in built_in_names() and not Path(self.place).exists() else ""


Open: TypeAlias = "Callable[[Data], ImageSource | None]"


@dataclass(frozen=True)
class SourceKind:
    """A kind of ``DATA``.

    Attributes:
        name: What to call it in a list of kinds, such as ``a .tar``.
        written: How the user writes it.
        open: Opens what the user wrote; None if that is not of this kind. It raises an ``S2R2Error`` that says what
            to do where it is of this kind and cannot be opened.
        built_in: Names that stand for it without a file.
        parts: The parts that may follow it after a colon, in words; empty if it has none.
        priority: Kinds of a higher one are asked first, those of the same in the order of their names.
    """

    name: str
    written: str
    open: Open
    built_in: tuple[str, ...] = ()
    parts: str = ""
    priority: int = 0


_registered: dict[str, SourceKind] = {}


def register_source(
    name: str, written: str, *, built_in: Sequence[str] = (), parts: str = "", priority: int = 0
) -> Callable[[Open], Open]:
    """Register the function that opens a kind of ``DATA``; the arguments are those of :class:`SourceKind`."""

    def register(function: Open) -> Open:
        _registered[name] = SourceKind(name, written, function, tuple(built_in), parts, priority)
        return function

    return register


def source_kinds() -> list[SourceKind]:
    """All kinds, in the order in which they are asked.

    Raises:
        S2R2Error: A plugin cannot be loaded.
    """
    load_plugins("s2r2.images.sources.kinds", ENTRY_POINTS)
    return sorted(_registered.values(), key=lambda kind: (-kind.priority, kind.name))


def built_in_names() -> list[str]:
    """Names that stand for data without a file."""
    return [name for kind in source_kinds() for name in kind.built_in]


def what_data_may_be() -> str:
    """All kinds in one line, for help and errors."""
    names = sorted((kind.name for kind in source_kinds()), key=str.casefold)
    return f"{', '.join(names[:-1])} or {names[-1]}"


def parts_of_data() -> str:
    """The kinds that have parts, and which, in one line."""
    kinds = sorted(source_kinds(), key=lambda kind: kind.name.casefold())
    return "; ".join(f"{kind.name}: {kind.parts}" for kind in kinds if kind.parts)
