"""Tables that name images, as files of their own or inside tars: their rows, and what cells say of labels and parts."""

import csv
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.remote import FILE, is_remote, local
from s2r2.images.sources.names import printable

LIST = "\0"
"""What a cell that was a list of labels, and no text, begins with; it stands between them as well."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def rows(lines: Iterable[str], table: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not blank.

    Raises:
        S2R2Error: A quote is not closed, or a cell is longer than any name.
    """
    reader = csv.reader(lines, strict=True)
    line = 0
    try:
        for row in reader:
            if row and (row[0].strip() or any(map(str.strip, row))):
                yield reader.line_num, row
            line = reader.line_num
    except csv.Error as error:
        why = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise S2R2Error(
            f"cannot read {table} from line {line + 1} on ({why}): it must be a comma-separated table in UTF-8, with "
            f"quotes doubled inside of quotes"
        ) from None


def places(names: Sequence[str], wanted: Sequence[str], table: str) -> dict[str, int]:
    """Which column each of the wanted names is, and each that names parts; capitals and blanks do not count.

    Raises:
        S2R2Error: Two columns have the same name.
    """
    found: dict[str, int] = {}
    for place, column in enumerate(names):
        name = column.strip().lower()
        if name not in wanted and not is_split(name):
            continue
        if name in found:
            raise S2R2Error(f"{table} has two columns named {name}: rename one of them")
        found[name] = place
    return found


def is_split(name: str) -> bool:
    """Whether a column says to which part an image belongs."""
    return name == "split" or name.endswith("_split")


def surplus(row: Sequence[str], columns: int) -> str:
    """What is wrong with a row that has more cells than there are columns: its cells cannot be told apart."""
    if not any(cell.strip() for cell in row[columns:]):
        return ""
    return f"{len(row)} cells where there are {columns} columns: put quotes around what has a comma in it"


def label_lists(cells: Sequence[str], table: str) -> list[list[str]]:
    """The labels in each of a column's different cells: joined by ``;``, none in an empty one.

    A column of numbers in which some are missing comes out of many programs with NaN for those, and with 3.0 for 3:
    there NaN is no label, and whole numbers are written as such. Whatever else stands in a cell is taken as it is.

    Raises:
        S2R2Error: A label runs over several lines: a quote is missing.
    """
    stripped = [cell.strip() for cell in cells]
    broken = next((text for text in stripped if "\n" in text or "\r" in text), None)
    if broken is not None:
        first = printable(broken.splitlines()[0][:80])
        raise S2R2Error(f"{table}: the label that begins with {first!r} runs over several lines: close its quote")
    numbers = without_nan(stripped)
    if "" in numbers and all(_WHOLE.fullmatch(text) for text in numbers if text):
        numbers = [text.partition(".")[0] for text in numbers]
    return [_split(text) for text in numbers]


def without_nan(cells: Sequence[str]) -> list[str]:
    """The cells of a column, empty for NaN if all others are numbers."""
    known = [text for text in cells if text and text.lower() != "nan"]
    if len(known) == len(cells) or not all(map(_NUMBER.fullmatch, known)):
        return list(cells)
    return [text if text.lower() != "nan" else "" for text in cells]


def _split(text: str) -> list[str]:
    parts = text.split(LIST if text.startswith(LIST) else ";")
    return [part.strip() for part in parts if part.strip()]


def row_path(folder: Path | str, text: str) -> str:
    """The file that a row of a table in ``folder``, which may be at an address, names, or its address.

    ``~/`` is the user's folder. Tables travel: where there is no file of just this name, it may be there with slashes
    in the place of backslashes, or with its accents written the other way, as macOS does.
    """
    if is_remote(text):
        return text
    if isinstance(folder, str):
        store, _, inner = folder.partition("://")
        is_path = text.startswith((FILE, "/", "~/"))
        return local(text) if is_path else f"{store}://{posixpath.normpath(posixpath.join(inner, text))}"
    text = local(text)
    plain = folder / (os.path.expanduser(text) if text.startswith(("~/", "~\\")) else text)
    if text.isascii() and "\\" not in text:
        return str(plain)
    name = str(plain)
    slashes = name.replace("\\", "/")
    others = (name, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))
    return next((other for other in others if exists(other)), name)


def exists(path: str) -> bool:
    """Whether there is a file, or a link, of this name."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the path
        return False
