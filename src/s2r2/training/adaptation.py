"""Training that starts from a learned encoder: what of it is trained, and how fast."""

from collections.abc import Mapping

from timm.models import group_parameters
from torch import nn
from torch.optim import Optimizer

from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError
from s2r2.training.config import TrainConfig
from s2r2.training.optimizer import build_optimizer

LAYER_DECAY = 0.75
"""Share of a layer's learning rate that the layer before it has (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT)."""
RATE = 0.1
"""Share of a method's learning rate at which a learned encoder is trained."""
TRAINED_SHARE = 1 / 3
"""Of the layers, the part that last-blocks trains."""


def optimizer_of(trained: nn.Module, encoder: Encoder, config: TrainConfig) -> Optimizer:
    """The optimizer of a run for what it trains; of an encoder that it starts from, some of it is frozen first.

    Args:
        trained: The encoder and the method.
        encoder: The one in it.
        config: Settings of the run.
    """
    shares = adapt(encoder, config.adapt) if config.start else None
    return build_optimizer(trained, config.lr, config.weight_decay or 0.0, config.optimizer, shares)


def adapt(encoder: Encoder, how: str) -> dict[nn.Parameter, float]:
    """Freeze what is not trained of an encoder, in place.

    Args:
        encoder: A learned one.
        how: ``"all"`` or ``"last-blocks"``.

    Returns:
        For each parameter of the backbone its share of the learning rate.

    Raises:
        S2R2Error: timm does not tell the layers of this backbone.
    """
    depths = _depths(encoder)
    last = max(depths.values())
    encoder.frozen_statistics = True
    if how == "last-blocks":
        first = last + 1 - max(1, round((last + 1) * TRAINED_SHARE))
        for parameter, depth in depths.items():
            parameter.requires_grad_(depth >= first)
    return {parameter: LAYER_DECAY ** (last - depth) for parameter, depth in depths.items()}


def _depths(encoder: Encoder) -> dict[nn.Parameter, int]:
    """For each parameter of the backbone the number of its layer, counted from the input."""
    backbone: nn.Module = encoder.backbone
    try:
        names = group_parameters(backbone, backbone.group_matcher(coarse=False))  # type: ignore[operator]
        found: Mapping[str, int] = {name: depth for depth, group in names.items() for name in group}
        return {parameter: found[name] for name, parameter in backbone.named_parameters()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{encoder.architecture['backbone']} cannot be adapted: timm does not tell the layers of its weights"
        ) from error
