"""What the options of several commands have in common: their types, and how they are read and shown."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from s2r2.errors import ArgumentError
from s2r2.settings.yaml_documents import read_scalar

Data = Annotated[str, arg(metavar="DATA")]
SomeData = Annotated[str | None, arg(metavar="DATA")]
EncoderName = Annotated[str, arg(metavar="ENCODER")]
Folder = Annotated[Path, arg(metavar="DIR")]
File = Annotated[Path, arg(metavar="FILE")]
SomeFile = Annotated[Path | None, arg(metavar="FILE")]
CALLED = {
    "allow_hosts": "allow_host",
    "folder": "index",
    "image": "query",
    "others": "encoder",
    "protocols": "protocol",
    "proxies": "proxy",
    "trust_methods": "trust_method",
    "view_size": "image_size",
}
"""Arguments of the library whose options have other names."""
_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")
T = TypeVar("T")
REGISTRY = tyro.constructors.ConstructorRegistry()


@dataclass(frozen=True)
class DeviceOptions:
    """Where the work is done."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """Processes on this machine that share the work; 0: one per GPU."""
    nodes: int = 1
    """Machines, each running this same command; see docs/scaling.md."""


@dataclass(frozen=True)
class FilterOptions:
    """Only photos for which all of these hold; a photo of which it is not known is left out."""

    folder: Annotated[str | None, arg(metavar="FOLDER")] = None
    """In this folder of DATA, or below it."""
    label: Annotated[str | None, arg(metavar="LABEL")] = None
    """With this label."""
    camera: Annotated[str | None, arg(metavar="NAME")] = None
    """Taken with this camera: make and model as --json prints them."""
    taken_from: date | None = None
    """Taken on this day or later, by the camera's clock."""
    taken_to: date | None = None
    """Taken on this day or earlier."""
    megapixels_from: float | None = None
    """Of so many megapixels or more."""
    megapixels_to: float | None = None
    """Of so many megapixels or fewer."""


def option_names(kind: type) -> dict[str, str]:
    """What a command calls the arguments that messages name: ``{"batch_size": "--batch-size", "data": "DATA"}``.

    Args:
        kind: Its options, perhaps in groups.
    """
    names = {}
    for field, annotations in _fields(kind):
        if dataclasses.is_dataclass(field.default_factory):
            names |= option_names(field.default_factory)
        else:
            is_positional = tyro.conf.Positional in annotations
            names[field.name] = _metavar(annotations) if is_positional else _flag(field.name)
    return names | {argument: names[option] for argument, option in CALLED.items() if option in names}


def refuse_addresses(options: Any) -> None:
    """Refuse an address of object storage where a path is wanted: as a path it would name a folder here.

    Raises:
        ArgumentError: There is one.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            refuse_addresses(value)
        elif isinstance(value, Path) and (found := _ADDRESS.match(str(value))):
            address = f"{found[1]}://{str(value)[found.end() :].lstrip('/')}"
            raise ArgumentError(
                f"`{field.name}={address}`: only DATA may be at an address, give a path on this machine"
            )


def required_options(kind: type) -> list[str]:
    """The options that a command cannot do without, for its line of usage: ``["--index", "DIR"]``."""
    words = []
    for field, annotations in _fields(kind):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and _metavar(annotations) and tyro.conf.Positional not in annotations:
            words += [_flag(field.name), _metavar(annotations)]
    return words


def with_plain_defaults(kind: type) -> type:
    """The same options, whose help is silent of defaults that say nothing, such as None or an empty text.

    What happens without such an option is said by its help.

    Args:
        kind: Options, perhaps in groups.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields: list[tuple[str, Any, dataclasses.Field[Any]]] = []
    for field, annotations in _fields(kind):
        group, hint = field.default_factory, hints[field.name]
        if dataclasses.is_dataclass(group):
            group = hint = with_plain_defaults(hint)
        elif not any(getattr(found, "help_behavior_hint", None) for found in annotations):
            hint = Annotated[hint, arg(help_behavior_hint=_default)]
        fields.append((field.name, hint, dataclasses.field(default=field.default, default_factory=group)))
    return dataclasses.make_dataclass(
        kind.__name__, fields, bases=(kind,), namespace={"__doc__": kind.__doc__}, frozen=True
    )


def _default(shown: str) -> str:
    return "" if shown in ("", "''", "None", "False") else f"(default: {shown})"


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], tuple[Any, ...]]]:
    """The fields of options, and how each is annotated."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        yield field, get_args(hints[field.name])[1:] if get_origin(hints[field.name]) is Annotated else ()


def _metavar(annotations: tuple[Any, ...]) -> str:
    return next((found.metavar for found in annotations if getattr(found, "metavar", None)), "")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@REGISTRY.primitive_rule
def _optional_folder(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path | None] | None:
    """A folder that may be left out; settings of training know nothing of the command line."""
    return _optional(kind, Path, "DIR", Path)


@REGISTRY.primitive_rule
def _optional_number(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float | None] | None:
    """A number that may be left out."""
    return _optional(kind, float, "FLOAT", float)


@REGISTRY.primitive_rule
def _optional_day(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[date | None] | None:
    """A day that may be left out."""
    return _optional(kind, date, "YYYY-MM-DD", _parse_day)


def _parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is no day such as 2024-05-31") from None


def _optional(
    kind: PrimitiveTypeInfo, made: type[T], metavar: str, parse: Callable[[str], T]
) -> PrimitiveConstructorSpec[T | None] | None:
    if kind.type != made | None:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: value is None or isinstance(value, made),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _named_values(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[dict[str, Any]] | None:
    """``--options form=geometric bank=4096`` as a mapping; values are read as in a file."""
    if kind.type != dict[str, Any]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=_parse_named_values,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={setting}" for name, setting in value.items()],
    )


def _parse_named_values(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word} is not NAME=VALUE")
        if name in options:
            raise ValueError(f"{name} is given twice")
        options[name] = read_scalar(value)
    return options
