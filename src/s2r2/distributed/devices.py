"""The devices of a machine: which one each process of a run takes, and what to call it."""

import contextlib
import platform
import sys
from pathlib import Path

import torch

from s2r2.distributed.processes import Processes
from s2r2.errors import ArgumentError


def choose_device(name: str, processes: Processes = Processes()) -> torch.device:  # noqa: B008 (frozen)
    """``auto`` becomes a GPU where there is one; of several processes on a machine each gets its own.

    Raises:
        S2R2Error: There is no such device here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"`device={name!r}`: use auto, cpu, cuda or cuda:N") from error
    if device.type == "mps":
        raise ArgumentError(f"`device={name!r}`: s2r2 sums in float64, which Apple's GPUs do not support; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"`device={name!r}`: use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    if processes.world_size > 1:
        if device.index is not None or processes.local_rank >= gpus:
            raise ArgumentError(
                f"`device={name!r}` for {processes.local_world_size} processes on a machine with {gpus} CUDA devices: "
                "each process needs its own; use `device='cuda'` and as many processes as there are devices, or cpu"
            )
        return torch.device("cuda", processes.local_rank)
    if (device.index or 0) >= gpus:
        raise ArgumentError(f"`device={name!r}`: this machine has {gpus} CUDA devices: use auto or cpu")
    return device


def processor_name() -> str:
    """The GPU's name, else the processor's."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most bytes that this process has held: of the GPU if there is one, else resident; 0 where nobody counts."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, the others kilobytes
