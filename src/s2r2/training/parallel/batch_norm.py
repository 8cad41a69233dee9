"""Batch norm over the images of all processes, so that a run does not depend on how many there are."""

import types
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Have every batch norm of a model take its statistics over all processes.

    On a GPU these are torch's own layers, which cannot do it on a CPU; there the layers stay and their forward pass
    is replaced. Names and state stay the same.
    """
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
    return model


@torch.compiler.disable  # compiled by torch 2.11, the gradients of what is summed over processes are wrong
def _forward(self: Any, x: Tensor) -> Tensor:
    """Batch norm in training mode over all processes; otherwise what the layer does anyway."""
    if not self.training:
        output: Tensor = type(self).forward(self, x)
        return output
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))  # autocast may bring bfloat16, too coarse for statistics
    dimensions = [d for d in range(x.ndim) if d != 1]
    count = _sum_over_processes(x.new_tensor([x.numel() / x.shape[1]]))
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean = _sum_over_processes(x.sum(dimensions)) / count
    centred = x - mean.view(shape)
    variance = _sum_over_processes(centred.square().sum(dimensions)) / count
    if self.track_running_stats:
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * (count / (count - 1)), rate)
    y = centred * torch.rsqrt(variance + self.eps).view(shape)
    if self.affine:
        y = y * self.weight.view(shape) + self.bias.view(shape)
    y = y.to(dtype)
    # timm's layers have an activation, and sometimes dropout, inside.
    for name in ("drop", "act"):
        y = getattr(self, name, nn.Identity())(y)
    return y


def _sum_over_processes(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of each part is the sum of what all processes ask for, and so on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_over_processes(gradient)
