"""Every text of the package that advises something: read from its source, wherever it is put together."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import s2r2

SOURCE = Path(s2r2.__file__).parent
VERBS = (
    "add|adjust|allow|ask|begin|build|call|change|check|choose|clear|close|compare|connect|convert|copy|"
    "correct|create|declare|decode|delete|disable|divide|drop|edit|enable|ensure|evaluate|export|extract|fetch|"
    "fix|force|free|give|go|increase|install|keep|leave|let|limit|list|load|look|lower|make|mount|move|name|"
    "normalise|normalize|number|omit|open|pack|pass|pick|pip|point|prefer|put|quote|raise|re-run|rebuild|"
    "reduce|remove|rename|repair|replace|rerun|reset|resize|restart|restore|resume|retry|return|run|save|see|separate|"
    "set|shorten|skip|split|start|state|stop|take|train|try|tune|turn|unmount|unpack|unset|update|upgrade|use|"
    "wait|write"
)
_ADVICE = re.compile(
    rf"(?:^|\{{\}}|[:;,.(—]\s|\b(?:or|and|then|please|instead)\s)(?:{VERBS})\b"
    r"|(?<![\w-])--[a-z][a-z-]+|`[a-z_]+(?:=[^`]*)?`|\bs2r2 [a-z]+|\bpip install|\bS2R2_[A-Z]+",
    re.IGNORECASE,
)
_ON_PAGES = re.compile(r"Error\(([`\"])(?P<error>.+?)\1\)|<code>(?P<code>.+?)</code>")


class Place(NamedTuple):
    """A text that advises something.

    Attributes:
        where: File and line, for whoever has to enter it.
        text: With ``{}`` in place of what is filled in.
    """

    where: str
    text: str


def advice() -> list[Place]:
    """Every text of the package that names an option, a command or a variable, or tells somebody to do something."""
    return [place for place in (*_python(), *_pages()) if _ADVICE.search(place.text) and " " in place.text.strip()]


def is_piece(piece: str, text: str) -> bool:
    """Whether it is a piece of the text; with ``$`` behind it, the whole of it."""
    return text == piece[:-1] if piece.endswith("$") else piece in text


def pattern(piece: str) -> re.Pattern[str]:
    """What a piece of a text, with ``{}`` for what is filled in, looks like in a message; arguments may be options."""
    parts = re.split(r"(\{\}|`[a-z_]+(?:=[^`]*)?`)", piece.removesuffix("$"))
    return re.compile("".join(".*?" if part == "{}" else _either(part) for part in parts), re.DOTALL)


def _either(part: str) -> str:
    """An argument in backticks, or the option or the position that a command has for it."""
    if not part.startswith("`"):
        return re.escape(part)
    name = part.strip("`").partition("=")[0]
    return rf"(?:`{name}(?:=[^`]*)?`|(?:--[a-z-]+|[A-Z]+)(?: '[^']*'| [^\s;:]+)?)"


def _python() -> Iterator[Place]:
    for path in sorted(SOURCE.rglob("*.py")):
        for line, text in _texts(ast.parse(path.read_text())):
            yield Place(f"{path.relative_to(SOURCE)}:{line}", text)


def _pages() -> Iterator[Place]:
    pages = (path for kind in ("js", "html", "j2") for path in SOURCE.rglob(f"*.{kind}"))
    for path in sorted(path for path in pages if path.name != "deck.js"):  # not ours: vendor/deck
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for found in _ON_PAGES.finditer(line):
                text = re.sub(r"\$?\{.*?\}+", "{}", found["error"] or found["code"])
                yield Place(f"{path.relative_to(SOURCE)}:{number}", text)


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string in the code; docstrings are no messages."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    text = _joined(tree)
    if text is None:
        children = ast.iter_child_nodes(tree)
    else:
        yield getattr(tree, "lineno", 0), text
        children = (node.value for node in ast.walk(tree) if isinstance(node, ast.FormattedValue))
    for child in children:
        yield from _texts(child)


def _joined(node: ast.AST) -> str | None:
    """The text of a string, an f-string, or a sum of these."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_joined(part) or "{}" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = _joined(left), _joined(right)
            return None if texts == (None, None) else "".join("{}" if text is None else text for text in texts)
    return None
