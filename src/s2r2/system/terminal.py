"""What is said to people: as it is, on any terminal, whatever somebody has called a file.

Names, labels and reasons come from strangers. They are never parsed as markup, what they hold of control characters is
made visible, and what a terminal's encoding lacks is written another way.
"""

import codecs
import re
import sys
import unicodedata
from typing import Any

FITTING = "s2r2-fitting"
_ASCII = str.maketrans(
    {"±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "→": "->", "≥": ">=", "≤": "<=", "·": "."}
    | dict.fromkeys("━─╸╺", "-")
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”", '"')
)
_JOINERS = "\u200c\u200d"
"""Invisible, but part of emoji and of several scripts."""
_RUN_BY_SPREADSHEETS = re.compile(r"'*(?:\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z|[+-]?(?:inf|nan)\Z")


def visible(text: object, kept: str = "") -> str:
    r"""The text with control characters, invisible marks and what is no Unicode written out, as ``\x1b``.

    Args:
        text: Anything; its ``str``.
        kept: Control characters that stay.
    """
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    return "".join(sign if sign in kept or _is_harmless(sign) else _written_out(sign) for sign in found)


def _is_harmless(sign: str) -> bool:
    return sign in _JOINERS or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _written_out(sign: str) -> str:
    number = ord(sign)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        number -= 0xDC00
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(sign)
    return short or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def _fitting(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(sign if sign.isascii() else _written_out(sign) for sign in text), error.end


codecs.register_error(FITTING, _fitting)


def fitting(text: str, encoding: str | None) -> str:
    """The text as far as an encoding has it; for the rest what stands for it in ASCII."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, FITTING).decode(encoding)


def say(line: object = "", *, error: bool = False) -> None:
    """Print one line on stdout, or as an error on stderr, whatever is in it."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(fitting(visible(line), getattr(stream, "encoding", None)), file=stream, flush=True)


def make_streams_fitting() -> None:
    """Let nothing that this process prints end it because the terminal's encoding lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=FITTING)


def csv_safe(cell: object) -> Any:
    """The cell as a spreadsheet shows it and does not run it: ``=1+1`` becomes ``'=1+1``. Numbers stay as they are.

    :func:`csv_plain` undoes it.
    """
    if isinstance(cell, str) and _RUN_BY_SPREADSHEETS.match(cell) and not _NUMBER.match(cell):
        return "'" + cell
    return cell


def csv_plain(cell: str) -> str:
    """What :func:`csv_safe` was given."""
    return cell[1:] if cell.startswith("'") and _RUN_BY_SPREADSHEETS.match(cell) else cell
