"""A command from its words to its exit code."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence

from s2r2.cli.commands import parse, with_current_names
from s2r2.distributed.launching import is_follower, is_launched
from s2r2.errors import MistakesError, S2R2Error, SharedError
from s2r2.system.child_processes import end_with_parent
from s2r2.system.files import NO_ROOM
from s2r2.system.terminal import make_streams_fitting, say
from s2r2.system.wording import arguments_shown_as, worded

LAST_WORDS = 10.0
"""Seconds that a process waits for another to say why all of them end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2.

    Args:
        arguments: Without the command's own name; by default those of this process.
    """
    if is_launched():
        end_with_parent()
    make_streams_fitting()
    _wait_briefly()
    words = with_current_names(sys.argv[1:] if arguments is None else arguments)
    with contextlib.ExitStack() as while_it_runs:
        _run(words, while_it_runs)


def _wait_briefly() -> None:
    """Have torch's threads spin for microseconds, not milliseconds, before they sleep where they wait for each other.

    Whatever else uses the cores, even our own threads that decode photos and make views, is otherwise kept from running
    by a thread that waits for it to end: ``benchmarks/waiting_threads.py`` has the figures. OpenMP reads the variables
    when torch is imported, and later no more.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")


def _run(words: Sequence[str], while_it_runs: contextlib.ExitStack) -> None:
    try:
        try:
            options = parse(words)
            if options is not None:
                from s2r2.cli.options import option_names, refuse_addresses  # loads tyro: not for `s2r2 --help`

                while_it_runs.enter_context(arguments_shown_as(option_names(type(options))))
                refuse_addresses(options)
                options.execute(words)
        finally:
            sys.stdout.flush()
    except SharedError:  # another process says it, and torchrun ends all as soon as one has left
        time.sleep(LAST_WORDS)
        raise SystemExit(2) from None
    except S2R2Error as error:
        first, *more = error.lines if isinstance(error, MistakesError) else [str(error)]
        say(f"s2r2: {worded(first)}", error=True)
        for line in more:
            say(f"  {worded(line)}", error=True)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so at its end
        raise SystemExit(128 + 13) from None
    except OSError as error:  # said where it can happen often; a terminal's or pipe's disk may be full, too
        if error.errno not in NO_ROOM:
            raise
        say(f"s2r2: {error.filename or 'what is printed'}: {error.strerror}: free space and start again", error=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:  # training says how to go on
        if not is_follower():
            say(f"s2r2: {str(interrupt) or 'interrupted'}", error=True)
        raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
