"""A backbone of a few hundred weights, known to timm once this file is imported: kept files stay small."""

from typing import Any

import timm
import torch
from torch import nn

NAME = "tiny_for_tests"


class TinyBackbone(nn.Module):
    """Two convolutions, ``num_features`` wide."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 12, 3, stride=2)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).mean((2, 3))


def tiny_for_tests(pretrained: bool = False, num_classes: int = 0, **of_timm: Any) -> TinyBackbone:
    assert not pretrained
    assert num_classes == 0
    if "img_size" in of_timm:
        raise TypeError("a convolutional network takes any size")
    return TinyBackbone()


def register() -> None:
    """Make it known to timm, once a process."""
    if not timm.is_model(NAME):
        register_model: Any = timm.models.register_model
        register_model(tiny_for_tests)
