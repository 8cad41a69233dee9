"""``s2r2``, and ``python -m s2r2`` (``torchrun -m s2r2`` too): the command line."""

import atexit
import os
import sys
import threading


def main() -> None:
    """Run the command line; Ctrl-C while it is being imported is one line, too."""
    ended = threading.Event()
    atexit.register(_leave, ended)  # first, and so called last
    try:
        from s2r2.cli import main as run
    except KeyboardInterrupt:
        print("s2r2: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()
    ended.set()


def _leave(ended: threading.Event) -> None:
    """End the process of a command that has done its work, whatever other threads are still doing.

    The server is ended while a thread may be loading an encoder. Python before 3.14 ends such a thread by unwinding its
    stack when it next wants the interpreter, and C++ code on that stack aborts the process.
    """
    if ended.is_set() and threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
