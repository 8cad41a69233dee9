"""Settings have types, everywhere: one check for the command line, YAML, Python and files that were edited."""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s2r2.errors import ArgumentError, ArgumentsError, MistakesError, S2R2Error
from s2r2.system.wording import as_keys

T = TypeVar("T")
Where = tuple[str | int, ...]
"""Keys and places in lists that lead to a value."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


class Mistakes:
    """What is wrong with some settings, collected, so that all of it is said at once.

    Args:
        name: Of the file, or empty.
        arguments: Whether the keys are arguments of a function.

    Attributes:
        lines: Of the file, by the place of the value.
    """

    def __init__(self, name: str = "", *, arguments: bool = False) -> None:
        self.name = name
        self.arguments = arguments
        self.lines: dict[Where, int] = {}
        self.found: list[str] = []

    def add(self, where: Where, problem: str, line: int | None = None) -> None:
        """Note a mistake: its place, and what is wrong there and what would be right."""
        nearest = (self.lines.get(where[:end]) for end in range(len(where), -1, -1))
        line = line or next(filter(None, nearest), None)
        file = f"{self.name}, line {line}" if line else self.name
        key = _dotted(where)
        place = f"`{key}` is " if self.arguments and len(where) == 1 else f"{key}: " if key else ""
        self.add_line(f"{file}: {place}{problem}" if file else f"{place}{problem}")

    def add_line(self, mistake: str) -> None:
        """Note a mistake in words of its own."""
        if mistake not in self.found:
            self.found.append(mistake)

    def add_error(self, where: Where, error: S2R2Error) -> None:
        """Note what another check has found, which may be several mistakes."""
        for line in error.lines[1:] if isinstance(error, MistakesError) else [str(error)]:
            self.add(where, as_keys(line) if isinstance(error, ArgumentError) else line)

    def refuse(self) -> None:
        """Raise all mistakes so far, if there are any.

        Raises:
            S2R2Error: One line for each.
        """
        if len(self.found) > 1:
            several = ArgumentsError if self.arguments else MistakesError
            raise several([f"{len(self.found)} mistakes:", *self.found])
        if self.found:
            raise (ArgumentError if self.arguments else S2R2Error)(self.found[0])


def plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, tuples as lists, mappings as dicts; all else as it is."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


def fitted(value: Any, kind: Any, mistakes: Mistakes, where: Where = ()) -> Any:
    """The value as its type wants it; what does not fit is noted among the mistakes.

    Args:
        value: Plain data: numbers, texts, lists, mappings.
        kind: bool, int, float, str, Path, Any (whatever a file of settings can hold), a Literal, a union,
            ``list[...]``, ``tuple[...]``, ``dict[str, ...]`` or a dataclass, whose fields a mapping gives. A whole
            number is a number too; nothing else is converted.
        mistakes: Where to note them.
        where: The value's place.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        return fitted(value, get_args(kind)[0], mistakes, where)
    if kind is Any or (value is None and kind is type(None)):
        return _as_in_a_file(value, mistakes, where)
    if origin in (Union, types.UnionType):
        return _of_union(value, get_args(kind), mistakes, where)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(kind):
            return value
        mistakes.add(where, f"{show(value)}: use {_listed(filter(None, get_args(kind)))}")
    elif origin in (list, tuple):
        return _of_list(value, kind, mistakes, where)
    elif origin is dict:
        if _is_mapping(value, mistakes, where):
            return {key: fitted(part, get_args(kind)[1], mistakes, (*where, key)) for key, part in value.items()}
    elif dataclasses.is_dataclass(kind):
        return _of_dataclass(value, kind, mistakes, where)
    else:
        return _scalar(value, kind, mistakes, where)
    return value


def build(values: Any, kind: type[T], mistakes: Mistakes, where: Where = ()) -> T:
    """A dataclass from a mapping.

    Raises:
        S2R2Error: All mistakes in it.
    """
    made: T = fitted(plain(values), kind, mistakes, where)
    mistakes.refuse()
    return made


def whole_number(value: Any, low: int, high: int, name: str) -> int:
    """The value, a whole number in a range, as Python's.

    Raises:
        ArgumentError: It is none; the message names it.
    """
    mistakes = Mistakes(arguments=True)
    made: int = fitted(plain(value), int, mistakes, (name,))
    mistakes.refuse()
    if not low <= made <= high:
        raise ArgumentError(f"`{name}` is {made}: must be {low} to {high:,}")
    return made


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist: the nearest that does, or all of them."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return (
        f"there is no such setting; did you mean {near[0]}?" if near else f"there is no such setting; {_listed(known)}"
    )


