"""How messages name arguments: in backticks, as in Python; while a command runs, readers see its options instead.

A message that says ```batch_size=64` is larger than the data`` is shown by ``s2r2 train`` as
``--batch-size 64 is larger than the data``.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")
_options: dict[str, str] = {}


@contextlib.contextmanager
def arguments_shown_as(options: Mapping[str, str]) -> Iterator[None]:
    """Show arguments by these names.

    Args:
        options: What the command that runs calls each argument, such as ``--batch-size``.
    """
    before = dict(_options)
    _options.clear()
    _options.update(options)
    try:
        yield
    finally:
        _options.clear()
        _options.update(before)


def worded(message: str) -> str:
    """The message with its arguments as whoever reads it gives them: an argument that is no option stays as it is."""
    return _ARGUMENT.sub(_as_given, message)


def amount(number: float, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 photo``, ``0 photos``, ``1,234 photos``, ``2.5 minutes``.

    Args:
        number: How many; whole ones have commas between thousands.
        noun: For one of them.
        plural: For any other number; by default with an ``s``.
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else plural or f'{noun}s'}"


def as_keys(message: str) -> str:
    """The message with its arguments as a file of settings has them: ``batch_size: 64``."""
    return _ARGUMENT.sub(lambda found: found[1] if found[2] is None else f"{found[1]}: {found[2]}", message)


def _as_given(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in _options:
        return found[0]
    if value is None or value == "True":
        return _options[name]
    import shlex  # here: the losses alone are imported with nothing else

    value = value.removeprefix("[").removesuffix("]") if value[0] == "[" else value
    is_text = value[0] in "'\"" and value[0] == value[-1] and len(value) > 1
    return f"{_options[name]} {shlex.quote(value[1:-1]) if is_text else value}"
