"""What opening data has left in the cache folder: rows of long manifests, indexes of tars, copies of remote tables."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.sources.listing import ABOUT, NAMES, listing_files, remove_listing
from s2r2.system.cache_folder import cache_folder
from s2r2.system.locking import locked

UNUSED_DAYS = 90
"""What nobody has opened for so long is removed when something new is kept."""
_DIGEST = r"[0-9a-f]{24}"
_LISTING, _INDEX = re.compile(rf"{_DIGEST}(\.new)?"), re.compile(rf"{_DIGEST}\.arrow")
_COPY = re.compile(rf"{_DIGEST}\.(csv|parquet)")


@dataclass(frozen=True)
class Kept:
    """Something that can be made again.

    Attributes:
        path: Its file or folder.
        name: What it was made of.
        size: Bytes on disk.
        used: When it was last used, in seconds since 1970.
    """

    path: Path
    name: str
    size: int
    used: float


def list_kept() -> list[Kept]:
    """All of it, the last used first."""
    found = [*_listings(), *_files("shards", _INDEX, "a tar's index"), *_files("tables", _COPY, "a table's copy")]
    return sorted(found, key=lambda kept: (-kept.used, kept.path))


def clear_kept(unused_days: float = 0) -> int:
    """Delete it, what is being made left out; returns the bytes set free.

    Only files that opening data writes itself are removed. Who has mapped them keeps them until it ends.

    Args:
        unused_days: Only what was not used for so long.
    """
    before = time.time() - unused_days * 86_400
    freed = 0
    for kept in list_kept():
        if unused_days and kept.used > before:
            continue
        with suppress(S2R2Error, OSError):
            if kept.path.parent.name != "manifests":
                kept.path.unlink()
            else:
                with locked(kept.path.with_suffix(".lock"), f"reading {kept.name}", "wait until it has finished"):
                    remove_listing(kept.path)
            freed += 0 if kept.path.exists() else kept.size
        with suppress(OSError):
            if kept.path.parent.parent.name == "tables":
                kept.path.parent.rmdir()
    return freed


def _listings() -> Iterator[Kept]:
    for path in _inside(cache_folder() / "manifests", _LISTING):
        with suppress(OSError):
            name = "a manifest"
            with suppress(OSError, ValueError, KeyError):
                name = str(json.loads((path / ABOUT).read_text(encoding="utf-8"))["table"])
            dated = next((file for file in (path / ABOUT, path / NAMES) if file.exists()), path)
            yield Kept(path, name, sum(file.stat().st_size for file in listing_files(path)), dated.stat().st_mtime)


def _files(folder: str, names: re.Pattern[str], name: str) -> Iterator[Kept]:
    place = cache_folder() / folder
    folders = [place] if folder == "shards" else _inside(place, re.compile(_DIGEST))
    for path in (path for folder in folders for path in _inside(folder, names)):
        with suppress(OSError):
            yield Kept(path, name, path.stat().st_size, path.stat().st_mtime)


def _inside(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """What has such a name in a folder, and is no link."""
    try:
        return sorted(path for path in folder.iterdir() if names.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return []
