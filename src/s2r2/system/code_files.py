"""Classes in files of the user's: a method or a protocol of one's own, named by its path."""

import importlib.util
import inspect
from pathlib import Path
from typing import TypeVar

from s2r2.errors import S2R2Error

Class = TypeVar("Class")


def is_code_file(name: str) -> bool:
    """Whether a name is a file of code."""
    return name.endswith(".py")


def load_class(file: str, base: type[Class], what: str) -> type[Class]:
    """The one subclass of a class that a file defines; the file is run.

    Args:
        file: Its path.
        base: The class.
        what: How it was asked for, such as ``method FILE.py``.

    Raises:
        S2R2Error: There is no such file, it does not run, or it has none or several.
    """
    path = Path(file)
    specification = importlib.util.spec_from_file_location(f"s2r2_{base.__name__.lower()}_{path.stem}", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise S2R2Error(f"{what}: there is no such file")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise S2R2Error(f"{what} does not run: {type(error).__name__}: {error}") from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        room = ".".join(base.__module__.split(".")[:2])
        raise S2R2Error(f"{what} has {len(found)} subclasses of {room}.{base.__name__}; there must be one")
    return found[0]
