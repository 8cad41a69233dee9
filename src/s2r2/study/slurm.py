"""Cells as jobs of a SLURM cluster, submitted by submitit as arrays; a job that is preempted goes on where it saved."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.study.cell import run_cell
from s2r2.study.claims import Claim, read_failure
from s2r2.study.plan import Cell, is_done
from s2r2.system import late_signals
from s2r2.system.child_processes import module_environment
from s2r2.system.extras import require_extra
from s2r2.system.files import write_text
from s2r2.system.locking import HeldError
from s2r2.system.terminal import say

JOB_FILE = "slurm-job.txt"
LEAST_MINUTES = 5
MOST_REQUEUES = 100
"""After its time limit; by then no job gets anywhere."""
_MOST_AT_ONCE = 1000  # jobs in an array: SLURM's default limit is 1,001
_LOOK = 3.0
_GRACE = 60.0
"""Seconds that a job may be gone before its result is seen: network disks show new files late."""
_SECONDS_TO_STOP = 60.0


@dataclass(frozen=True)
class Slurm:
    """What to ask SLURM for, for each run of a study.

    Attributes:
        partition: Where; by default the cluster's default partition.
        minutes: Time limit of a job, at least 5. A run that needs longer saves, is queued again and goes on.
        cpus: Cores of a job; 0: as many as the cluster gives by default.
        gpus: GPUs of a job; a run uses one.
        options: Any other options of ``sbatch``, such as ``{"account": "vision", "mem": "32G"}``.
    """

    partition: str = ""
    minutes: int = 60
    cpus: int = 0
    gpus: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.minutes < LEAST_MINUTES:
            raise ArgumentError(f"SLURM: {self.minutes} minutes are too short for a job, {LEAST_MINUTES} are the least")
        if min(self.cpus, self.gpus) < 0:
            raise ArgumentError("SLURM: the cores and GPUs of a job must not be negative")


class CellJob:
    """What a job does.

    Args:
        folder: The cell's.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Run the cell; when SLURM says that time is up or the machine is wanted, save and be queued again."""
        told: list[int] = []
        requeue = signal.getsignal(signal.SIGUSR2)

        def save(number: int, frame: object) -> None:
            told.append(number)
            signal.raise_signal(signal.SIGINT)  # training saves after its step

        signal.signal(signal.SIGUSR2, save)
        try:
            late_signals.take_signals()
            cores = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
            torch.set_num_threads(int(cores or 1))
            run_cell(Path(self.folder))
        except HeldError as error:
            say(error, error=True)  # another call runs it; its result is as good
        except KeyboardInterrupt:
            if not told or not callable(requeue):
                raise
            requeue(signal.SIGUSR2, None)

    def checkpoint(self) -> Any:
        """What is to be submitted when the job is queued again: the same, which goes on from what was saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmExecutor:
    """Runs each cell as a job of a SLURM cluster whose machines all see the study's folder.

    Args:
        out: The study's folder; jobs and their logs are in ``slurm`` below it.
        name: Of the study.
        settings: What to ask for.
        at_once: Jobs of an array that may run at the same time; 0: as many as there is room for.

    Raises:
        S2R2Error: There is no SLURM here, or submitit is not installed.
    """

    def __init__(self, out: Path, name: str, settings: Slurm, at_once: int = 0) -> None:
        require_extra("slurm", "running a study on SLURM")
        if not all(map(shutil.which, ("sbatch", "srun", "squeue"))):
            raise S2R2Error("there is no SLURM on this machine: start it on one where sbatch works, or run it locally")
        import submitit

        self._out = out.absolute()
        self._logs = self._out / "slurm"
        self._executor = submitit.SlurmExecutor(
            self._logs,
            max_num_timeout=MOST_REQUEUES,
            python=f"{shlex.quote(sys.executable)} -P -u -m {late_signals.MODULE}",
        )
        wanted = {"partition": settings.partition, "cpus_per_task": settings.cpus, "gpus_per_node": settings.gpus}
        self._executor.update_parameters(
            job_name=f"s2r2-{name}",
            time=settings.minutes,
            array_parallelism=at_once or _MOST_AT_ONCE,
            additional_parameters={"requeue": True, **settings.options},
            setup=[f"export {name}={shlex.quote(value)}" for name, value in module_environment().items()],
            **{option: value for option, value in wanted.items() if value},
        )
        self._jobs: dict[Path, tuple[Cell, str]] = {}
        self._own: set[str] = set()
        self._gone: dict[str, float] = {}
        self._look_at = 0.0

    def room(self) -> int:
        """Jobs of an array; all wait in SLURM's queue."""
        return _MOST_AT_ONCE

    def start(self, claims: Sequence[Claim]) -> None:
        """Submit an array, but for cells whose jobs an earlier call has submitted and that still wait in the queue."""
        queue = self._queue() or set()
        new = []
        try:
            for claim in claims:
                job = _read(claim.folder / JOB_FILE)
                if job in queue:
                    self._jobs[claim.folder] = claim.cell, job
                else:
                    new.append(claim)
            for claim, job in zip(new, self._submit([claim.folder for claim in new]), strict=True):
                write_text(claim.folder / JOB_FILE, f"{job}\n")
                self._jobs[claim.folder] = claim.cell, job
                self._own.add(job)
        finally:
            for claim in claims:  # the jobs lock their cells themselves
                claim.release()

    def ended(self) -> list[tuple[Cell, str]]:
        """Cells with a result or an error, and those whose jobs are gone without."""
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + _LOOK
        queue, found = self._queue(), []
        for folder, (cell, job) in list(self._jobs.items()):
            if is_done(cell, self._out) or read_failure(folder) or self._is_gone(job, queue, now):
                del self._jobs[folder]
                found.append((cell, f"job {job} ended without a result: {self._last_line(job)}"))
        return found

    def _is_gone(self, job: str, queue: set[str] | None, now: float) -> bool:
        """Whether a job has been out of the queue for so long that its result should be seen."""
        if queue is None or job in queue:
            self._gone.pop(job, None)
            return False
        return now - self._gone.setdefault(job, now) > _GRACE

    def running(self) -> int:
        """Jobs that have not been seen to end."""
        return len(self._jobs)

    def stop(self) -> None:
        """Cancel this call's jobs; those that train save first."""
        own = {job for _, job in self._jobs.values() if job in self._own}
        if own:
            subprocess.run(["scancel", *sorted(own)], check=False, capture_output=True)
        until = time.monotonic() + _SECONDS_TO_STOP
        while own & (self._queue() or set()) and time.monotonic() < until:
            time.sleep(1)
        self._jobs.clear()

    def _submit(self, folders: Sequence[Path]) -> list[str]:
        """The numbers of new jobs.

        Raises:
            S2R2Error: SLURM does not take them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not folders:
            return []
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(CellJob(str(folder.absolute()))) for folder in folders]
            return [job.job_id for job in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            lines = [line for line in str(error).splitlines() if line.startswith("sbatch:")]
            raise S2R2Error(f"SLURM did not take the jobs: {lines[-1] if lines else error}") from error

    def _queue(self) -> set[str] | None:
        """Jobs of this user that wait or run; None where SLURM does not answer just now."""
        asked = subprocess.run(
            ["squeue", "-h", "-r", "-o", "%i", "-u", str(os.getuid())], check=False, capture_output=True, text=True
        )
        return set(asked.stdout.split()) if asked.returncode == 0 else None

    def _last_line(self, job: str) -> str:
        log = self._logs / f"{job}_0_log.err"
        lines = _read(log).splitlines()
        return f"{lines[-1].strip()} (log {log})" if lines else "it has left no log; was it canceled?"


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""
