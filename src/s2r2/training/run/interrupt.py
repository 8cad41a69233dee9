"""Ctrl-C or a scheduler's signal in the middle of training: finish the step, save, and say how to resume."""

import contextlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

PREEMPTION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals of batch systems that want the machine back, and of a terminal or connection that is gone."""
_HANGUP = getattr(signal, "SIGHUP", None)
SAME_REQUEST = 1.0
"""Seconds. A batch system signals every process, and torchrun passes on to its own what it gets."""


class Interrupted(KeyboardInterrupt):
    """Training stopped on request after saving; the message says how to resume.

    Attributes:
        exit_code: 128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 138 after SIGUSR1.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + int(number)


class StopOnInterrupt:
    """Turn the first Ctrl-C or signal of ``PREEMPTION`` into a request that the loop looks at after each step.

    Another one, more than a second later, acts at once, as usual. Outside the main thread, where Python allows no
    handlers, it does nothing.

    Attributes:
        requested: The signal's number, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._moment = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopOnInterrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *PREEMPTION):
                if number != _HANGUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup: ignored
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._moment = number, now
        elif now - self._moment > SAME_REQUEST:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            with contextlib.suppress(TypeError):  # a handler that C code had set cannot be put back
                signal.signal(number, handler)
        self._previous.clear()
