"""``s2r2 COMMAND --devices N --nodes M``: the same again in N processes on each machine, under torchrun."""

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from s2r2.errors import S2R2Error

DEFAULT_PORT = 29400
_PASSED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def launch_if_wanted(arguments: Sequence[str], devices: int, nodes: int, most_restarts: int = 0) -> None:
    """Go on in as many processes as are wanted (see :func:`launch`), unless this is one of them."""
    if wants_launch(devices, nodes, most_restarts):
        launch(arguments, devices, nodes, most_restarts)


def wants_launch(devices: int, nodes: int, most_restarts: int) -> bool:
    """Whether this process should start others; not if torchrun has started it."""
    return (devices != 1 or nodes != 1 or most_restarts != 0) and "TORCHELASTIC_RUN_ID" not in os.environ


def is_follower() -> bool:
    """Whether torchrun started this process as another than the first."""
    return int(os.environ.get("RANK", "0")) > 0


def restarts() -> int:
    """How often torchrun has started the processes anew on this machine, because one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch(arguments: Sequence[str], devices: int, nodes: int, most_restarts: int) -> NoReturn:
    """Run ``s2r2 ARGUMENTS`` in several processes and leave with the exit code of one that ended it.

    Args:
        arguments: Those of this command.
        devices: Processes on this machine; 0: one for each GPU.
        nodes: Machines; each runs the same command, with ``MASTER_ADDR`` (the first machine), ``NODE_RANK`` and
            perhaps ``MASTER_PORT`` in the environment. Under SLURM they are taken from there.
        most_restarts: How often to start all processes again, from the last checkpoint, when one is lost.

    Raises:
        S2R2Error: There are no GPUs, the machines do not know each other, or a process was killed.
    """
    # Loads torch: not for `s2r2 --help`.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    devices = devices or _gpus()
    if min(devices, nodes) < 1 or most_restarts < 0:
        raise S2R2Error("--devices and --nodes must be at least 1 (--devices 0: all GPUs), --restarts at least 0")
    _silence()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        max_restarts=most_restarts,
        monitor_interval=0.5,
        signals_to_handle=_PASSED_ON,
        run_id=os.environ.get("SLURM_JOB_ID", "s2r2"),
        **_rendezvous(nodes),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "s2r2", *arguments)
    except ChildFailedError as error:
        failures = {failure.exitcode: rank for rank, failure in error.failures.items()}
        code = 2 if 2 in failures else error.get_first_failure()[1].exitcode  # 2: that process said why
        if code < 0:
            raise S2R2Error(
                f"process {failures[code]} was ended by {signal.Signals(-code).name}, perhaps for want of memory: "
                "start the same command again, s2r2 train with --resume"
            ) from None
        raise SystemExit(code) from None
    except SignalException as error:  # the processes were told and have saved
        raise SystemExit(128 + int(error.sigval)) from None
    raise SystemExit(0)


def _silence() -> None:
    """Keep torchrun's own log from the user: the processes speak for themselves. LOGLEVEL brings it back."""
    if "LOGLEVEL" not in os.environ:
        for name in list(logging.root.manager.loggerDict):  # each has a level of its own
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def _rendezvous(nodes: int) -> dict[str, Any]:
    """Where the machines meet."""
    if nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    address = os.environ.get("MASTER_ADDR") or _first_of_slurm()
    rank = os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID")
    if not address or rank is None:
        raise S2R2Error(
            f"--nodes {nodes}: set MASTER_ADDR to the first machine and NODE_RANK to this machine's number (0 to "
            f"{nodes - 1}), and run the same command on every machine"
        )
    port = os.environ.get("MASTER_PORT") or DEFAULT_PORT
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{address}:{port}",
        "rdzv_configs": {"rank": int(rank), "timeout": 900},
    }


def _first_of_slurm() -> str:
    """The first machine of a SLURM job: ``node[07-09,12],big1`` is ``node07``."""
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", os.environ.get("SLURM_JOB_NODELIST", ""))
    return first[1] + (first[2] or "") if first else ""


def _gpus() -> int:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise S2R2Error("--devices 0 means all GPUs, but this machine has none: give the number of processes")
    return count
