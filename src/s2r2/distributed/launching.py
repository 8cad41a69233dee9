"""``s2r2 COMMAND --devices N --nodes M``: the same again in N processes on each machine, under torchrun."""

import contextlib
import logging
import os
import re
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from s2r2.distributed.meeting_place import meeting_place
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.child_processes import known_to_children, module_command, module_environment

DEFAULT_PORT = 29400
SECRET = "S2R2_SECRET"
"""The environment variable with what seals messages (:mod:`s2r2.distributed.messages`): new at each start with
``--devices``; for ``--nodes`` and torchrun the user sets the same one on every machine."""
MEETING_PLACE = "S2R2_MEETING_PLACE"
"""The environment variable with the folder, this user's only, where the processes of one machine find each other."""
_PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
_PRIVATE, _MACHINES = "s2r2-private", "s2r2-machines"
_MACHINES_MINUTES = 15.0
"""How long machines wait for each other; a queue may start one of them later."""
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def launch_if_wanted(arguments: Sequence[str], devices: int, nodes: int, most_restarts: int = 0) -> None:
    """Go on in as many processes as are wanted (see :func:`launch`), unless this is one of them."""
    if wants_launch(devices, nodes, most_restarts):
        launch(arguments, devices, nodes, most_restarts)


def wants_launch(devices: int, nodes: int, most_restarts: int) -> bool:
    """Whether this process should start others; not if torchrun has started it."""
    return (devices != 1 or nodes != 1 or most_restarts != 0) and not is_launched()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def agent_serves() -> bool:
    """Whether the store at ``MASTER_ADDR`` is in torchrun's agent on the first machine, not in a process of ours."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_follower() -> bool:
    """Whether torchrun started this process as another than the first."""
    rank = os.environ.get("RANK", "")
    return rank.isdecimal() and int(rank) > 0


def launched_number(name: str, default: int) -> int:
    """A number that whoever started this process left in the environment.

    Raises:
        S2R2Error: It is none.
    """
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise S2R2Error(f"{name}={text} is no number: unset {name}, or let torchrun set it")
    return int(text)


def restarts() -> int:
    """How often torchrun has started the processes anew on this machine, because one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def secret() -> bytes:
    """What only the processes of this command know.

    Raises:
        S2R2Error: Nobody has set it: then anybody who reaches the processes could have them run code.
    """
    found = os.environ.get(SECRET, "")
    if not found:
        raise S2R2Error(
            f"processes on several machines, or not started by `devices`, need a secret: set {SECRET} to the same "
            f"random text on every machine, such as {secrets.token_hex(16)}"
        )
    return found.encode()


def meeting_file() -> Path | None:
    """The file through which the processes find each other, a new one after each restart; None: they use addresses.

    gloo and NCCL still exchange numbers over sockets, on the loopback device; see :mod:`s2r2.distributed.messages`.
    """
    folder = os.environ.get(MEETING_PLACE)
    return Path(folder, f"processes-{restarts()}") if folder else None


