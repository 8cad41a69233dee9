"""Kernels compiled by numba: whether they can be, and kept on disk where there is a place for it."""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s2r2.system.files import private_folder


@functools.cache
def numba_is_here() -> bool:
    """Whether numba is installed; without it torchvision makes the views."""
    return importlib.util.find_spec("numba") is not None


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, kept on disk between processes; compiled anew in each where no folder can be written to.

    Without numba the function stays as it is, in Python.

    numba keeps it beside the package, or in the user's cache folder, and refuses where there is neither (a read-only
    package and no home); then it is kept in a private folder among the temporary ones.
    """
    if not numba_is_here():
        return lambda function: function
    import numba

    settings: Any = numba.config

    def compiled(function: Callable[..., Any]) -> Any:
        return _one_type_per_number(kept(function))

    def kept(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            folder = private_folder("s2r2-kernels")  # what is kept there is run
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


def _one_type_per_number(dispatcher: Any) -> Any:
    """Compile what kernels call once for each type of number; numba would once more for constants, as in ``n = 0``."""
    from numba.core import types

    resolve = dispatcher.get_call_template

    def resolved(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        named = {name: types.unliteral(kind) for name, kind in keywords.items()}
        return resolve([types.unliteral(kind) for kind in arguments], named)

    dispatcher.get_call_template = resolved
    return dispatcher
