"""Cells in processes forked from one that has imported everything: imports are a fifth of a small cell's time."""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2r2.study import cell
from s2r2.system.child_processes import known_to_children, module_command, module_environment

CAN_FORK = sys.platform == "linux"
"""Elsewhere there is no fork, or (macOS) system libraries do not survive it."""
_POLL = 0.05
_MESSAGE = 65536
_LATER = ("s2r2.losses.backends.numba_cpu", "s2r2.views.kernel.resize", "s2r2.evaluation.metrics.ranking_kernel")
"""What a cell imports only when it first needs it, numba with it."""


class CellServer:
    """Starts cells, each in a process and session of its own, without importing anything again.

    Only for cells without a GPU: CUDA does not work in a forked process once it was touched before.

    Args:
        environment: Variables for all cells, read when libraries are loaded, such as the number of threads.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._asked = 0
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*module_command("s2r2.study.forking"), str(theirs.fileno())],
                env={**os.environ, **environment, **module_environment()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the scheduler, which tells the cells
                pass_fds=(theirs.fileno(),),
            )

    def start(self, folder: Path, lock: int, errors: int) -> "ForkedCell":
        """Run a cell.

        Args:
            folder: The cell's.
            lock: Descriptor of its lock, which the process holds as long as it lives.
            errors: Descriptor of a file for its error output.

        Raises:
            OSError: The server is gone.
        """
        return ForkedCell(self, self._ask({"run": str(folder)}, lock, errors))

    def returncode(self, pid: int) -> int | None:
        """How a cell's process has ended, as in subprocess; None while it runs. To be asked until it has, not again."""
        try:
            return self._ask({"ended": pid})
        except OSError:  # its cells end with it
            return -signal.SIGKILL

    def stop(self) -> None:
        """End the server, and with it what still runs."""
        self._connection.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any], *descriptors: int) -> Any:
        self._asked += 1
        message = json.dumps({**request, "number": self._asked}).encode()
        socket.send_fds(self._connection, [message], descriptors)
        while answer := self._connection.recv(_MESSAGE):
            number, content = json.loads(answer)
            if number == self._asked:  # an earlier one may be left by Ctrl-C
                return content
        raise ConnectionResetError("the process that starts cells is gone")


@dataclass
class ForkedCell:
    """A cell's process, with the part of :class:`subprocess.Popen` that an executor needs."""

    server: CellServer
    pid: int
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        """How it has ended, None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.returncode(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired(f"cell {self.pid}", timeout or 0.0)
            time.sleep(_POLL)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def serve(descriptor: int) -> int:
    """Import what cells need, then fork one for each request, until the one who asks is gone; the exit code."""
    for module in _LATER:
        importlib.import_module(module)
    connection = socket.socket(fileno=descriptor)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE, 2)
        if not message:
            return 0
        request = json.loads(message)
        if "ended" in request:
            answer = _reaped(request["ended"])
        else:
            parent = known_to_children()
            answer = os.fork()
            if answer == 0:
                connection.close()
                os.environ.update(parent)
                return _run(request["run"], *descriptors)
            for number in descriptors:
                os.close(number)
        connection.send(json.dumps([request["number"], answer]).encode())


def _reaped(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(folder: str, _lock: int, errors: int) -> int:
    """Be a cell's process; its exit code. The lock's descriptor stays open, and the cell locked, until it is gone."""
    os.setsid()
    os.dup2(errors, sys.stderr.fileno())
    os.close(errors)
    return cell.main(folder)


if __name__ == "__main__":
    raise SystemExit(serve(int(sys.argv[1])))
