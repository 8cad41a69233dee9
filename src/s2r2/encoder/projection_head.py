"""The projection head, which training ranks by."""

from torch import nn


class ProjectionHead(nn.Sequential):
    """Two linear layers with batch norm and ReLU between: features (N, F) to (N, D), as in SimCLR.

    Source: Chen et al. 2020, *A Simple Framework for Contrastive Learning of Visual Representations*, 4.2.
    """

    def __init__(self, features: int, hidden: int, dimensions: int) -> None:
        super().__init__(
            nn.Linear(features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, dimensions, bias=False),
        )
