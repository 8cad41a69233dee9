"""An encoder's backbone as weights that plain timm loads."""

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from s2r2.encoder.backbones import has_small_stem, shrink_stem
from s2r2.encoder.model import Encoder


@dataclass(frozen=True)
class TimmForm:
    """What ``timm.create_model(architecture, num_classes=0, **arguments)`` needs to give the same features.

    Attributes:
        architecture: timm's name of the model, without a tag.
        tensors: Its weights.
        arguments: More arguments for it.
        small_stem: Whether its stem must be replaced by the one for tiny images, which timm does not have.
    """

    architecture: str
    tensors: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    small_stem: bool = False

    def build(self) -> nn.Module:
        """The model as plain timm builds it, with these weights."""
        model = timm.create_model(self.architecture, num_classes=0, **self.arguments)
        if self.small_stem:
            shrink_stem(model)
        model.load_state_dict(self.tensors)
        return model.eval()


def to_timm(encoder: Encoder) -> TimmForm:
    """The backbone's weights under timm's own names."""
    name = str(encoder.architecture["backbone"]).split(".")[0]
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.backbone.state_dict().items()}
    arguments = _size_argument(name, int(encoder.architecture["image_size"]))
    return TimmForm(name, tensors, arguments, has_small_stem(encoder.backbone))


def from_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an exported file, for the backbone that its description asks for.

    Layout 2 held the small stem of a ResNet as a 7x7 convolution that gives the same on pixels repeated four times,
    with a convolution instead of the pooling.
    """
    if "maxpool.0.weight" not in tensors:
        return tensors
    kept = {key: value for key, value in tensors.items() if not key.startswith("maxpool.")}
    taps, shared_by = torch.tensor([0, 1, 5]), torch.tensor([1.0, 4.0, 2.0])
    wide = tensors["conv1.weight"][:, :, taps][:, :, :, taps]
    kept["conv1.weight"] = wide * (shared_by[:, None] * shared_by)
    return kept


def _size_argument(name: str, image_size: int) -> dict[str, Any]:
    """``img_size``, for the models that want to know it (vision transformers)."""
    try:
        timm.create_model(name, num_classes=0, img_size=image_size)
    except TypeError:
        return {}
    return {"img_size": image_size}
