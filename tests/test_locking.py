import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from s2r2.errors import S2R2Error
from s2r2.system.locking import locked

HOLD = """
import sys, time
from pathlib import Path
from s2r2.system.locking import locked
with locked(Path(sys.argv[1]), "writing", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_holds_a_lock_is_said_and_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with (
                pytest.raises(S2R2Error, match=rf"another process \({holder.pid} of .+ on .+ since \d{{4}}-.+: wait$"),
                locked(path, "writing", "wait"),
            ):
                pass
            heard: list[str] = []
            with pytest.raises(S2R2Error), locked(path, "writing", "wait", wait=0.3, waiting=heard.append):
                pass
            assert len(heard) == 1
        finally:
            holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    assert path.exists()
    with locked(path, "writing", "wait"):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


def test_threads_take_a_lock_one_after_the_other(tmp_path: Path) -> None:
    path, inside, most = tmp_path / ".lock", [0], []

    def work() -> None:
        for _ in range(3):
            with locked(path, "writing", "wait", wait=math.inf):
                inside[0] += 1
                most.append(inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 12
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_lock_is_never_written_through_a_link_or_a_pipe(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "link").symlink_to(precious)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nowhere/lock"):
        with pytest.raises(S2R2Error, match="cannot lock"), locked(tmp_path / name, "writing", "wait"):
            pass
    assert precious.read_text() == "precious"


def test_what_a_lock_says_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, "writing", "wait"):
        path.write_bytes(b"\x1b[2J\n\xff" + b"x" * 5000)
        with pytest.raises(S2R2Error) as refusal, locked(path, "writing", "wait"):
            pass
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500
