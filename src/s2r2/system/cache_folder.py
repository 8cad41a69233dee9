"""The folder of what s2r2 can make again: decoded photos, downloaded data sets, indexes of tars."""

import os
import sys
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.system.files import private_folder


def cache_folder() -> Path:
    """Where s2r2 keeps what it can make again: ``S2R2_CACHE``, or ``s2r2`` in the user's cache folder."""
    chosen = os.environ.get("S2R2_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if os.name == "nt":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:  # as the XDG rules have it, a relative folder does not count
            base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home; others may write to the folder of temporary files
        private = private_folder("s2r2-cache")
        if private is None:
            raise S2R2Error("there is no home folder for decoded photos: set S2R2_CACHE to a folder") from None
        base = private
    return base / "s2r2"
