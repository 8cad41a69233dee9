"""Power cuts and kills: what no fsync had reached is gone, and everything opens, or is made again, all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from watched import Recording, compiled, compiler  # noqa: E402

needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")

WRITER = """
import ctypes, os, sys
from pathlib import Path
from s2r2.system.files import make_folder, write_text
root = Path(sys.argv[1])
ctypes.CDLL(None).watch(os.fsencode(root), os.fsencode(sys.argv[2]), ctypes.c_long(int(sys.argv[3])))
make_folder(root / "a" / "b")
write_text(root / "a" / "b" / "whole", "1")
write_text(root / "a" / "b" / "whole", "2" * 100)
(root / "careless").write_text("lost")
os.replace(root / "careless", root / "a" / "b" / "careless")
"""


def write(folder: Path, kill_at: int = 0) -> tuple[int, Path, Path]:
    root, log = folder / "disk", folder / "log"
    root.mkdir()
    log.mkdir()
    command = compiler()
    assert command is not None
    environment = {**os.environ, "LD_PRELOAD": str(compiled(command, folder))}
    words = [sys.executable, "-c", WRITER, str(root), str(log), str(kill_at)]
    return subprocess.run(words, env=environment, check=False).returncode, root, log


@needs_compiler
def test_the_disk_forgets_what_was_not_synced_and_keeps_what_was(tmp_path: Path) -> None:
    code, _, log = write(tmp_path)
    assert code == 0
    recording = Recording(log)
    seen = {model: set() for model in ("strict", "names")}  # type: dict[str, set[str | None]]
    for model, contents in seen.items():
        for number in range(len(recording)):
            target = tmp_path / f"{model}{number}"
            target.mkdir()
            recording.put(recording.disk(number, model), target)
            whole = target / "a" / "b" / "whole"
            contents.add(whole.read_text() if whole.exists() else None)
    assert seen == {"strict": {None, "1", "2" * 100}, "names": {None, "1", "2" * 100}}
    last = len(recording) - 1
    assert "a/b/careless" not in recording.disk(last, "strict")
    assert recording.disk(last, "names")["a/b/careless"] == ""  # a name without content
    assert recording.disk(last, "strict")["a/b/whole"] is not None


@needs_compiler
@pytest.mark.parametrize("call", [1, 6, 10])
def test_a_kill_comes_at_the_call_that_was_asked_for(call: int, tmp_path: Path) -> None:
    code, root, _ = write(tmp_path, call)
    assert code == -9
    assert not (root / "a" / "b" / "careless").exists()


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["checkpoint", "store", "index"])
def test_after_a_power_cut_everything_opens(case: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "power_cuts.py"), "--cuts", "6", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 faults" in done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_a_kill_the_same_command_ends_as_ever_and_nothing_is_left_over() -> None:
    command = [sys.executable, str(BENCHMARKS / "survival.py"), "--kills", "6", "embed", "export"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 faults") == 2
