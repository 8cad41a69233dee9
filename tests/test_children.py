"""A child ends with its parent, whatever ends that, and not with the thread that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from children import is_running
from s2r2.system.child_processes import module_command, module_environment

CHILD = "import time; from s2r2.system.child_processes import end_with_parent; end_with_parent()\n"
CHILD += "print('up', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, threading, time
def start():
    global child
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
    child.stdout.readline()
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(0.5)
print(child.pid, child.poll(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_child_ends_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number, state = parent.stdout.readline().split()
    assert state == "None"  # the thread that started it is gone
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until and is_running(int(number)):
        time.sleep(0.05)
    assert not is_running(int(number))


def test_what_lies_among_the_photos_is_not_run(tmp_path: Path) -> None:
    """A child starts in the working folder, which may hold a stranger's ``s2r2`` or ``torch.py``."""
    (tmp_path / "s2r2").mkdir()
    for place in (tmp_path / "s2r2" / "__init__.py", tmp_path / "threading.py"):
        place.write_text("raise SystemExit('a stranger was run')")
    environment = os.environ | module_environment()
    subprocess.run(module_command("s2r2.system.child_processes"), check=True, cwd=tmp_path, env=environment)
