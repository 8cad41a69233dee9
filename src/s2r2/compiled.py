"""Kernels compiled by numba: whether they can be, and kept on disk where there is a place for it."""

import functools
import importlib.util
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def numba_is_here() -> bool:
    """Whether numba is installed; without it NumPy, Pillow and torchvision do what the kernels do."""
    return importlib.util.find_spec("numba") is not None


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, kept on disk between processes; compiled anew in each where no folder can be written to.

    numba keeps it beside the package, or in the user's cache folder, and refuses where there is neither (a read-only
    package and no home); then it is kept in a private folder among the temporary ones.
    """
    import numba

    settings: Any = numba.config

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            folder = _private_folder()
        if folder is None:
            return numba.njit(**options)(function)
        chosen, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)
        finally:
            settings.CACHE_DIR = chosen

    return compiled


def _private_folder() -> Path | None:
    """A temporary folder that nobody else can write to: what is kept there is run. None where it is not so."""
    if not hasattr(os, "getuid"):
        return None
    folder = Path(tempfile.gettempdir()) / f"s2r2-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None
