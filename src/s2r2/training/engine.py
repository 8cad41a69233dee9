"""What Lightning Fabric does for a run: devices, precision, and gradients exchanged by DDP."""

import inspect
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from s2r2.training.config import TrainConfig
from s2r2.training.processes import Processes

# Buffers are equal anyway (synchronised batch norm); with slices they would be sent once a slice. torch renames it.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
_WITHOUT_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


def build_fabric(config: TrainConfig, device: torch.device, processes: Processes) -> Fabric:
    """Fabric for this process among those of the run, launched."""
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    options: dict[str, Any] = {"devices": [device.index or 0] if device.type == "cuda" else 1}
    if processes.world_size > 1:
        options = {
            "devices": processes.local_world_size,
            "num_nodes": processes.world_size // processes.local_world_size,
            "strategy": DDPStrategy(timeout=timedelta(minutes=config.timeout_minutes), **_WITHOUT_BUFFERS),
        }
    fabric = Fabric(accelerator=device.type, precision=precision, **options)  # type: ignore[arg-type]
    fabric.launch()
    return fabric