def show(value: Any) -> str:
    """A value, as it would stand in a file, cut short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_in_a_file(value: Any, mistakes: Mistakes, where: Where) -> Any:
    """What a file can hold and give back the same: keys are texts and numbers finite, at any depth."""
    if isinstance(value, dict):
        if _is_mapping(value, mistakes, where):
            return {key: _as_in_a_file(part, mistakes, (*where, key)) for key, part in value.items()}
    elif isinstance(value, list):
        return [_as_in_a_file(part, mistakes, (*where, place)) for place, part in enumerate(value)]
    elif isinstance(value, (bool, int, float, str)):
        return _scalar(value, type(value), mistakes, where)
    elif value is not None:
        mistakes.add(where, f"{show(value)}: must be a number, text, true or false, or a list or mapping of these")
    return value


def _of_union(value: Any, kinds: tuple[Any, ...], mistakes: Mistakes, where: Where) -> Any:
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):  # that is meant, and its mistakes should be said
            return fitted(value, kind, mistakes, where)
        attempt = Mistakes()
        made = fitted(value, kind, attempt, where)
        if not attempt.found:
            return made
    mistakes.add(where, f"{show(value)}: must be {' or '.join(_word(kind) for kind in kinds)}")
    return value


def _of_list(value: Any, kind: Any, mistakes: Mistakes, where: Where) -> Any:
    kinds = get_args(kind)
    several = get_origin(kind) is list or kinds[1:] == (...,)
    if not isinstance(value, (list, tuple)) or (not several and len(value) != len(kinds)):
        count = "" if several else f" of {len(kinds)}"
        mistakes.add(where, f"{show(value)}: must be a list{count}, in brackets")
        return value
    each = [kinds[0]] * len(value) if several else list(kinds)
    made = [fitted(part, kinds, mistakes, (*where, n)) for n, (part, kinds) in enumerate(zip(value, each, strict=True))]
    return made if get_origin(kind) is list else tuple(made)


def _of_dataclass(value: Any, kind: Any, mistakes: Mistakes, where: Where) -> Any:
    if isinstance(value, kind):
        return value
    if not _is_mapping(value, mistakes, where):
        return None
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    before = len(mistakes.found)
    made = {}
    for key, part in value.items():
        if key in fields:
            made[key] = fitted(part, hints[key], mistakes, (*where, key))
        else:
            mistakes.add((*where, key), unknown_key(key, fields))
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            mistakes.add(where, f"{name} is missing")
    return kind(**made) if len(mistakes.found) == before else None


def _is_mapping(value: Any, mistakes: Mistakes, where: Where) -> bool:
    if not isinstance(value, dict):
        mistakes.add(where, f"{show(value)}: must be settings, NAME: VALUE")
        return False
    for key in value:
        if not isinstance(key, str):
            mistakes.add(where, f"{show(value)}: the key {show(key)} must be text")
    return all(isinstance(key, str) for key in value)


def _scalar(value: Any, kind: type, mistakes: Mistakes, where: Where) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        value = float(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        if isinstance(value, float) and not math.isfinite(value):
            mistakes.add(where, f"{value}: must be a finite number")
        if isinstance(value, str) and "\0" in value:
            mistakes.add(where, f"{show(value)}: must not contain a zero byte")
        return value
    hint = ""
    if kind is int and isinstance(value, float) and value.is_integer():
        hint = f": write {int(value)}"
    elif kind in (int, float) and isinstance(value, str):
        hint = ", not text"
    elif kind is str and isinstance(value, (int, float)):
        hint = f': write "{show(value)}" in quotes'
    mistakes.add(where, f"{show(value)}: must be {_word(kind)}{hint}")
    return value


def _word(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _word(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return _listed(get_args(kind))
    if kind is type(None):
        return "nothing"
    return _WORDS.get(kind, "a list" if get_origin(kind) in (list, tuple) else "settings")


def _listed(names: Iterable[Any]) -> str:
    *most, last = map(str, names)
    return f"{', '.join(most)} or {last}" if most else last


def _dotted(where: Sequence[str | int]) -> str:
    """``data.photos.train[1]``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return "".join(c if c.isprintable() else "?" for c in text[:120])
