"""Running parts of s2r2 in forked processes whose file system calls are counted, cut off or recorded.

``disk_recorder.c`` says how. The libraries are imported once and each process is a fork, so that fifty kills cost
seconds and not minutes. Needs Linux and a C compiler.
"""

import contextlib
import ctypes
import importlib
import os
import pickle
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("disk_recorder.c")
MARK = "S2R2_WATCHED"
"""In the environment of all processes that a watched one starts."""


def compiler() -> str | None:
    """The C compiler, if this is Linux and there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None) if sys.platform == "linux" else None


def begin_again_with_recorder() -> None:
    """Start this program again with the recorder loaded; without a compiler say so and end."""
    if MARK in os.environ:
        return
    if (command := compiler()) is None:
        raise SystemExit("skipped: needs Linux and a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(command, Path(folder))
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "S2R2_CACHE": folder}
        environment[MARK] = str(os.getpid())
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


def compiled(command: str, folder: Path) -> Path:
    """The recorder as a library in ``folder``."""
    library = folder / "disk_recorder.so"
    flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run([command, *flags], check=True)
    return library


def load_libraries() -> None:
    """Import what commands import when they run, once for all forks; not LanceDB, which starts threads."""
    import s2r2

    names = [module.name for module in pkgutil.walk_packages(s2r2.__path__, "s2r2.")]
    for name in [*names, "tensorboard.compat.proto.event_pb2", "timm.optim", "sklearn.datasets"]:
        with contextlib.suppress(ImportError):  # of optional libraries
            importlib.import_module(name)
    if "lancedb" in sys.modules:
        raise SystemExit(
            "a module of s2r2 imports LanceDB when it is imported itself: its threads do not survive forks"
        )


@dataclass(frozen=True)
class Ended:
    """How a forked process ended: exit code (negative: killed), what it said, what its function returned."""

    code: int
    said: str
    value: Any = None


def start(
    work: Callable[[], Any], out: Path, root: Path | None = None, log: Path | None = None, kill_at: int = 0
) -> int:
    """Fork a process that does ``work`` and leaves its words and result in ``out``; its id is returned."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        descriptor = os.open(out / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if root is not None:
            watch = ctypes.CDLL(None).watch
            watch(os.fsencode(root), os.fsencode(log or out), ctypes.c_long(kill_at))
        value = work()
        (out / "value").write_bytes(pickle.dumps(value))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, out: Path) -> Ended:
    """Wait for the end of a process from :func:`start`."""
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    path = out / "value"
    value = pickle.loads(path.read_bytes()) if code == 0 and path.exists() else None
    return Ended(code, (out / "said").read_text(errors="replace") if (out / "said").exists() else "", value)


def forked(work: Callable[[], Any], root: Path | None = None, log: Path | None = None, kill_at: int = 0) -> Ended:
    """Do ``work`` in a process of its own, killed at its ``kill_at``-th change below ``root``."""
    with tempfile.TemporaryDirectory() as out:
        return wait(start(work, Path(out), root, log, kill_at), Path(out))


def others() -> list[int]:
    """Processes that watched ones have started and that still run."""
    found = []
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (
                    mark in (entry / "environ").read_bytes().split(b"\0")
                    and b"\nState:\tZ" not in (entry / "status").read_bytes()
                ):
                    found.append(int(entry.name))
    return found


def all_ended(seconds: float) -> bool:
    """Whether no other process is left after so many seconds; those that are left are killed."""
    until = time.monotonic() + seconds
    while others():
        if time.monotonic() > until:
            for process in others():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


@dataclass
class Event:
    """One change: what, the names below the root after it, and what an fsync has made safe."""

    what: str
    names: dict[str, tuple[bool, str]] = field(default_factory=dict)
    file: tuple[str, str] | None = None
    folder: str | None = None


class Recording:
    """What a process did to the files below a folder, and how the disk would look after a power cut in between.

    Two disks are modeled. ``strict``: what an fsync has not reached is gone; a file's content is that of its last
    fsync, and a name exists, or is gone, only from the fsync of its folder on. ``names``: names are safe at once, as on
    file systems that order them alone, contents by fsync only. Real ones lie in between.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.safe: dict[str, str] = {}
        for line in (folder / "journal").read_text(errors="surrogateescape").splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "E":
                self.events.append(Event(rest))
                continue
            event = self.events[-1]
            if kind == "T":
                letter, identity, name = rest.split(" ", 2)
                event.names[name] = (letter == "d", identity)
            elif kind == "D":
                event.folder = rest
            elif event is self.events[0]:
                identity, number = rest.split()
                self.safe[identity] = number
            else:
                identity, number = rest.split()
                event.file = (identity, number)
        self.root = self.events[0].what.split()[1]

    def __len__(self) -> int:
        return len(self.events)

    def disk(self, number: int, model: str) -> dict[str, str | None]:
        """The files after event ``number`` and a cut: name to number of the content; None for a folder, "" if empty."""
        contents = dict(self.safe)
        listings = _listings(self.events[0].names, self.root)
        for event in self.events[1 : number + 1]:
            if event.file is not None:
                contents[event.file[0]] = event.file[1]
            elif event.folder is not None:
                listings[event.folder] = _listings(event.names, self.root).get(event.folder, {})
        if model == "names":
            listings = _listings(self.events[number].names, self.root)
        found: dict[str, str | None] = {}

        def descend(folder: str, prefix: str) -> None:
            for name, (is_folder, identity) in listings.get(folder, {}).items():
                found[prefix + name] = None if is_folder else contents.get(identity, "")
                if is_folder:
                    descend(identity, f"{prefix}{name}/")

        descend(self.root, "")
        return found

    def put(self, disk: dict[str, str | None], target: Path) -> None:
        """Make ``target`` look like such a disk."""
        for name, number in disk.items():
            path = target / name
            if number is None:
                path.mkdir(exist_ok=True)
            elif number == "":
                path.touch()
            else:
                shutil.copyfile(self.folder / number, path)


def _listings(names: dict[str, tuple[bool, str]], root: str) -> dict[str, dict[str, tuple[bool, str]]]:
    """Names by folder's identity."""
    listings: dict[str, dict[str, tuple[bool, str]]] = {root: {}}
    listings |= {identity: {} for is_folder, identity in names.values() if is_folder}
    for path, entry in names.items():
        parent, _, name = path.rpartition("/")
        listings[names[parent][1] if parent else root][name] = entry
    return listings
