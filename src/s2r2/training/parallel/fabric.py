"""What Lightning Fabric does for a run: devices, precision, and gradients exchanged by DDP.

Of an encoder in shards (:mod:`s2r2.training.parallel.sharding`) Fabric sees a module
like any other, in a process of its own.
"""

import inspect
import logging
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn.parallel import DistributedDataParallel

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.training.config import TrainConfig
from s2r2.training.parallel.sharding import shard

# Buffers are equal anyway (synchronized batch norm); with slices they would be sent once a slice. torch renames it.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
_WITHOUT_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


def build_fabric(config: TrainConfig, device: torch.device, processes: Processes) -> Fabric:
    """Fabric for this process among those of the run, launched."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the command says itself what it runs on
    # How processes were started is known. Fabric would ask a cluster's variables: in a job of SLURM, for srun.
    known = TorchElasticEnvironment() if processes.world_size > 1 else LightningEnvironment()
    options: dict[str, Any] = {"devices": [device.index or 0] if device.type == "cuda" else 1}
    if config.strategy == "fsdp":
        options["strategy"] = SingleDeviceStrategy(device)
    elif processes.world_size > 1:
        options = {
            "devices": processes.local_world_size,
            "num_nodes": processes.world_size // processes.local_world_size,
            "strategy": DDPStrategy(timeout=timedelta(minutes=config.timeout_minutes), **_WITHOUT_BUFFERS),
        }
    fabric = Fabric(accelerator=device.type, precision=precision_of(config, device), plugins=known, **options)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """The precision that ``auto`` stands for on this device, or the one that was chosen."""
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if device.type == "cuda" else "32-true"


def place(encoder: Encoder, config: TrainConfig, device: torch.device) -> None:
    """Bring a run's encoder from the CPU to the device: whole, or this process's part of it."""
    precision = precision_of(config, device)
    if config.strategy == "fsdp":  # which takes contiguous weights only
        encoder.to(memory_format=torch.contiguous_format)
        shard(encoder, device, bf16=precision == "bf16-mixed")
        return
    encoder.to(device)
    if device.type == "cuda":
        encoder.to(memory_format=torch.channels_last)
    elif precision != "32-true":  # on a CPU some gradients are NaN in channels_last under autocast
        encoder.to(memory_format=torch.contiguous_format)
