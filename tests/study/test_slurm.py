"""Studies as jobs of SLURM: a real one of one machine, started by the test; what a job does that is told to go."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import preloaded
from s2r2.errors import S2R2Error
from s2r2.study import Slurm, slurm
from s2r2.study.plan import RESULT_FILE
from s2r2.system import late_signals
from s2r2.system.locking import LOCK, HeldError
from small_study import SMALL_STUDY

STUDY: dict[str, Any] = {
    **SMALL_STUDY,
    "config": {**SMALL_STUDY["config"], "views": 4},
    "methods": {"S2R2": {}, "SimCLR": {"method": "simclr"}, "cooler": {"method": "simclr", "temperature": 0.5}},
}
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def test_a_job_that_is_told_to_go_while_it_imports_is_told_afterwards(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import os, signal, sys\n"
        "from s2r2.system.late_signals import take_signals\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('told', sys.argv[1:], __name__))\n"
        "print('imported')\n"
        "take_signals()\n"
    )
    words = ["-P", "-u", "-m", late_signals.MODULE, "-u", "-m", "job", "folder"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    job = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=True)
    assert job.stdout == "imported\ntold ['folder'] __main__\n"


def start_cluster(place: Path) -> None:
    """Debian's SLURM with one node: this machine. Raises what its programs say if they do not start."""
    for name in ("state", "spool", "munge"):
        (place / name).mkdir(mode=0o700)
    place.chmod(0o755)
    key = place / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = [f"--{part}={place}/munge/{part}" for part in ("socket", "pid-file", "log-file", "seed-file")]
    host, port = os.uname().nodename.split(".")[0], 20000 + os.getpid() % 20000
    (place / "slurm.conf").write_text(
        CONFIGURATION.format(place=place, host=host, port=port, next_port=port + 1, cores=os.cpu_count())
    )
    (place / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    for command in (["munged", "--force", f"--key-file={key}", *munge], ["slurmctld", "-c"], ["slurmd", "-c"]):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    deadline = time.monotonic() + 60
    while "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True, check=False).stdout:
        if time.monotonic() > deadline:
            raise TimeoutError((place / "slurmctld.log").read_text()[-2000:])
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        pytest.skip(f"no SLURM here: {', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("no SLURM here: only root can start its daemons")
    place = tmp_path / "cluster"
    place.mkdir()
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    try:
        start_cluster(place)
        yield place
    except (OSError, subprocess.SubprocessError, TimeoutError) as error:
        pytest.skip(f"SLURM does not start here: {getattr(error, 'stderr', None) or error}")
    finally:
        for pid_file in (place / "slurmd.pid", place / "slurmctld.pid", place / "munge" / "pid-file"):
            if pid_file.is_file():
                os.kill(int(pid_file.read_text()), signal.SIGTERM)


def of_queue() -> list[str]:
    """Jobs that wait or run."""
    asked = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True)
    return asked.stdout.split()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_runs_as_an_array_and_a_job_that_must_go_is_requeued(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(STUDY))
    words = ["compare", path, "--out", out, "--executor", "slurm", "--slurm-time", 10, "--slurm-options", "comment=x"]
    call = preloaded.start("-m", "s2r2", *words)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (training := list(out.glob("final/*/*/*/run/config.yaml"))):
        time.sleep(0.05)
    cell = training[0].parents[1]
    job = (cell / slurm.JOB_FILE).read_text().strip()
    # As SLURM does before it takes the machine away; scancel repeats its signal, which would end the requeued job.
    os.kill(int((cell / LOCK).read_text().split()[0]), signal.SIGUSR2)
    said, errors = call.communicate(400)
    assert call.returncode == 0, errors
    assert re.fullmatch(r"\d+_[0-7]", job)  # of an array
    assert "#SBATCH --comment=x" in next(out.glob("slurm/*_submission.sh")).read_text()
    assert "all 8 runs" in said
    assert json.loads((out / "results.json").read_text())["done"] == 8
    assert len(list(out.rglob(RESULT_FILE))) == 8
    assert f"Requeued job {job}" in (out / "slurm" / f"{job}_0_log.out").read_text()
    while of_queue() and time.monotonic() < deadline + 60:  # the last one leaves after its result is there
        time.sleep(0.2)
    assert of_queue() == []


class Gone(Exception):
    """Submitit has queued the job again and leaves."""


@pytest.fixture
def requeue() -> Iterator[list[int]]:
    """What submitit's handler is called with."""
    told: list[int] = []

    def handle(number: int, frame: object) -> None:
        told.append(number)
        raise Gone

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGINT)}
    signal.signal(signal.SIGUSR2, handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_job_that_must_go_saves_before_it_is_queued_again(
    requeue: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def run(folder: Path) -> None:
        try:
            signal.raise_signal(signal.SIGUSR2)
            time.sleep(10)
        except KeyboardInterrupt:
            saved.append(folder)
            raise

    monkeypatch.setattr(slurm, "run_cell", run)
    job = slurm.CellJob("cell")
    with pytest.raises(Gone):
        job()
    assert (saved, requeue) == ([Path("cell")], [signal.SIGUSR2])
    assert job.checkpoint().function is job


def test_a_job_that_is_canceled_is_not_queued_again_and_one_too_many_ends_well(
    requeue: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    def held(_: Path) -> None:
        raise HeldError("another process runs it")

    monkeypatch.setattr(slurm, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        slurm.CellJob("cell")()
    monkeypatch.setattr(slurm, "run_cell", held)
    slurm.CellJob("cell")()
    assert requeue == []


@pytest.mark.parametrize("settings", [{"minutes": 4}, {"cpus": -1}, {"gpus": -1}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(S2R2Error, match="SLURM: "):
        Slurm(**settings)
