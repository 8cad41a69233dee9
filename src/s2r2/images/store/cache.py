"""Where pixel stores are kept, listing them, and clearing them."""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.system.cache_folder import cache_folder
from s2r2.system.locking import locked

DESCRIPTION = "store.json"
LOCK = "lock"
_STORE = re.compile(r".+-(\d+|full)-[0-9a-f]{12}")
_JOURNAL = re.compile(r"journal-\d+\.jsonl")
_FILES = re.compile(
    r"pixels-\d+\.bin|journal-\d+\.jsonl|store\.json|suspect|lock|\.(store\.json|[a-z]+-\d+\.\w+)\.\w+\.tmp"
)
"""Names of a store's folder, and of the files that building it writes there: nothing else is ever removed."""


def stores_folder(folder: Path | None) -> Path:
    """The folder in which stores are made, by default the one in the cache."""
    return cache_folder() / "stores" if folder is None else Path(folder)


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk.

    Attributes:
        path: Its folder.
        name: The source that it was made of.
        images: Readable images in it; 0 for one whose building was broken off.
        size: Bytes on disk.
        used: When it was last used, in seconds since 1970.
    """

    path: Path
    name: str
    images: int
    size: int
    used: float


def list_stores(folder: Path | None = None) -> list[StoreInfo]:
    """The stores in a folder (by default the cache), the last used first; unfinished ones among them."""
    found = []
    for path in _store_folders(stores_folder(folder)):
        description = path / DESCRIPTION
        content = {}
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(description.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_size for file in _own_files(path))
            used = (description if description.exists() else path).stat().st_mtime
            found.append(StoreInfo(path, content.get("name", path.name), content.get("images", 0), size, used))
    return sorted(found, key=lambda store: (-store.used, store.path))


def clear_stores(folder: Path | None = None, stores: Sequence[StoreInfo] | None = None) -> int:
    """Delete stores, those that are being built left out; returns the bytes set free.

    Only files that a store writes itself are removed, and its folder if nothing else is in it. No link is followed.

    Args:
        folder: Where the stores are; by default the cache.
        stores: Which of them, as from :func:`list_stores`; by default all.
    """
    freed = 0
    for store in list_stores(folder) if stores is None else stores:
        with contextlib.suppress(S2R2Error, OSError):
            with locked(store.path / LOCK, f"building the pixel store {store.path}", "wait until it has finished"):
                # The description first: a store that is half deleted must not look finished.
                for file in sorted(_own_files(store.path), key=lambda file: file.name != DESCRIPTION):
                    if file.name != LOCK:  # it goes with its holder
                        size = file.stat().st_size
                        file.unlink()
                        freed += size
            with contextlib.suppress(FileNotFoundError):
                (store.path / LOCK).unlink()  # an older version's
            store.path.rmdir()
    return freed


def _store_folders(place: Path) -> list[Path]:
    """Folders that are stores, by their names and a journal; none that is a link."""
    try:
        entries = [Path(entry) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(
        entry
        for entry in entries
        if _STORE.fullmatch(entry.name) and any(_JOURNAL.fullmatch(file.name) for file in _own_files(entry))
    )


def _own_files(store: Path) -> list[Path]:
    """Files in a store's folder that building it has written; none that is a link."""
    try:
        with os.scandir(store) as entries:
            return [Path(e) for e in entries if e.is_file(follow_symlinks=False) and _FILES.fullmatch(e.name)]
    except OSError:
        return []
