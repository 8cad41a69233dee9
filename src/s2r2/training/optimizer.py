"""Optimizers, and the learning rate with warm-up and cosine decay."""

import math
from collections.abc import Mapping
from typing import Any

from timm.optim import Lars
from torch import nn, optim
from torch.distributed.tensor import DTensor

from s2r2.training.config import TrainConfig

WEIGHT_DECAY = {"adamw": 0.01, "sgd": 5e-4, "lars": 1e-6}
"""Usual weight decay of each optimizer; AdamW's is decoupled."""
WARMUP_SHARE = 0.1
"""Of a run, the most that warm-up takes."""


def build_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    name: str = "adamw",
    shares: Mapping[nn.Parameter, float] | None = None,
) -> optim.Optimizer:
    """Build ``adamw``, ``sgd`` (momentum 0.9) or ``lars`` (momentum 0.9, trust coefficient 0.001).

    Matrices and kernels are decayed, and adapted by LARS; biases and normalization (one dimension) are left alone.

    Args:
        model: What is trained.
        learning_rate: Of the parameters without a share.
        weight_decay: Of those that are decayed.
        name: Of the optimizer.
        shares: For some parameters, the share of the learning rate that they have.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    free = [p for p in trained if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if shares is not None:
        groups = [part for group in groups for part in _by_share(group, shares)]
    kinds = {isinstance(p, DTensor) for p in decayed + free}
    # Of parameters in shards torch has a fused AdamW only, and none that takes whole ones (prototypes) as well.
    fusible = kinds == {False} or (kinds == {True} and name == "adamw")
    fused = (fusible and all(p.is_cuda for p in model.parameters())) or None
    if name == "adamw":
        return optim.AdamW(groups, lr=learning_rate, fused=fused)
    if name == "sgd":
        return optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=fused)
    return Lars(groups, lr=learning_rate, momentum=0.9)


def _by_share(group: dict[str, Any], shares: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """A group of parameters in parts that have the same share of the learning rate."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(shares.get(parameter, 1.0), []).append(parameter)
    return [{**group, "params": part, "share": share} for share, part in sorted(parts.items())]


def learning_rate_at(step: int, *, peak: float, steps: int, warmup: int) -> float:
    """Learning rate of a step (0-based): linear rise over ``warmup`` steps, then half a cosine towards zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * peak * (1.0 + math.cos(math.pi * progress))


def warmup_steps(config: TrainConfig, steps_per_epoch: int, steps: int) -> int:
    """Steps of linear warm-up in a run of so many: at most a tenth."""
    return max(1, round(min(steps_per_epoch * config.warmup_epochs, steps * WARMUP_SHARE)))


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Give every parameter group this learning rate, or its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("share", 1.0)
