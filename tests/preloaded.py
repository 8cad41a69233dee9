"""Python processes that begin with torch and its company imported, which costs others five seconds each.

``start`` and ``run`` are ``Popen`` and ``subprocess.run`` for ``python WORDS``. What they start is a process of its
own, with its own words, environment, folder and output, to be signaled and killed like any other; it is forked from
one that has done nothing but import. ``run_ranks`` runs one command in several that share the work. Tests of what
starts, or of what is imported and when, use ``subprocess``.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_ADDRESS = "S2R2_TESTS_FORK_FROM"
IMPORTED = (  # nothing that starts threads, as LanceDB does
    "lightning_fabric", "numba", "PIL.Image", "pyarrow.parquet", "rich.console", "safetensors.torch", "scipy.stats",
    "sklearn.linear_model", "timm", "torch.distributed.elastic.multiprocessing", "torch.distributed.launcher.api",
    "torch.utils.tensorboard", "torchvision", "tyro", "yaml", "s2r2.cli.running", "s2r2.encoder.loading",
    "s2r2.evaluation.run_evaluation", "s2r2.training.loop", "s2r2.views.kernel", "sklearn.svm",
)  # fmt: skip


class Process:
    """A process that was forked for a test, with the part of ``Popen`` that tests use.

    Attributes:
        pid: Its number.
        stdout: What it prints, to be read when it has ended, or with ``live`` at once.
        stderr: Its errors, to be read when it has ended.
        returncode: None while it runs; minus the signal that ended it.
    """

    def __init__(self, connection: socket.socket, stdout: IO[str], stderr: IO[str]) -> None:
        self._answers = connection.makefile()
        self._connection = connection
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline()))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self._all(self.stdout), self._all(self.stderr)

    def _all(self, stream: IO[str]) -> str:
        if stream.seekable():
            stream.seek(0)
        return stream.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *words: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    live: bool = False,
    stderr: IO[str] | None = None,
    threads: int = 1,
) -> Process:
    """Start ``python WORDS``.

    Args:
        words: ``-m MODULE``, ``-c CODE`` or a file, and what follows it.
        env: The environment, instead of this one; ``OMP_NUM_THREADS`` is 1 whatever it says.
        threads: Those of torch, for results that are equal to the last bit to those of a process with as many.
        cwd: The folder it runs in.
        live: ``stdout`` is a pipe, to be read while it runs.
        stderr: Where errors go; by default they are kept.
    """
    request = {
        "words": [str(word) for word in words],
        "env": {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"},
        "cwd": str(cwd or Path.cwd()),
        "threads": threads,
    }
    stderr = stderr or tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    if live:
        reading, writing = os.pipe()
        stdout: IO[str] = open(reading)  # noqa: SIM115 (the Process has it)
    else:
        stdout = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        writing = os.dup(stdout.fileno())
    connection = _connect()
    socket.send_fds(connection, [b"!"], [writing, stderr.fileno()])
    os.close(writing)
    connection.sendall(json.dumps(request).encode())
    connection.shutdown(socket.SHUT_WR)
    return Process(connection, stdout, stderr)


def run(
    *words: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 240,
    threads: int = 1,
) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` to its end; see :func:`start`."""
    process = start(*words, env=env, cwd=cwd, threads=threads)
    try:
        stdout, stderr = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(list(words), process.wait(), stdout, stderr)


def run_ranks(
    count: int, *words: object, cwd: Path | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` in processes that share the work, in the environment that ``--devices`` gives them.

    Returns:
        The first exit code that is not 0, and what all of them say.
    """
    with tempfile.TemporaryDirectory(prefix="s2r2-ranks-") as folder:
        launched = {
            "TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "S2R2_MEETING_PLACE": folder, "S2R2_SECRET": "of the tests", "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        processes = [start(*words, env=os.environ | launched | rank, cwd=cwd) for rank in ranks]
        try:
            said = [process.communicate(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
    code = next((process.wait() for process in processes if process.wait()), 0)
    return subprocess.CompletedProcess(list(words), code, *("".join(part) for part in zip(*said, strict=True)))


def start_server() -> str:
    """Start the process to fork from, unless there is one; it ends with the one that started it.

    Returns:
        Its address, also left in the environment, where the workers of xdist find it.
    """
    if _ADDRESS not in os.environ:
        address = os.environ[_ADDRESS] = str(Path(tempfile.mkdtemp(prefix="s2r2-tests-"), "fork"))
        # matplotlib, where it finds no home, makes a folder that every process forked later would remove at its end.
        settings = {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(Path(address).with_name("matplotlib"))}
        server = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, env=os.environ | settings)
        assert server.stdin is not None
        atexit.register(server.stdin.close)
    return os.environ[_ADDRESS]


def _connect() -> socket.socket:
    """A connection to the server, once it has imported what it wants."""
    address, deadline = start_server(), time.monotonic() + 300
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def serve(address: str) -> dict[str, Any]:
    """Fork for everyone who asks; returns what was asked, in the new process alone."""
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    assert threading.active_count() == 1
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            raise SystemExit
        connection, _ = listener.accept()
        while _reap():
            pass
        if os.fork() == 0:
            break
        connection.close()
    # A second fork: this process waits for the one that does what was asked, and says how it ended.
    listener.close()
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    request: dict[str, Any] = json.loads(connection.makefile().read())
    pid = os.fork()
    if pid == 0:
        connection.close()
        gc.unfreeze()
        return request | {"streams": descriptors}
    connection.sendall(f"{pid}\n".encode())
    with contextlib.suppress(BrokenPipeError):  # the test is over
        connection.sendall(f"{os.waitpid(pid, 0)[1]}\n".encode())
    os._exit(0)


def _reap() -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    return False


def become(words: list[str], env: dict[str, str], cwd: str, streams: list[int], threads: int) -> None:
    """What ``python WORDS`` does."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in zip((nothing, *streams), range(3), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Those that Python made were of other files, which could perhaps be sought in.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if threads > 1:
        sys.modules["torch"].set_num_threads(threads)
    first, *rest = words
    if first == "-m":
        sys.argv, sys.path[0] = rest, cwd
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    become(**serve(sys.argv[1]))
