"""Backbones of timm: by name, for a size of image, with weights or without."""

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import nn

from s2r2.errors import ArgumentError, S2R2Error


def check_backbone(name: str) -> None:
    """Raise an S2R2Error that names near matches when timm does not know ``name``, or not its tag."""
    if timm.is_model(name):
        _check_tag(name)
        return
    near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.6)
    hint = (
        f"did you mean {', '.join(near)}?" if near else "python -c 'import timm; print(timm.list_models())' lists them"
    )
    raise ArgumentError(f"backbone {name!r} is not known to timm {timm.__version__}: {hint}")


def _check_tag(name: str) -> None:
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise S2R2Error(f"timm {timm.__version__} has no weights {name!r}: {_weights_hint(name)}") from error


def _weights_hint(name: str) -> str:
    architecture = name.partition(".")[0]
    known = timm.list_pretrained(f"{architecture}.*")
    return f"use {', '.join(known[:5])}" if known else f"there are none of {architecture}, only random weights"


def check_weights(name: str) -> None:
    """Raise an S2R2Error that names other tags when timm has no pretrained weights of a model that it knows."""
    stated = timm.get_pretrained_cfg(name)
    if stated is None or not stated.has_weights:
        raise S2R2Error(f"timm {timm.__version__} has no pretrained weights of {name!r}: {_weights_hint(name)}")


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    """Without the hub's lines about each attempt: what failed is said once, by us."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def takes_another_size(backbone: str, image_size: int, other: int) -> bool:
    """Whether a backbone built for ``image_size`` with ``several_sizes`` can look at square images of another one.

    Asked of the model itself, on the meta device: no weights are made.
    """
    try:
        with torch.device("meta"), torch.inference_mode():
            model = build_backbone(
                backbone, image_size, pretrained=False, small_stem=image_size <= 48, several_sizes=True
            )
            return model.eval()(torch.zeros(1, 3, other, other)).ndim == 2
    except Exception:
        return False


def build_backbone(
    name: str,
    image_size: int,
    *,
    pretrained: bool,
    small_stem: bool,
    several_sizes: bool = False,
    overlay: dict[str, Any] | None = None,
) -> nn.Module:
    """The timm model without classifier, told the image size where it wants to know it (vision transformers).

    Args:
        name: Of timm.
        image_size: Side of the input in pixels.
        pretrained: Whether it gets weights.
        small_stem: Whether a ResNet gets the stem for tiny images.
        several_sizes: Whether a vision transformer shall take images of other sizes as well.
        overlay: With weights: what replaces timm's own statement of where they are.
    """
    given = overlay is not None and "state_dict" in overlay
    try:
        with warnings.catch_warnings(), _quiet_download(), _all_weights_fit(given):
            warnings.simplefilter("ignore")
            model = _with_sizes(name, image_size, pretrained, several_sizes, overlay)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if given:
            raise S2R2Error(
                f"the weights do not fit {name!r} of timm {timm.__version__} ({first_line:.200}): name the model that "
                "they belong to"
            ) from error
        if pretrained:
            reason = first_line.partition(". ")[0]
            raise S2R2Error(
                f"the pretrained weights of {name!r} cannot be loaded ({reason}): connect to the internet, or start "
                "from random weights (untrained:NAME; in training, leave out `start`)"
            ) from error
        raise ArgumentError(
            f"backbone {name!r} for {image_size} px cannot be built ({first_line}): choose another `image_size`"
        ) from error
    if small_stem and isinstance(getattr(model, "conv1", None), nn.Conv2d) and hasattr(model, "maxpool"):
        shrink_stem(model)
    return model.to(memory_format=torch.channels_last) if gains_from_channels_last(model) else model


def _with_sizes(
    name: str, image_size: int, pretrained: bool, several_sizes: bool, overlay: dict[str, Any] | None
) -> nn.Module:
    """The timm model with as many of the arguments about image sizes as it knows."""
    known: dict[str, Any] = {"img_size": image_size}
    several = {"dynamic_img_size": True, "dynamic_img_pad": True}
    others: dict[str, Any] = {"pretrained_cfg_overlay": overlay} if overlay else {}
    for sizes in ([{**known, **several}] if several_sizes else []) + [known]:
        with contextlib.suppress(TypeError):
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **sizes, **others)
    return timm.create_model(name, pretrained=pretrained, num_classes=0, **others)  # a convolutional network


class _Missing(logging.Handler):
    """Keeps what timm says of weights that a checkpoint lacks: it leaves these random."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        if record.getMessage().startswith("Missing keys"):
            self.said = record.getMessage()


@contextlib.contextmanager
def _all_weights_fit(wanted: bool) -> Iterator[None]:
    """Make an error of weights that are missing in a checkpoint, if that is wanted.

    Raises:
        ValueError: Some are missing.
    """
    if not wanted:
        yield
        return
    handler, log = _Missing(), logging.getLogger("timm.models._builder")
    before, propagates = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        log.propagate = propagates
    if handler.said:
        raise ValueError(handler.said)


def other_size(model: nn.Module, image_size: int) -> None:
    """Prepare a model that was built for another size; position embeddings of a vision transformer are resampled."""
    set_size = getattr(model, "set_input_size", None)
    if set_size is not None:
        set_size(img_size=image_size)


def shrink_stem(model: Any) -> None:
    """Replace a ResNet's 7x7 stride-2 stem and its pooling, which would leave nothing of a tiny image."""
    first = model.conv1
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def has_small_stem(model: nn.Module) -> bool:
    """Whether :func:`shrink_stem` has been here."""
    first, pooling = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    return isinstance(pooling, nn.Identity) and isinstance(first, nn.Conv2d) and first.kernel_size == (3, 3)


def gains_from_channels_last(model: nn.Module) -> bool:
    """Whether a model is faster on a CPU in the layout ``channels_last``: where many layers are convolutions of 1x1.

    These are plain matrix products in that layout. ``benchmarks/channels_last.py`` has the figures.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    pointwise = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    return len(pointwise) > 0.4 * len(layers)
