"""Where pixel stores are kept, listing them, and clearing them."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.locking import locked

DESCRIPTION = "store.json"
LOCK = "lock"


def cache_folder() -> Path:
    """Where s2r2 keeps what it can make again: ``S2R2_CACHE``, or ``s2r2`` in the user's cache folder."""
    chosen = os.environ.get("S2R2_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "s2r2"


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
    for path in sorted({file.parent for file in stores_folder(folder).glob("*/journal-*.jsonl")}):
        description = path / DESCRIPTION
        content = {}
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(description.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            used = (description if description.exists() else path).stat().st_mtime
            found.append(StoreInfo(path, content.get("name", path.name), content.get("images", 0), size, used))
    return sorted(found, key=lambda store: (-store.used, store.path))


def clear_stores(folder: Path | None = None, stores: Sequence[StoreInfo] | None = None) -> int:
    """Delete stores, those that are being built left out; returns the bytes set free.

    Args:
        folder: Where the stores are; by default the cache.
        stores: Which of them, as from :func:`list_stores`; by default all.
    """
    freed = 0
    for store in list_stores(folder) if stores is None else stores:
        try:
            with locked(store.path / LOCK, f"building the pixel store {store.path}", "wait until it has finished"):
                # The description first: a store that is half deleted must not look finished.
                (store.path / DESCRIPTION).unlink(missing_ok=True)
                shutil.rmtree(store.path)
            freed += store.size
        except (S2R2Error, OSError):
            continue
    return freed