def launch(arguments: Sequence[str], devices: int, nodes: int, most_restarts: int) -> NoReturn:
    """Run ``s2r2 ARGUMENTS`` in several processes and leave with the exit code of one that ended it.

    Args:
        arguments: Those of this command.
        devices: Processes on this machine; 0: one for each GPU.
        nodes: Machines; each runs the same command, with ``MASTER_ADDR`` (the first machine), ``NODE_RANK`` and
            perhaps ``MASTER_PORT`` in the environment. Under SLURM they are taken from there.
        most_restarts: How often to start all processes again, from the last checkpoint, when one is lost.

    Raises:
        S2R2Error: There are no GPUs, the machines do not know each other or a secret, one of them did not come in time,
            or a process was killed.
    """
    # Loads torch: not for `s2r2 --help`.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    devices = devices or _gpus()
    if min(devices, nodes) < 1 or most_restarts < 0:
        raise ArgumentError("`devices` and `nodes` must be at least 1 (`devices=0`: all GPUs), `restarts` at least 0")
    if nodes > 1:
        secret()
    _silence()
    try:
        with meeting_place() as folder, _environment(devices, nodes, folder):
            config = LaunchConfig(
                min_nodes=nodes,
                max_nodes=nodes,
                nproc_per_node=devices,
                max_restarts=most_restarts,
                monitor_interval=0.5,
                signals_to_handle=",".join(name for name in _PASSED_ON if _is_heeded(name)),
                run_id=secrets.token_hex(8) if nodes == 1 else os.environ.get("SLURM_JOB_ID", "s2r2"),
                logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
                **_rendezvous(nodes),
            )
            elastic_launch(config, sys.executable)(*module_command("s2r2")[1:], *arguments)
    except ChildFailedError as error:
        failures = {failure.exitcode: rank for rank, failure in error.failures.items()}
        code = 2 if 2 in failures else error.get_first_failure()[1].exitcode  # 2: that process said why
        if code < 0:
            raise S2R2Error(
                f"process {failures[code]} was ended by {signal.Signals(-code).name}, perhaps because memory ran out: "
                "start the same command again; to continue a training run, with `resume=True`"
            ) from None
        raise SystemExit(code) from None
    except SignalException as error:  # the processes were told and have saved
        raise SystemExit(128 + int(error.sigval)) from None
    raise SystemExit(0)


@contextlib.contextmanager
def _environment(devices: int, nodes: int, folder: Path) -> Iterator[None]:
    """What the processes find in their environment; afterwards this one's is as before."""
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    os.environ |= known_to_children() | module_environment()
    if nodes == 1:
        os.environ |= {
            MEETING_PLACE: str(folder),
            SECRET: secrets.token_hex(32),
            "GLOO_SOCKET_IFNAME": _LOOPBACK,
            "NCCL_SOCKET_IFNAME": _LOOPBACK,
        }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _is_heeded(name: str) -> bool:
    """Whether there is such a signal, and whoever started this process lets it through (``nohup`` does not)."""
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) is not signal.SIG_IGN


def _register_rendezvous() -> None:
    """Make known to torchrun how processes of one machine meet, and how machines do.

    torchrun's own ways listen on all addresses, and its agent unpickles what it finds there: on one machine it is alone
    and needs no network. Of several machines they end in a traceback when one does not come.
    """
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    from s2r2.distributed.rendezvous import machines_rendezvous, private_rendezvous

    rendezvous_handler_registry.register(_PRIVATE, private_rendezvous)
    rendezvous_handler_registry.register(_MACHINES, machines_rendezvous)


def _silence() -> None:
    """Keep torchrun's own log from the user: the processes speak for themselves. LOGLEVEL brings it back."""
    if "LOGLEVEL" not in os.environ:
        for name in list(logging.root.manager.loggerDict):  # each has a level of its own
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def _rendezvous(nodes: int) -> dict[str, Any]:
    """Where the machines meet."""
    _register_rendezvous()
    if nodes == 1:
        return {"rdzv_backend": _PRIVATE}
    address = os.environ.get("MASTER_ADDR") or _first_of_slurm()
    rank = os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID")
    if not address or rank is None or not (rank.isdecimal() and int(rank) < nodes):
        raise ArgumentError(
            f"`nodes={nodes}`: set MASTER_ADDR to the first machine and NODE_RANK to this machine's number (0 to "
            f"{nodes - 1}), and run the same command on every machine"
        )
    from s2r2.distributed.roll_call import port_number

    port = port_number(os.environ.get("MASTER_PORT") or str(DEFAULT_PORT))
    return {
        "rdzv_backend": _MACHINES,
        "rdzv_endpoint": f"{address}:{port}",
        "rdzv_configs": {"rank": int(rank), "host": address, "port": port, "minutes": _MACHINES_MINUTES},
    }


def _first_of_slurm() -> str:
    """The first machine of a SLURM job: ``node[07-09,12],big1`` is ``node07``."""
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", os.environ.get("SLURM_JOB_NODELIST", ""))
    return first[1] + (first[2] or "") if first else ""


def _gpus() -> int:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise ArgumentError("`devices=0` means all GPUs, but this machine has none: give the number of processes")
    return count
