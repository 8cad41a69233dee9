"""Encoders from a run folder, from a file, or from timm."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from s2r2.encoder.backbones import build_backbone, check_backbone
from s2r2.encoder.description import read_description
from s2r2.encoder.model import (
    TIMM_LAYOUT_VERSION,
    Encoder,
    ProjectionHead,
    create_encoder,
)
from s2r2.encoder.timm_form import from_timm
from s2r2.errors import S2R2Error
from s2r2.runs import ENCODER_FILE


def load(source: str | Path, *, device: str | torch.device = "cpu", image_size: int | None = None) -> Encoder:
    """Load an encoder, ready to embed.

    Args:
        source: A run folder, an ``encoder.safetensors`` or an export in that format, ``timm:NAME`` (timm's
            pretrained weights) or ``untrained:NAME`` (the same backbone with random weights, always the same ones).
        device: Where to put it; ``"auto"`` takes a GPU if there is one.
        image_size: Input side in pixels for ``timm:`` and ``untrained:``; by default what timm states.

    Raises:
        S2R2Error: There is no encoder, the file is damaged or of a newer version, or timm cannot give the weights.
    """
    text = str(source)
    if text.startswith(("timm:", "untrained:")):
        kind, _, name = text.partition(":")
        encoder = _from_timm(name, pretrained=kind == "timm", image_size=image_size, title=text)
    else:
        encoder = _from_file(_encoder_file(Path(source)))
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _placed(encoder, device)


def untrained_like(encoder: Encoder, seed: int = 0) -> Encoder:
    """An encoder of the same architecture with random weights: what training is compared with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = _build(encoder.architecture, f"untrained {encoder.architecture['backbone']}", trained=False)
    return _placed(fresh, encoder.device)


def _placed(encoder: Encoder, device: str | torch.device) -> Encoder:
    """The encoder on a device, ready to embed; only on a CPU in the layout that is measured to be faster there."""
    encoder = encoder.to(device).eval()
    return encoder if encoder.device.type == "cpu" else encoder.to(memory_format=torch.contiguous_format)


def _encoder_file(path: Path) -> Path:
    names = (ENCODER_FILE, "model.safetensors")  # the second: an export in Hugging Face's form
    files = [path / name for name in names] if path.is_dir() else [path]
    if found := next((file for file in files if file.is_file()), None):
        if found.suffix.lower() in (".onnx", ".pt2"):
            raise S2R2Error(f"{found} is a graph for other programs: give the run folder or an export as .safetensors")
        return found
    if path.is_dir():
        raise S2R2Error(f"no {ENCODER_FILE} in {path}: give a run folder of s2r2 train, or finish that training")
    raise S2R2Error(f"no encoder at {path}: give a run folder, an {ENCODER_FILE}, or timm:NAME")


def _from_file(file: Path) -> Encoder:
    try:
        with safe_open(file, framework="pt") as content:
            description = read_description((content.metadata() or {}).get("s2r2"), file, TIMM_LAYOUT_VERSION)
            architecture = description["architecture"]
            check_backbone(architecture["backbone"])
            if description.get("layout") != "timm":
                _check_shapes(architecture, {n: content.get_slice(n).get_shape() for n in content.keys()}, file)  # noqa: SIM118
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise S2R2Error(
            f"{file} cannot be read ({error}): it is damaged, copy it again or resume the training"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise S2R2Error(f"{file}: {name} is not finite; the file is damaged or its training diverged, take another")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise S2R2Error(f"{file}: {name} has a negative variance; the file is damaged, copy it again")
    encoder = _build(description["architecture"], description["name"], trained=description["trained"])
    try:
        if description.get("layout") == "timm":
            encoder.backbone.load_state_dict(from_timm(tensors))
        else:
            encoder.load_state_dict(tensors)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise S2R2Error(
            f"{file} does not fit {description['architecture']['backbone']} of timm {timm.__version__}: "
            f"install the timm it was trained with"
        ) from error
    return encoder


def _check_shapes(architecture: dict[str, Any], shapes: dict[str, list[int]], file: Path) -> None:
    """Compare the head that the description asks for with the tensors, before one of that size is made."""
    first, last = shapes.get("head.0.weight"), shapes.get("head.3.weight")
    hidden, features = architecture["head_hidden"], architecture["feature_dimensions"]
    wanted = ([hidden, features], [architecture["embedding_dimensions"], hidden])
    if (first, last) != (wanted if architecture["has_head"] else (None, None)):
        raise S2R2Error(f"{file}: its head is not of the size that it states; the file is damaged, copy it again")


def _build(architecture: dict[str, Any], name: str, *, trained: bool) -> Encoder:
    """Modules with fresh weights from the plain data that ``Encoder.architecture`` holds."""
    backbone = architecture["backbone"]
    check_backbone(backbone)
    model = build_backbone(
        backbone, architecture["image_size"], pretrained=False, small_stem=architecture["small_stem"]
    )
    head = None
    if architecture["has_head"]:
        head = ProjectionHead(
            architecture["feature_dimensions"], architecture["head_hidden"], architecture["embedding_dimensions"]
        )
    return Encoder(model, head, dict(architecture), name, trained=trained)


def _from_timm(name: str, *, pretrained: bool, image_size: int | None, title: str) -> Encoder:
    check_backbone(name)
    stated = timm.get_pretrained_cfg(name)
    size = image_size or (stated.input_size[-1] if stated else 224)
    mean, std = (stated.mean, stated.std) if stated else ((0.5,) * 3, (0.5,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_encoder(
            name,
            image_size=size,
            pretrained=pretrained,
            embedding_dimensions=0,
            mean=mean,
            std=std,
            name=title,
            trained=pretrained,
        )
