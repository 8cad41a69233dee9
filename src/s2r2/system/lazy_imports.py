"""Packages whose names are imported when they are first used: torch, LanceDB and scikit-learn take seconds each."""

import ast
import importlib
import sys
from collections.abc import Callable
from typing import Any

from s2r2.system.extras import EXTRA_OF_ROOM, require_extra


def lazy_imports(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package, from what it imports under ``if TYPE_CHECKING:``.

    So each name stands once, where type checkers and editors find it, too::

        if TYPE_CHECKING:
            from package.module import Name as Name
        else:
            __all__, __getattr__, __dir__ = lazy_imports(__name__)

    Python will have this built in (PEP 810, ``lazy from``).

    Args:
        package: Its name; it is being imported.
    """
    module = sys.modules[package]
    places = _imports_for_type_checkers(module.__spec__.loader.get_source(package))  # type: ignore[union-attr]

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = f"{package}.{name}" if places[name] == package else places[name]
        try:
            found = importlib.import_module(place)
        except ModuleNotFoundError:
            room = place.split(".")[1]
            if room in EXTRA_OF_ROOM:
                require_extra(EXTRA_OF_ROOM[room], f"{package}.{name}")
            raise
        value = found if places[name] == package else getattr(found, name)
        setattr(module, name, value)
        return value

    return sorted(places), get, lambda: sorted({*vars(module), *places})


def _imports_for_type_checkers(source: str) -> dict[str, str]:
    """The modules of the names that are imported under ``if TYPE_CHECKING:``."""
    return {
        alias.name: statement.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
