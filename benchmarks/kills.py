"""Commands killed at many moments and run again: what they leave must be what an undisturbed one leaves.

Started by ``survival.py index embed export evaluate compare``. Everything a command writes is below one folder, its
temporary files and its cache as well.
"""

import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from power_cuts import last_line, new_photos, photographs, rows_of
from watched import Ended, all_ended, forked, others, start, wait

ENCODER = "untrained:test_resnet"
STUDY = """
name: noise
seeds: [0, 1]
views: [640]
config: {backbone: test_resnet, image_size: 32, batch_size: 32, recipe: documents, head_hidden: 32,
  embedding_dimensions: 16, check_every: 1000}
data: {noise: {train: ALL, tasks: {classes: {train: ALL, test: TEST}}}}
methods:
  S2R2: {method: s2r2, views: 4}
"""
NOT_COMPARED = re.compile("second|time|date|created|memory|written|when|costs|^at$")
"""Names of what is measured on a clock or a memory."""


@dataclass(frozen=True)
class Command:
    """A command, its arguments in a folder, and what it leaves there.

    Attributes:
        name: Of the command.
        arguments: In a folder.
        result: What must be equal at the end.
        again: Further arguments where it has been run to its end before.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    again: tuple[str, ...] = ()


def vectors_in(folder: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(folder / "table.parquet").to_pydict()


def model_in(folder: Path) -> Any:
    from safetensors.numpy import load_file

    model = load_file(folder / "model" / "model.safetensors")
    texts = [(folder / "model" / name).read_text() for name in ("config.json", "README.md")]
    return {name: value.tobytes() for name, value in model.items()}, texts


def figures_in(folder: Path) -> Any:
    return without_times(json.loads((folder / "judged" / "evaluation.json").read_text()))


def table_in(folder: Path) -> Any:
    return without_times(json.loads((folder / "study" / "results.json").read_text()))


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if not NOT_COMPARED.search(name)}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def photos_of(folder: Path) -> str:
    return str(folder.parent / "photos")


def labeled(folder: Path, part: str) -> str:
    return str(folder.parent / "labeled" / part)


def make_labeled(folder: Path) -> None:
    """Noise of two classes, to be trained on and to be judged."""
    for number, (part, count) in enumerate({"train": 20, "test": 10}.items()):
        for label in ("one", "two"):
            place = folder / part / label
            place.mkdir(parents=True)
            photographs(place, count, seed=10 * number + (label == "two"))


COMMANDS = [
    Command("index", lambda f: [ENCODER, photos_of(f), "--index", str(f / "index")], rows_of, ("--rebuild",)),
    Command("embed", lambda f: [ENCODER, photos_of(f), "--out", str(f / "table.parquet")], vectors_in),
    Command(
        "export",
        lambda f: [str(f.parent / "encoder.safetensors"), "--out", str(f / "model"), "--format", "huggingface"],
        model_in,
    ),
    Command(
        "evaluate",
        lambda f: [ENCODER, "--test", labeled(f, "test"), "--train", labeled(f, "train"), "--out", str(f / "judged")],
        figures_in,
    ),
    Command("compare", lambda f: [str(f.parent / "study.yaml"), "--out", str(f / "study")], table_in),
]


class ForkedCell:
    """Stands for ``subprocess.Popen`` where a study starts a cell: a fork, since importing torch takes seconds."""

    returncode: int | None = None

    def __init__(self, command: list[str], env: dict[str, str], stderr: Any) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.dup2(stderr.fileno(), 2)
            os.environ.clear()
            os.environ.update(env)
            from s2r2.study.cell import main

            code = main(command[-1])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            if process:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 1e9) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a cell", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def popen(real: Any) -> Any:
    """``subprocess.Popen`` that forks cells and starts all others as ever."""

    def begin(command: list[str], **options: Any) -> Any:
        if "s2r2.study.cell" in command:
            return ForkedCell(command, options["env"], options["stderr"])
        return real(command, **options)

    return begin


class Trial:
    """A command that is killed again and again.

    Args:
        command: Which.
        place: An empty folder.
    """

    def __init__(self, command: Command, place: Path) -> None:
        self.command, self.root, self.finished = command, place / "disk", place / "finished"
        new_photos(self.root)
        make_labeled(place / "labeled")
        (place / "study.yaml").write_text(
            STUDY.replace("ALL", labeled(self.root, "train")).replace("TEST", labeled(self.root, "test"))
        )

        def save_encoder() -> None:
            from s2r2.encoder import load

            load(ENCODER).save(place)

        forked(save_encoder)
        self.renew(False)
        self.seconds, self.changes = [0.0, 0.0], [0, 0]
        self.measure(False)
        self.expected, self.names = forked(self.result).value, files(self.root)
        shutil.copytree(self.root, self.finished, symlinks=True)
        self.measure(True)

    def result(self) -> Any:
        return self.command.result(self.root)

    def renew(self, again: bool) -> None:
        """An empty folder, or one in which the command has been run to its end."""
        shutil.rmtree(self.root, ignore_errors=True)
        if again:
            shutil.copytree(self.finished, self.root, symlinks=True)
        for name in ("temporary", "cache"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def run(self, again: bool) -> int:
        """Run the command in this process; how many changes it made to the disk."""
        from s2r2.cli import main

        os.environ |= {"TMPDIR": str(self.root / "temporary"), "S2R2_CACHE": str(self.root / "cache")}
        tempfile.tempdir = None
        more = self.command.again if again else ()
        with mock.patch.object(subprocess, "Popen", popen(subprocess.Popen)):
            main([self.command.name, *self.command.arguments(self.root), *more])
        return ctypes.c_long.in_dll(ctypes.CDLL(None), "calls").value

    def measure(self, again: bool) -> None:
        """Seconds and changes of an undisturbed command."""
        began = time.monotonic()
        ended = forked(lambda: self.run(again), self.root, None, 1 << 40)
        if ended.code:
            raise SystemExit(f"{self.command.name}, undisturbed: {last_line(ended.said)}")
        self.seconds[again], self.changes[again] = time.monotonic() - began, ended.value

    def kill(self, number: int, kills: int, chance: random.Random) -> list[str]:
        """Kill it once; the faults found, each in a line."""
        again = number % 4 >= 2
        self.renew(again)
        before = "again, " if again else ""
        if number % 2 == 0:
            at = 1 + (self.changes[again] - 1) * number // max(1, kills - 1)
            what = f"{before}killed at change {at}"
            ended = forked(lambda: self.run(again), self.root, None, at)
        else:
            all_of_them, after = bool(number & 4), chance.uniform(0, self.seconds[again])
            what = f"{before}killed {'with all its processes ' if all_of_them else ''}after {after:.1f} s"
            ended = self.killed_after(again, after, all_of_them)
        faults = []
        if ended.code not in (-signal.SIGKILL, 0, 2):
            faults.append(f"exit code {ended.code}: {last_line(ended.said)}")
        if not all_ended(5.0):
            faults.append("processes left")
        if again and (kept := forked(self.result)).value != self.expected:
            faults.append(f"lost what was there: {last_line(kept.said)}")
        ended, found = forked(lambda: self.run(again)), forked(self.result)
        if ended.code:
            faults.append(f"the next one says {last_line(ended.said)}")
        elif found.code or found.value != self.expected:
            faults.append(f"ended otherwise {last_line(found.said) if found.code else ''}")
        elif (names := files(self.root)) != self.names:
            faults.append(f"left over {sorted((names - self.names).elements())}, "
                          f"missing {sorted((self.names - names).elements())}")  # fmt: skip
        return [f"{what}: {fault}" for fault in faults]

    def killed_after(self, again: bool, after: float, all_of_them: bool) -> Ended:
        with tempfile.TemporaryDirectory() as out:
            process = start(lambda: self.run(again), Path(out))
            time.sleep(after)
            for victim in [process, *(others() if all_of_them else [])]:
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return wait(process, Path(out))


def files(folder: Path) -> Counter[str]:
    """Names of what is left, less numbers; LanceDB's own are a matter of its history."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return Counter(
        re.sub(r"[0-9a-f]{8,}|\d+", "N", name) for name in names if "/lance/" not in name and "tfevents" not in name
    )


def try_command(command: Command, kills: int, seed: int) -> bool:
    """Kill a command, say what came of it; whether nothing was wrong."""
    began, chance = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(command, Path(place))
        faults: list[str] = []
        for number in range(kills):
            faults += trial.kill(number, kills, chance)
            print(f"{command.name}: {number + 1} of {kills}", end="\r", file=sys.stderr, flush=True)
    changes = " and ".join(map(str, trial.changes))
    took = time.monotonic() - began
    print(f"{command.name}: {changes} changes to the disk, {kills} kills, {len(faults)} faults, {took:.0f} s")
    for fault in faults:
        print(f"  {fault}", flush=True)
    return not faults
