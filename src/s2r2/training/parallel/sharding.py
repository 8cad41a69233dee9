"""An encoder larger than a GPU: parameters, gradients and optimizer state shared out over the processes (FSDP).

Each process keeps a part of every parameter, its gradient and its optimizer state. The whole parameters of a block are
gathered just before the block runs, and let go just after (Zhao et al., arXiv 2304.11277; torch's ``fully_shard``).
Losses and gradients are those of DDP.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError
from s2r2.training.config import TrainConfig


def refuse_what_cannot_be_sharded(config: TrainConfig, processes: Processes) -> None:
    """Raise an S2R2Error that names the first setting that fsdp does not work with."""
    if config.strategy != "fsdp":
        return
    rules = [
        (processes.world_size == 1, "needs several processes: start with s2r2 train --devices N, or under torchrun"),
        (
            config.optimizer == "lars",
            "does not work with `optimizer='lars'`, which needs whole weights: use sgd",
        ),
        (config.precision == "16-mixed", "does not work with `precision='16-mixed'`: use bf16-mixed or 32-true"),
        (
            config.micro_batch == "auto",
            "does not work with `micro_batch='auto'`, which needs the whole encoder: give N",
        ),
    ]
    for wrong, message in rules:
        if wrong:
            raise ArgumentError(f"`strategy='fsdp'` {message}")


def shard(encoder: Encoder, device: torch.device, *, bf16: bool) -> None:
    """Share out an encoder that lies whole on the CPU, in place; this process's part goes to the device.

    Args:
        encoder: The same in every process.
        device: Of this process.
        bf16: Gather the backbone's weights in bfloat16, as autocast would use them: its own copies would keep the
            whole backbone in memory until the backward pass is over.

    Raises:
        S2R2Error: The backbone is built in a way that cannot be shared out.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Running statistics are float32, and batch norm wants weights of the same type.
    bf16 = bf16 and not any(isinstance(module, _BatchNorm) for module in encoder.backbone.modules())
    inner, outer = MixedPrecisionPolicy(), MixedPrecisionPolicy()
    if bf16:
        inner = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        outer = MixedPrecisionPolicy(torch.bfloat16, torch.float32, output_dtype=torch.float32)
    # Backbone and head are shared out apart, because features are asked of the backbone alone. Always let go after
    # forward: whoever lists the parameters, such as the optimizer, must find the parts.
    try:
        for block in _blocks(encoder.backbone):
            fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=inner)
        fully_shard(encoder.backbone, mesh=mesh, reshard_after_forward=True, mp_policy=outer)
    except (ValueError, NotImplementedError) as error:
        name, reason = encoder.architecture["backbone"], str(error).strip().splitlines()[0]
        raise ArgumentError(f"`strategy='fsdp'` cannot shard backbone {name} ({reason}): use ddp") from error
    if encoder.head is not None:
        fully_shard(encoder.head, mesh=mesh, reshard_after_forward=True)
    # Pooling may be x[:, 0]; the head begins with a matrix, so nothing changes it in place.
    warnings.filterwarnings("ignore", message=rf".*\({type(encoder.backbone).__name__}\) returned a view tensor")


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """Modules that follow each other and are alike, such as transformer blocks: units of sharing, inner ones first."""
    found = []
    for module in backbone.modules():
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 1:
            children = list(module)
            if len({type(child) for child in children}) == 1 and any(True for _ in children[0].children()):
                found += [child for child in children if not isinstance(child, nn.ModuleList)]
    return found[::-1]


def total_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """Length of all gradients together, a scalar; of the sharded ones all parts count, in all processes."""
    there = [gradient for gradient in gradients if gradient is not None]
    sharded = [gradient for gradient in there if isinstance(gradient, DTensor)]
    if not sharded:
        return get_total_norm(there)
    norm = get_total_norm(sharded)
    assert isinstance(norm, DTensor)
    others = [gradient for gradient in there if not isinstance(gradient, DTensor)]  # torch does not mix them
    return torch.hypot(norm.full_tensor(), get_total_norm(others)) if others else norm.full_tensor()


def even_slices(pixels: Iterable[Tensor], micro_batch: int, processes: Processes) -> tuple[Tensor, ...]:
    """Cut views ``(n, 3, P, P)`` of each size into slices of at most ``micro_batch``: as many in every process.

    A process with fewer views, because photos could not be read, would else be missing when the others gather.
    """
    cut = [views.split(micro_batch) for views in pixels]
    counts = processes.largest(*map(len, cut))
    even = (
        slices if len(slices) == count else torch.cat(slices).tensor_split(count)
        for slices, count in zip(cut, counts, strict=True)
    )
    return tuple(part for slices in even for part in slices)


def whole(state: Any, keep: bool = True) -> Any:
    """A state dict as an unsharded run has it: all processes gather its tensors, and some keep them on the CPU.

    Without shards it is returned as it is.
    """
    if isinstance(state, dict):
        return {name: whole(value, keep) for name, value in state.items()}
    if isinstance(state, DTensor):
        gathered = state.full_tensor()
        return gathered.cpu() if keep else None
    return state


def load_optimizer(optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a whole state dict into an optimizer; of what belongs to a sharded parameter each process takes its part.

    How the optimizer is computed (``fused`` and the like) stays as it was built: the state may come from a run that
    was sharded otherwise, or not at all.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state["state"].items():
        shapes = {tuple(value.shape) for value in values.values() if isinstance(value, Tensor) and value.ndim}
        if shapes - {tuple(parameters[index].shape)}:
            raise ValueError(f"the optimizer's state of parameter {index} has another shape")
    parts = {
        index: {name: _part(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    groups = [
        {
            **now,
            **{name: value for name, value in saved.items() if type(value) is type(now.get(name))},
            "fused": now.get("fused"),
            "foreach": now.get("foreach"),
        }
        for saved, now in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": parts, "param_groups": groups})


def _part(value: Any, parameter: Tensor) -> Any:
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    # No process sends: each has the whole.
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
