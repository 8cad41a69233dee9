"""Training that starts from a learned encoder: what of it is trained, and how fast."""

from collections.abc import Mapping

from timm.models import group_parameters
from torch import nn

from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError

LAYER_DECAY = 0.75
"""Share of a layer's learning rate that the layer before it has (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT)."""
RATE = 0.1
"""Share of a method's learning rate at which a learned encoder is trained."""
TRAINED_SHARE = 1 / 3
"""Of the layers, the part that last-blocks trains."""


def adapt(encoder: Encoder, how: str) -> dict[str, float]:
    """Freeze what is not trained of an encoder, in place.

    Args:
        encoder: A learned one.
        how: ``"all"`` or ``"last-blocks"``.

    Returns:
        For each parameter of the backbone, by name, its share of the learning rate.

    Raises:
        S2R2Error: timm does not tell the layers of this backbone.
    """
    depths = _depths(encoder)
    last = max(depths.values())
    encoder.frozen_statistics = True
    if how == "last-blocks":
        first = last + 1 - max(1, round((last + 1) * TRAINED_SHARE))
        for name, parameter in encoder.backbone.named_parameters():
            parameter.requires_grad_(depths[name] >= first)
    return {name: LAYER_DECAY ** (last - depth) for name, depth in depths.items()}


def _depths(encoder: Encoder) -> dict[str, int]:
    """For each parameter of the backbone the number of its layer, from the input on."""
    backbone: nn.Module = encoder.backbone
    try:
        names = group_parameters(backbone, backbone.group_matcher(coarse=False))  # type: ignore[operator]
        found: Mapping[str, int] = {name: depth for depth, group in names.items() for name in group}
        return {name: found[name] for name, _ in backbone.named_parameters()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{encoder.architecture['backbone']} cannot be adapted: timm does not tell which layer its weights belong to"
        ) from error
