"""An encoder's backbone as weights that plain timm loads, and back."""

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from s2r2.encoder.model import Encoder
from s2r2.errors import S2R2Error

ENLARGE = 4
"""How often each pixel stands beside and below itself before a ResNet whose small stem became timm's own."""

# Which of the 3 taps of the small stem each of the 7 taps of timm's stem belongs to, on pixels repeated four times.
_TAP = torch.tensor([0, 1, 1, 1, 1, 2, 2])
_SHARE = torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5])


@dataclass(frozen=True)
class TimmForm:
    """What ``timm.create_model(architecture, num_classes=0, **arguments)`` needs to give the same features.

    Attributes:
        architecture: timm's name of the model, without a tag.
        arguments: Further arguments for it.
        tensors: Its weights.
        enlarge: How often each pixel must be repeated in both directions; 1 for all but the small stem.
    """

    architecture: str
    tensors: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    enlarge: int = 1

    def build(self) -> nn.Module:
        """The model as plain timm builds it, with these weights."""
        model = timm.create_model(self.architecture, num_classes=0, **self.arguments)
        model.load_state_dict(self.tensors)
        return model.eval()


def to_timm(encoder: Encoder) -> TimmForm:
    """The backbone's weights under timm's own names, for timm's own modules.

    timm has no 3x3 stem for a ResNet. On pixels that are repeated four times in both directions its 7x7 stem of
    stride 2 can compute the same sums at every second place, and ``replace_stem_pool`` puts a convolution where
    the pooling was, which picks those places. Weights are only divided by powers of two: nothing is rounded.

    Raises:
        S2R2Error: Plain timm cannot build what stands for this ResNet's small stem.
    """
    name = str(encoder.architecture["backbone"]).split(".")[0]
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.backbone.state_dict().items()}
    if has_small_stem(encoder.backbone):
        return TimmForm(name, _timm_stem(name, tensors), {"replace_stem_pool": True}, ENLARGE)
    return TimmForm(name, tensors, _size_argument(name, int(encoder.architecture["image_size"])))


def from_timm(tensors: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights for ``backbone`` from those that :func:`to_timm` made of it, bit for bit."""
    if not has_small_stem(backbone):
        return tensors
    kept = {key: value for key, value in tensors.items() if not key.startswith("maxpool.")}
    # One 7x7 tap of each 3x3 tap, times the number of those that share it: rows 0, 1 and 5 with 1, 4 and 2.
    first = torch.tensor([0, 1, 5])
    share = _SHARE[first]
    kept["conv1.weight"] = tensors["conv1.weight"][:, :, first][:, :, :, first] / (share[:, None] * share)
    return kept


def has_small_stem(backbone: nn.Module) -> bool:
    """Whether s2r2 put its stem for tiny images into this backbone."""
    first = getattr(backbone, "conv1", None)
    pooled = not isinstance(getattr(backbone, "maxpool", None), nn.Identity)
    return not pooled and isinstance(first, nn.Conv2d) and first.kernel_size == (3, 3)


def _timm_stem(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the small stem by timm's 7x7 convolution and a pooling convolution that picks its odd places."""
    model = timm.create_model(name, num_classes=0)
    if not isinstance(model, ResNet) or not isinstance(model.maxpool, nn.MaxPool2d):
        raise S2R2Error(
            f"plain timm cannot build the small stem that s2r2 puts on {name} at 48 px and less: "
            f"use --format onnx or torch-export"
        )
    stem = tensors["conv1.weight"][:, :, _TAP][:, :, :, _TAP] * (_SHARE[:, None] * _SHARE)
    width = len(stem)
    pick = torch.zeros(width, width, 3, 3)
    pick[torch.arange(width), torch.arange(width), 2, 2] = 1
    as_it_is = nn.BatchNorm2d(width)  # its epsilon is made up for by the variance
    pooling = {
        "maxpool.0.weight": pick,
        "maxpool.1.weight": torch.ones(width),
        "maxpool.1.bias": torch.zeros(width),
        "maxpool.1.running_mean": torch.zeros(width),
        "maxpool.1.running_var": torch.full((width,), 1 - as_it_is.eps),
        "maxpool.1.num_batches_tracked": torch.tensor(0),
    }
    return {**tensors, "conv1.weight": stem.contiguous(), **pooling}


def _size_argument(name: str, image_size: int) -> dict[str, Any]:
    """``img_size``, for the models that want to know it (vision transformers)."""
    try:
        timm.create_model(name, num_classes=0, img_size=image_size)
    except TypeError:
        return {}
    return {"img_size": image_size}
