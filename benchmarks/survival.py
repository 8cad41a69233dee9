"""Kill commands at random moments, go on each time, and compare the end with that of undisturbed ones, bit for bit.

    python benchmarks/survival.py                    20 kills of a training run of one process
    python benchmarks/survival.py --processes 2      of two processes; a kill hits one of them or, as a power cut, all
    python benchmarks/survival.py --signal TERM      told to stop instead, as batch systems do
    python benchmarks/survival.py --kills 50 index embed export evaluate compare

Training: handwritten digits, a tiny ResNet; a checkpoint twice a second, so that many kills fall into the writing of
one. Other commands (see kills.py): half of the kills hit the command alone at one of its changes to the disk (a write
is cut in half), chosen evenly from the first to the last; half come at random moments, in turn to the command alone and
to all its processes. Half begin with an empty folder, half in one where the command was run before: what was there must
be there still. Then no process may be left, and the same command must succeed, leave the same, and no other files.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from s2r2.runs import RunFolder
from s2r2.training.run.checkpoint import load_checkpoint
from watched import begin_again_with_recorder, load_libraries

OPTIONS = [
    "--backbone", "test_resnet", "--image-size", "32", "--views", "4", "--batch-size", "32", "--recipe", "documents",
    "--check-every", "1000", "--threads", "1", "--device", "cpu", "--checkpoint-minutes", "0.008",
]  # fmt: skip


def start(out: Path, steps: int, processes: int, resume: bool) -> subprocess.Popen[bytes]:
    """The run, in a session of its own."""
    what = ["--resume"] if resume else ["digits:train", *OPTIONS, "--steps", str(steps)]
    command = [sys.executable, "-m", "s2r2", "train", *what, "--out", str(out), "--devices", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def state_of(out: Path) -> tuple[int, dict[str, torch.Tensor], list[float]]:
    state, _ = load_checkpoint(out)
    losses = [entry["loss"] for entry in RunFolder(out).read_metrics() if "loss" in entry]
    return state["step"], state["encoder"], losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", help="index, embed, export, evaluate, compare; training if none")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    if a.commands:
        begin_again_with_recorder()
        load_libraries()
        from kills import COMMANDS, try_command

        well = [try_command(command, a.kills, a.seed) for command in COMMANDS if command.name in a.commands]
        raise SystemExit(not well or not all(well))
    chance, number = random.Random(a.seed), getattr(signal, f"SIG{a.signal}")
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.monotonic()
        assert start(whole, a.steps, a.processes, resume=False).wait() == 0
        seconds = time.monotonic() - began
        hits: list[int] = []
        while len(hits) < a.kills:
            before = changed(killed)
            if before is None:
                shutil.rmtree(killed, ignore_errors=True)
            run = start(killed, a.steps, a.processes, resume=before is not None)
            while run.poll() is None and changed(killed) == before:
                time.sleep(0.05)  # not before this start has saved: else nothing would ever end
            time.sleep(chance.uniform(0, seconds / a.kills / 2))
            if run.poll() is not None:
                break
            for process in victims(run.pid, number, chance):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            run.communicate()
            hits.append(state_of(killed)[0])
        last = start(killed, a.steps, a.processes, resume=True)
        _, said = last.communicate()
        assert last.returncode == 0, said.decode()
        (steps, expected, losses), (end, found, again) = state_of(whole), state_of(killed)
        same = all(torch.equal(value, found[name]) for name, value in expected.items())
        print(f"undisturbed: {steps} steps in {seconds:.0f} s, {a.processes} process(es)")
        print(f"SIG{a.signal} {len(hits)} times; checkpoints found at steps {hits}")
        print(f"ended at step {end}; weights {'bit-identical' if same else 'DIFFERENT'}, "
              f"losses {'identical' if losses == again else 'DIFFERENT'}")  # fmt: skip
        raise SystemExit(not (same and losses == again and len(hits) == a.kills))


def changed(folder: Path) -> int | None:
    """When the newest checkpoint was written, in nanoseconds; None without one."""
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else None


def victims(launcher: int, number: int, chance: random.Random) -> list[int]:
    """The command that was started, if it is told to stop; else one of its processes, or all of them."""
    workers = children(launcher)
    if number != signal.SIGKILL or not workers:
        return [launcher]
    return chance.choice([[launcher, *workers], [chance.choice(workers)]])


def children(process: int) -> list[int]:
    command = ["ps", "-o", "pid=,args=", "--ppid", str(process)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "-m s2r2 train" in line]


if __name__ == "__main__":
    main()
