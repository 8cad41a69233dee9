"""Whether the kernels can be compiled here."""

import functools
import importlib.util


@functools.cache
def numba_is_here() -> bool:
    """Whether numba is installed; without it NumPy, Pillow and torchvision do what the kernels do."""
    return importlib.util.find_spec("numba") is not None
