"""``python -m s2r2.system.late_signals -m MODULE ...``: a module whose first seconds no signal of a cluster can end.

A job of a study imports for seconds before it can save and be queued again. SIGUSR2, by which it is told to, would end
it until then: here it waits until :func:`take_signals`.
"""

import runpy
import signal
import sys

MODULE = "s2r2.system.late_signals"


def take_signals() -> None:
    """From now on SIGUSR2 arrives; one that was sent meanwhile arrives now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def main(words: list[str]) -> None:
    """Run the module that the words name behind ``-m``, with the words after it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    module, *sys.argv[1:] = words[words.index("-m") + 1 :]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
