"""Encoders from a run folder, from a file, or from timm."""

import json
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from s2r2.encoder.backbones import build_backbone, check_backbone
from s2r2.encoder.description import by_others, read_description
from s2r2.encoder.model import FEATURE_HEAD_VERSION, Encoder, create_encoder, with_image_size
from s2r2.encoder.projection_head import ProjectionHead
from s2r2.encoder.timm_form import from_timm
from s2r2.encoder.weights import Pretrained, find_pretrained, is_timm_folder
from s2r2.errors import S2R2Error
from s2r2.runs import ENCODER_FILE


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    several_sizes: bool = False,
) -> Encoder:
    """Load an encoder, ready to embed.

    Args:
        source: A run folder, an index (the encoder inside it), an ``encoder.safetensors`` or an export in that format;
            ``timm:NAME`` for timm's pretrained weights, where NAME may be ``hf-hub:OWNER/NAME``, ``local-dir:PATH`` or
            ``MODEL@FILE`` (a checkpoint of timm's model MODEL, as safetensors or .pth); ``untrained:NAME`` for the same
            backbone with random weights, always the same ones.
        device: Where to put it; ``"auto"`` takes a GPU if there is one.
        image_size: Input side in pixels; by default the encoder's own.
        several_sizes: Let a vision transformer look at images of other sizes as well, where timm's can.

    Raises:
        S2R2Error: There is no encoder, the file is damaged or of a newer version, or timm cannot give the weights.
    """
    text = str(source)
    if text.startswith("timm:"):
        encoder = _from_timm(text.removeprefix("timm:"), image_size, text, several_sizes)
    elif text.startswith("untrained:"):
        encoder = _untrained(text.removeprefix("untrained:"), image_size, text)
    else:
        encoder = _from_place(Path(source), image_size, several_sizes)
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _placed(encoder, device)


def _from_place(path: Path, image_size: int | None, several_sizes: bool) -> Encoder:
    """The encoder at a path: ours, or a folder in the form in which timm's are shared."""
    if is_timm_folder(path) and not _has_ours(path):
        return _from_timm(f"local-dir:{path}", image_size, str(path), several_sizes)
    encoder = _from_file(_encoder_file(path), several_sizes)
    return with_image_size(encoder, image_size) if image_size else encoder


def _has_ours(folder: Path) -> bool:
    """Whether a folder has weights that s2r2 wrote; of those that cannot be read it says what is wrong."""
    try:
        with safe_open(_encoder_file(folder), framework="pt") as content:
            return "s2r2" in (content.metadata() or {})
    except S2R2Error:
        return False
    except (SafetensorError, OSError):
        return True


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
    if (inside := _generation_of_index(path)) is not None:
        files = [inside / ENCODER_FILE]
    if found := next((file for file in files if file.is_file()), None):
        if found.suffix.lower() in (".onnx", ".pt2"):
            raise S2R2Error(f"{found} is a graph for other programs: give the run folder or an export as .safetensors")
        if found.suffix.lower() != ".safetensors":
            raise by_others(found)
        return found
    if path.is_dir():
        raise S2R2Error(f"no {ENCODER_FILE} in {path}: give a run folder of s2r2 train, or finish that training")
    raise S2R2Error(f"no encoder at {path}: give a run folder, an {ENCODER_FILE}, or timm:NAME")


def _generation_of_index(path: Path) -> Path | None:
    """The folder of an index that holds its encoder; None where ``path`` is no index."""
    try:
        name = json.loads((path / "index.json").read_text(encoding="utf-8"))["generation"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return path / name if isinstance(name, str) and re.fullmatch(r"[0-9a-f]{24}(-\d+)?", name) else None


def _from_file(file: Path, several_sizes: bool) -> Encoder:
    try:
        with safe_open(file, framework="pt") as content:
            description = read_description((content.metadata() or {}).get("s2r2"), file, FEATURE_HEAD_VERSION)
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
            raise S2R2Error(f"{file}: {name} is not finite; the file is damaged or its training diverged; use another")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise S2R2Error(f"{file}: {name} has a negative variance; the file is damaged, copy it again")
    encoder = _build(
        description["architecture"],
        description["name"],
        trained=description["trained"],
        several_sizes=several_sizes,
    )
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
        raise S2R2Error(f"{file}: its projection head is not of the stated size; the file is damaged, copy it again")
    if architecture.get("feature_head") and shapes.get("feature_head.weight") != [features, features]:
        raise S2R2Error(f"{file}: its feature head does not fit its features; the file is damaged, copy it again")


def _build(architecture: dict[str, Any], name: str, *, trained: bool, several_sizes: bool = False) -> Encoder:
    """Modules with fresh weights from the plain data that ``Encoder.architecture`` holds."""
    backbone = architecture["backbone"]
    check_backbone(backbone)
    model = build_backbone(
        backbone,
        architecture["image_size"],
        pretrained=False,
        small_stem=architecture["small_stem"],
        several_sizes=several_sizes,
    )
    head = None
    if architecture["has_head"]:
        head = ProjectionHead(
            architecture["feature_dimensions"], architecture["head_hidden"], architecture["embedding_dimensions"]
        )
    return Encoder(model, head, dict(architecture), name, trained=trained)


def _from_timm(name: str, image_size: int | None, title: str, several_sizes: bool) -> Encoder:
    """The model of timm's with its pretrained weights, its own size and normalization."""
    found = find_pretrained(name)
    return _bare(found.backbone, found.stated, image_size, title, several_sizes=several_sizes, found=found)


def _untrained(name: str, image_size: int | None, title: str) -> Encoder:
    """The model of timm's with random weights, always the same ones."""
    check_backbone(name)
    stated = timm.get_pretrained_cfg(name)
    return _bare(name, stated.to_dict() if stated else {}, image_size, title)


def _bare(
    backbone: str,
    stated: dict[str, Any],
    image_size: int | None,
    title: str,
    *,
    several_sizes: bool = False,
    found: Pretrained | None = None,
) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_encoder(
            backbone,
            image_size=image_size or (stated.get("input_size") or (224,))[-1],
            pretrained=found is not None,
            embedding_dimensions=0,
            mean=stated.get("mean") or (0.5,) * 3,
            std=stated.get("std") or (0.5,) * 3,
            name=title,
            trained=found is not None,
            several_sizes=several_sizes,
            overlay=found.overlay if found else None,
        )
