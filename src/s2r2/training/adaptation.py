"""Training that starts from a learned encoder: what is trained of it or added to it, and how fast."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from s2r2.encoder import Encoder
from s2r2.encoder.feature_head import add_feature_head
from s2r2.errors import ArgumentError
from s2r2.system.extras import require_extra
from s2r2.system.wording import worded
from s2r2.training.config import TrainConfig
from s2r2.training.optimizer import build_optimizer

LAYER_DECAY = 0.75
"""Share of a layer's learning rate that the layer before it has (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT)."""
RATES = {"all": 0.1, "last-blocks": 0.1, "lora": 0.1, "head": 0.05}
"""Share of a method's learning rate at which a learned encoder, or what is added to it, is trained."""
TRAINED_SHARE = 1 / 3
"""Of the layers, the part that last-blocks trains."""
ADAPTERS = ("head", "lora")
"""Forms that add weights, and merge them into the encoder when it is saved."""
LORA_RANK = 8
HEAD_DECAY = 300.0
"""Weight decay of the head towards where it begins: AdamW then moves none of its weights by more than 1/300, however
long it is trained. That keeps what the backbone knows."""
HEAD_EPOCHS = 20


class ResidualLinear(nn.Module):
    """A linear map ``(N, F)`` to ``(N, F)`` that is learned as a change of the one it begins with.

    Weight decay pulls it back there, not to 0.

    Args:
        start: The first map, ``(F, F)``.
    """

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())
        self.change = nn.Parameter(torch.zeros_like(start))

    @property
    def weight(self) -> Tensor:
        """The map as it is now, ``(F, F)``."""
        return self.start + self.change

    def forward(self, features: Tensor) -> Tensor:
        """Apply it."""
        return F.linear(features, self.weight)


class BehindBackbone(nn.Module):
    """What is trained behind a frozen backbone: its features ``(N, F)`` to embeddings with rows of length 1."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        assert encoder.feature_head is not None
        self.feature_head: nn.Module = encoder.feature_head

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings of the backbone's features."""
        return F.normalize(self.feature_head(features).float(), dim=1)


def equip(encoder: Encoder, how: str) -> Encoder:
    """Freeze what is not trained of a learned encoder and add what is, in place.

    Args:
        encoder: The encoder.
        how: A form of ``adapt``; empty for an encoder that is trained as a whole from random weights.

    Raises:
        S2R2Error: The backbone cannot be adapted in this form, or peft is not installed.
    """
    if how:
        encoder.frozen_statistics = True
        _FORMS[how](encoder)
    return encoder


def merged(encoder: Encoder, how: str) -> Encoder:
    """The encoder that others load, ready to embed: adapters are part of its weights then."""
    if how not in ADAPTERS:
        return encoder.eval()
    made = copy.deepcopy(encoder)
    if how == "lora":
        _merge_lora(made.backbone)
    else:
        assert isinstance(made.feature_head, ResidualLinear)
        add_feature_head(made, made.feature_head.weight.detach())
    return made.requires_grad_(True).eval()


def save_merged(encoder: Encoder, how: str, folder: Path, weights: dict[str, Tensor]) -> None:
    """Write ``encoder.safetensors`` of a run: adapters merged, or else these weights."""
    if how in ADAPTERS:
        merged(encoder, how).save(folder)
    else:
        encoder.save(folder, weights)


def trained_module(encoder: Encoder, how: str) -> nn.Module:
    """What takes the batches of a run: the encoder, or its head alone, which takes features."""
    return BehindBackbone(encoder) if how == "head" else encoder


def optimizer_of(trained: nn.Module, encoder: Encoder, config: TrainConfig) -> Optimizer:
    """The optimizer of a run; of a backbone that learned elsewhere, earlier layers are trained more slowly.

    Args:
        trained: The encoder and the method.
        encoder: The one in it.
        config: Settings of the run.
    """
    shares = shares_of(encoder) if config.adapt in ("all", "last-blocks") else None
    return build_optimizer(trained, config.lr, config.weight_decay or 0.0, config.optimizer, shares)


def shares_of(encoder: Encoder) -> dict[nn.Parameter, float]:
    """For each parameter of the backbone its share of the learning rate.

    Raises:
        S2R2Error: timm does not tell the layers of this backbone.
    """
    depths = _depths(encoder)
    last = max(depths.values())
    return {parameter: LAYER_DECAY ** (last - depth) for parameter, depth in depths.items()}


def _train_all(encoder: Encoder) -> None:
    _depths(encoder)  # refuses what has none


def _train_last_blocks(encoder: Encoder) -> None:
    depths = _depths(encoder)
    layers = max(depths.values()) + 1
    first = layers - max(1, round(layers * TRAINED_SHARE))
    for parameter, depth in depths.items():
        parameter.requires_grad_(depth >= first)


def _add_head(encoder: Encoder) -> None:
    """A feature head that begins at the identity, or at the one that is there, in place of a projection head."""
    encoder.backbone.requires_grad_(False)
    width = encoder.dimensions("feature")
    start = torch.eye(width) if encoder.feature_head is None else encoder.feature_head.weight
    encoder.head = None
    encoder.feature_head = ResidualLinear(start)  # type: ignore[assignment]
    encoder.architecture.update(has_head=False, feature_head=True, embedding_dimensions=width)


def _add_lora(encoder: Encoder) -> None:
    """Low-rank adapters beside the linear layers of attention (Hu et al. 2021, 2106.09685)."""
    backbone = encoder.backbone
    names = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and "attn" in name.split(".")[-2:-1]
    ]
    if not names:
        raise ArgumentError(
            f"`adapt='lora'`: {encoder.architecture['backbone']} has no attention blocks: use `adapt='head'`, "
            "`adapt='last-blocks'` or `adapt='all'`"
        )
    require_extra("lora", worded("`adapt='lora'`"))
    from peft import LoraConfig, inject_adapter_in_model

    encoder.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=names), backbone)
    if encoder.head is not None:
        encoder.head.requires_grad_(True)


def _merge_lora(backbone: nn.Module) -> None:
    from peft.tuners.lora import LoraLayer

    for name, module in [(n, m) for n, m in backbone.named_modules() if isinstance(m, LoraLayer)]:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, module.get_base_layer())


def _depths(encoder: Encoder) -> dict[nn.Parameter, int]:
    """For each parameter of the backbone the number of its layer, counted from the input."""
    backbone: nn.Module = encoder.backbone
    try:
        names = group_parameters(backbone, backbone.group_matcher(coarse=False))  # type: ignore[operator]
        found: Mapping[str, int] = {name: depth for depth, group in names.items() for name in group}
        return {parameter: found[name] for name, parameter in backbone.named_parameters()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{encoder.architecture['backbone']} cannot be adapted as a whole: timm does not tell the layers of its "
            "weights; use `adapt='head'`"
        ) from error


_FORMS: dict[str, Callable[[Encoder], None]] = {
    "all": _train_all,
    "last-blocks": _train_last_blocks,
    "head": _add_head,
    "lora": _add_lora,
}
