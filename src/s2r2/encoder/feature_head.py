"""An encoder with a linear layer behind its backbone, as ``s2r2 refine`` learns it."""

import copy

import torch
from torch import Tensor, nn

from s2r2.encoder.model import Encoder

REFINED = ", refined"
"""What the names of encoders with a feature head end with."""


def with_feature_head(encoder: Encoder, matrix: Tensor) -> Encoder:
    """An encoder whose features are those of another one, times a matrix; it has no projection head.

    Args:
        encoder: The other one; if it has a feature head, the two become one.
        matrix: ``(F, F)``: a feature ``x`` becomes ``matrix @ x``.
    """
    features = encoder.dimensions("feature")
    changes = {"has_head": False, "embedding_dimensions": features}
    name = encoder.name.removesuffix(REFINED) + REFINED
    made = Encoder(copy.deepcopy(encoder.backbone), None, encoder.architecture | changes, name, trained=True)
    weight = matrix if encoder.feature_head is None else matrix @ encoder.feature_head.weight.detach().to(matrix)
    add_feature_head(made, weight)
    return made.to(encoder.device).eval()


def add_feature_head(encoder: Encoder, matrix: Tensor) -> None:
    """Give an encoder a feature head, in place of the one it has.

    Args:
        encoder: The encoder.
        matrix: ``(F, F)``, its weight.
    """
    head = encoder.head
    del encoder.head  # to come after the feature head again: optimizers know parameters by their order
    encoder.architecture["feature_head"] = True
    encoder.feature_head = nn.Linear(len(matrix), len(matrix), bias=False, device=matrix.device)
    with torch.no_grad():
        encoder.feature_head.weight.copy_(matrix)
    encoder.head = head
