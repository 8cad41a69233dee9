"""Settings whose names have changed: for one version the former names still work, and a line says what to write."""

from collections.abc import Mapping, Sequence
from typing import Any

from s2r2.system.terminal import say

RENAMED = {"optimiser": "optimizer"}
"""Former names of settings of training, and what they are called now."""


def with_current_names(
    settings: dict[str, Any], names: Mapping[str, str] = RENAMED, *, announced: bool = False
) -> dict[str, Any]:
    """The settings under the names that they have in this version.

    Args:
        settings: By name; a run folder of an earlier version has former names.
        names: Former names, and what they are called now.
        announced: Whether to say which names have changed, to somebody who can write the new ones.
    """
    former = {name for name in settings if name in names and names[name] not in settings}
    for name in former if announced else ():
        _announce(name, names[name])
    return {names[name] if name in former else name: value for name, value in settings.items()}


def with_current_options(arguments: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """A command line's arguments with the options that this version knows; what has changed is said.

    Args:
        arguments: Those of one command.
        renamed: Former names of its options, without dashes, and what they are called now.
    """
    current = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_") if option.startswith("--") else ""
        if name in renamed:
            new = "--" + renamed[name].replace("_", "-")
            _announce(option, new)
            argument = new + equals + value
        current.append(argument)
    return current


def _announce(former: str, current: str) -> None:
    say(f"s2r2: {former} is now called {current}; the former name works in this version for the last time", error=True)
