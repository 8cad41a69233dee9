"""AdamW with warm-up and cosine decay."""

import math

from torch import nn, optim


def build_optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> optim.AdamW:
    """AdamW that decays matrices and kernels only: biases and normalisation (one dimension) are left alone."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    fused = all(p.is_cuda for p in model.parameters())
    return optim.AdamW(groups, lr=learning_rate, fused=fused or None)


def learning_rate_at(step: int, *, peak: float, steps: int, warmup: int) -> float:
    """Learning rate of a step (0-based): linear rise over ``warmup`` steps, then half a cosine towards zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * peak * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimiser: optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = value
