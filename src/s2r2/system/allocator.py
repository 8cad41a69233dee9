"""Memory that is freed goes back to the system."""

import contextlib
import ctypes


def return_freed_memory() -> None:
    """Have glibc give the memory of decoded photos back to the system rather than keep it for each thread.

    Its defaults let a process that decodes, in many threads or photo after photo, grow for a long time, without
    anything being leaked.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library: its own ways will do
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-8, 2)  # M_ARENA_MAX: heaps that threads share
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: larger pieces are returned at once; setting it keeps it from rising
