"""``DATA``, as people write it: whatever a registered kind of source recognizes."""

import difflib
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.remote import is_remote, local
from s2r2.images.sources.joining import JoinedSource
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, built_in_names, source_kinds, what_data_may_be
from s2r2.images.sources.source import ImageSource
from s2r2.system.files import os_reason


def open_source(data: str | Path | Sequence[str | Path]) -> ImageSource:
    """Open images for reading.

    Args:
        data: A folder of photos, a manifest, a ``.tar``, tar shards, a data set in its published layout or a built-in
            name, as :func:`s2r2.images.source_kinds` lists them, perhaps with a part after a colon
            (``photos.csv:test``); or several of these.

    Raises:
        S2R2Error: There is nothing there, or nothing that is an image.
    """
    if not isinstance(data, str | Path):
        sources = [open_source(part) for part in data]
        if not sources:
            raise ArgumentError(f"no `data`: give {what_data_may_be()}")
        return sources[0] if len(sources) == 1 else JoinedSource(sources)
    text = local(str(data))
    try:
        return _open(parse(text))
    except (OSError, ValueError) as error:  # a name with a NUL, or longer than the system takes; a disk that fails
        raise S2R2Error(f"cannot read {printable(text)}: {os_reason(error)}") from None


def parse(text: str) -> Data:
    """Place and part: ``stl10:test`` is the part test of stl10, unless there is a file of that very name."""
    place, colon, part = text.rpartition(":")
    if not colon or is_remote(text) or Path(text).exists():
        return Data(text, text)
    if place not in built_in_names() and not Path(place).expanduser().exists():
        return Data(text, text)
    return Data(text, place, part)


def absolute_data(data: str | Path) -> str:
    """``DATA`` as it is found from any folder: a path made absolute; a built-in name or an address as it is.

    Links are not followed: the rows of a manifest are relative to the folder of the link to it.
    """
    parsed = parse(str(data))
    if "://" in parsed.place or parsed.name:
        return parsed.text
    return f"{parsed.path.absolute()}{f':{parsed.part}' if parsed.part else ''}"


def data_under(root: Path, data: str) -> str:
    """``DATA`` whose path may start from a folder, as it is found from any other.

    Args:
        root: The folder.
        data: A path, perhaps with a part, or a pattern of shards: there if something is there, else as it is; or a
            built-in name or an address.
    """
    there = parse(str(root / data))
    shards = ".tar" in data and any(glob.iglob(re.sub(r"\{[^{}]*\}", "*", data), root_dir=root, recursive=True))
    return absolute_data(there.text if there.path.exists() or shards else data)


def _open(data: Data) -> ImageSource:
    for kind in source_kinds():
        source = kind.open(data)
        if source is not None:
            return source
    text = printable(data.text)
    if not data.path.exists():
        near = difflib.get_close_matches(data.path.name.partition(":")[0], _neighbors(data.path), n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"give {what_data_may_be()}"
        raise S2R2Error(f"no such file or folder: {text}; {hint}")
    if not data.path.is_file():
        raise S2R2Error(f"{text} is neither a folder nor a regular file: give one of these")
    raise S2R2Error(f"{text} is not data that can be read: give {what_data_may_be()}")


def _neighbors(path: Path) -> list[str]:
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    return [*beside, *built_in_names()]
