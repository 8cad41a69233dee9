"""Processes that end with the one that started them, even if that is killed."""

import contextlib
import os
import select
import signal
import sys
import sysconfig
import threading
import time
from pathlib import Path

_POLL = 0.5
PARENT = "S2R2_PARENT"
"""The environment variable in which a parent may leave its number: then a child that starts too late notices, too."""


def end_with_parent(signal_number: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> None:
    """End this process when the one that started it is gone; called first thing in a child.

    A thread watches, as Linux's own way (``PR_SET_PDEATHSIG``) means the parent's *thread*, and ends what a thread of a
    pool has started as soon as that thread is done.

    Args:
        signal_number: How; SIGKILL by default.
    """
    parent = int(os.environ.pop(PARENT, "") or os.getppid())
    threading.Thread(target=_watch, args=(parent, signal_number), name="end-with-parent", daemon=True).start()


def known_to_children() -> dict[str, str]:
    """What to add to the environment of children that call :func:`end_with_parent`."""
    return {PARENT: str(os.getpid())}


def module_command(module: str) -> list[str]:
    """The command that runs a module of s2r2 in a child, with :func:`module_environment`.

    ``-P``: else a ``torch.py`` among the photos in the working folder would be run.
    """
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """What a child needs in its environment to find this same s2r2."""
    place = str(Path(__file__).resolve().parents[2])
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if place in others or place == sysconfig.get_path("purelib"):
        return {}
    return {"PYTHONPATH": os.pathsep.join([place, *others])}


def _watch(parent: int, signal_number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # no pidfd_open: another system, or an old Linux
        descriptor = os.pidfd_open(parent)
        if os.getppid() == parent:  # else the number is another's by now
            select.select([descriptor], [], [])
        os.close(descriptor)
    while os.getppid() == parent:
        time.sleep(_POLL)
    os.kill(os.getpid(), signal_number)
