"""The protocols that there are: in this folder, in other packages (entry points ``s2r2.protocols``), and in files."""

from collections.abc import Iterable, Sequence

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.protocols.base import Protocol, Space
from s2r2.evaluation.task import Outcome, Task
from s2r2.system.code_files import is_code_file, load_class
from s2r2.system.plugins import load_plugins

_REGISTERED: dict[str, Protocol] = {}


def register_protocol(protocol: type[Protocol]) -> type[Protocol]:
    """Make a protocol known by its name to ``evaluate``, to studies and to the help; a decorator of its class."""
    _REGISTERED[protocol.name] = protocol()
    return protocol


def all_protocols() -> list[Protocol]:
    """Every protocol, in the order in which tables show their figures."""
    load_plugins("s2r2.evaluation.protocols", "s2r2.protocols")
    return sorted(_REGISTERED.values(), key=lambda protocol: protocol.place)


def find_protocols(names: Iterable[str]) -> list[Protocol]:
    """The usual protocols and those asked for, each by its name or as ``FILE.py`` with a class of its own.

    Raises:
        S2R2Error: There is no such protocol, or the file does not run.
    """
    known = {protocol.name: protocol for protocol in all_protocols()}
    found = [protocol for protocol in known.values() if protocol.usual]
    for name in dict.fromkeys(names):
        if is_code_file(name):
            found.append(load_class(name, Protocol, f"protocol {name}")())  # type: ignore[type-abstract]
        elif name in known:
            found += [known[name]] if known[name] not in found else []
        else:
            asked = ", ".join(protocol.name for protocol in known.values() if not protocol.usual)
            raise ArgumentError(f"protocol {name!r} is not known: use {asked}, or give a FILE.py with a Protocol")
    return sorted(found, key=lambda protocol: protocol.place)


def fitting_protocols(names: Sequence[str], task: Task) -> list[Protocol]:
    """The protocols asked for, and the usual ones that the images of a task allow.

    Raises:
        S2R2Error: A protocol that was asked for is not known, or the images lack what it needs.
    """
    fitting = []
    for protocol in find_protocols(names):
        missing = next((need for need in protocol.needs if not need.is_met(task)), None)
        if missing is None:
            fitting.append(protocol)
        elif not protocol.usual or protocol.name in names:
            raise S2R2Error(f"protocol {protocol.name} needs {missing.value}")
    return fitting


def run_protocols(protocols: Sequence[Protocol], space: Space, task: Task) -> dict[str, Outcome]:
    """The figures of a space by all protocols that apply to it."""
    return {
        name: outcome
        for protocol in protocols
        if protocol.applies_to(space)
        for name, outcome in protocol.evaluate(space, task).items()
    }


def describe_protocols() -> str:
    """Every protocol, for people: a line each, the usual ones last."""
    lines = [
        f"{protocol.name:<12}  {protocol.summary}{' (always)' if protocol.usual else ''}"
        for protocol in sorted(all_protocols(), key=lambda protocol: protocol.usual)
    ]
    return "\n".join(lines)
