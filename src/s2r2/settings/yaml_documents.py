"""YAML as people write it and strangers send it: read by YAML 1.2's rules, bounded, with the line of every value.

PyYAML follows YAML 1.1, where ``1e-3`` is a text, ``no`` is false and ``12:30`` is 750. Keys are texts, as written.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from s2r2.errors import S2R2Error
from s2r2.settings.values import Mistakes, Where

MOST_BYTES = 256 << 10
MOST_VALUES = 50_000
MOST_DEPTH = 40

_SCALARS = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN", list("-+.")),
    ("merge", r"<<", ["<"]),
]
_NAN_AND_INF = {".nan": float("nan"), ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (not an instance variable, whatever the stubs say)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (not an instance variable, whatever the stubs say)


for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def write_yaml(content: Any) -> str:
    """Plain values as YAML that :func:`read_yaml` reads back, and other readers too."""
    text: str = yaml.dump(content, Dumper=_Both, sort_keys=False, allow_unicode=True)
    if any(
        c in text for c in "\x85\u2028\u2029\ufeff"
    ):  # line ends to readers of YAML, which its writer forgets to escape
        text = yaml.dump(content, Dumper=_Both, sort_keys=False)
    return text


def read_yaml(path: Path) -> tuple[dict[str, Any], Mistakes]:
    """The mapping in a YAML file, and a place for mistakes in it that knows its lines.

    Keys that occur twice are in it already.

    Raises:
        S2R2Error: The file cannot be read, is no YAML, no mapping, or larger than settings ever are.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise S2R2Error(f"{path} is larger than {MOST_BYTES >> 10} KiB: too large for settings")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise S2R2Error(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise S2R2Error(f"{path}, line {line}: not UTF-8: save the file as UTF-8") from error
    return read_yaml_text(text, str(path))


def read_yaml_text(text: str, name: str) -> tuple[dict[str, Any], Mistakes]:
    """As :func:`read_yaml`, from text; the name stands in messages."""
    mistakes = Mistakes(name)
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = _Reader(mistakes).plain(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = "a tab: indent with blanks" if "'\\t'" in str(error.problem) else error.problem or error.context
        raise S2R2Error(f"{name}, line {mark.line + 1 if mark else 1}: {problem}") from error
    except yaml.YAMLError as error:
        raise S2R2Error(f"{name}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise S2R2Error(f"{name}: nested too deeply") from error
    if not isinstance(values, dict):
        found = "empty" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise S2R2Error(f"{name} is {found}: it must be NAME: VALUE, one a line")
    return values, mistakes


def read_scalar(text: str) -> Any:
    """A value on the command line, read as in a file: ``1e-3`` is a number; a text if it is nothing else."""
    try:
        return _Reader(Mistakes("")).plain(yaml.compose(text, Loader=_Loader), ())
    except (yaml.YAMLError, S2R2Error, RecursionError):
        return text


class _Both(_Dumper):
    """Quotes what either version of YAML would take for something else than a text."""


for _first_letter, _resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items():
    for _tag, _regexp in _resolvers:
        _Both.add_implicit_resolver(_tag, _regexp, [_first_letter])


class _Reader:
    """From nodes to plain values, noting lines; what is used several times counts each time."""

    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self.values = 0

    def plain(self, node: yaml.Node | None, where: Where) -> Any:
        """The value of a node."""
        if node is None:
            return None
        self.values += 1
        if self.values > MOST_VALUES or len(where) > MOST_DEPTH:
            raise S2R2Error(f"{self.mistakes.name}: too many values, or values nested too deeply, for settings")
        self.mistakes.lines[where] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(part, (*where, number)) for number, part in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise S2R2Error(f"{self.mistakes.name}, line {line}: a key must be a single word or text")
            if key.tag.endswith(":merge") and key.style is None:
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found = self.plain(part, where)
                    if not isinstance(found, dict):
                        raise S2R2Error(f"{self.mistakes.name}, line {line}: << must be given a mapping")
                    merged = {**found, **merged}
                continue
            place = (*where, key.value)
            if key.value in values:
                self.mistakes.add(place, f"is given twice, first in line {self.mistakes.lines[place]}", line)
                continue
            values[key.value] = self.plain(value, place)
            self.mistakes.lines[place] = line
        return {**merged, **values}

    def _scalar(self, node: yaml.Node, where: Where) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text, 16) if text[:2] == "0x" else int(text)
            if kind == "float":
                return _NAN_AND_INF.get(text.lower()) if text.lower() in _NAN_AND_INF else float(text)
        except ValueError:
            kind = ""
        if kind not in ("str", "bool"):
            self.mistakes.add(where, f"{text[:40]!r} is not what its tag {node.tag!r} says")
        return text
