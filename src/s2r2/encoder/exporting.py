"""An encoder as a file for programs that know nothing of s2r2: timm, ONNX, torch.export."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from s2r2.encoder.backbones import has_small_stem
from s2r2.encoder.images import store_side
from s2r2.encoder.loading import load
from s2r2.encoder.model import TIMM_LAYOUT_VERSION, Encoder, Output
from s2r2.encoder.model_card import Usage, model_card
from s2r2.encoder.timm_form import TimmForm, to_timm
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.runs import RunFolder
from s2r2.system.extras import require_extra
from s2r2.system.files import make_folder, refuse_overwriting, why_not_written, write_bytes, write_text
from s2r2.system.wording import worded

Format = Literal["safetensors", "onnx", "torch-export", "huggingface"]
SUFFIXES: dict[Format, str] = {
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "huggingface": "",
}
TOLERANCE = 1e-4
_ONNX_LIMIT = 2_000_000_000  # protobuf's, for one file


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: The file, or for Hugging Face the folder.
        card: The model card.
        difference: Largest difference of its outputs from the encoder's own, on random pixels.
    """

    path: Path
    card: Path
    difference: float


class PixelsToVectors(nn.Module):
    """Pixels (N, 3, P, P) in [0, 1] to rows of length 1: normalization, backbone and, if asked for, head."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, output: Output) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        self.feature_head = encoder.feature_head or nn.Identity()
        self.head = encoder.head if output == "embedding" else None
        self.register_buffer("mean", torch.tensor(encoder.mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std).reshape(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors of pixels that are not normalized."""
        features = self.feature_head(self.backbone((pixels - self.mean) / self.std))
        return F.normalize(features if self.head is None else self.head(features), dim=1)


def export(
    source: str | Path | Encoder,
    out: str | Path,
    *,
    format: Format | Literal["auto"] = "auto",
    output: Output = "feature",
) -> Exported:
    """Write an encoder for other programs, with a model card beside it, and compare what it gives with the original.

    Args:
        source: A run folder, or anything else that :func:`s2r2.load` takes, or an encoder.
        out: The file to write (``.safetensors``, ``.onnx``, ``.pt2``), or for Hugging Face a folder.
        format: ``"safetensors"`` (timm's weights, which s2r2 reads as well; with ``output="embedding"`` s2r2 only),
            ``"huggingface"`` (a folder in timm's form), ``"onnx"`` or ``"torch-export"`` (the whole graph, with the
            normalization inside); ``"auto"``: the one that the ending of ``out`` stands for.
        output: ``"feature"`` (backbone) or ``"embedding"`` (after the projection head).

    Raises:
        S2R2Error: The format cannot hold this encoder, a library is missing, or nothing can be written there.
    """
    out = Path(out)
    format = _format_of(out) if format == "auto" else format
    if format not in SUFFIXES:
        raise ArgumentError(f"`format={format!r}` is not known: use {', '.join(('auto', *SUFFIXES))}")
    if output not in ("feature", "embedding"):
        raise ArgumentError(f"`output={output!r}` is not known: use feature or embedding")
    encoder = (copy.deepcopy(source) if isinstance(source, Encoder) else load(source)).to("cpu").eval()
    _check_request(encoder, out, format, output)
    _check_place(out, format, [] if isinstance(source, Encoder) else [source])
    folder = out if format == "huggingface" else out.parent
    try:
        make_folder(folder)
    except OSError as error:
        raise S2R2Error(f"cannot make the folder {folder}: {why_not_written(error)}choose another `out`") from error
    run = None if isinstance(source, Encoder) else Path(source)
    with _quietly():
        form, difference = _write(encoder, out, format, output)
    usage = Usage(format, output, out.name, form)
    card = out / "README.md" if format == "huggingface" else out.with_name(f"{out.name}.README.md")
    write_text(card, model_card(encoder, run, usage, difference))
    return Exported(out, card, difference)


def describe(encoder: Encoder, output: Output) -> dict[str, Any]:
    """What a reader of an exported graph must do before and gets after it, as plain data."""
    return {
        "name": encoder.name,
        "backbone": encoder.architecture["backbone"],
        "input": f"pixels: (N, 3, {encoder.image_size}, {encoder.image_size}) float32, RGB in [0, 1], not normalized",
        "preprocessing": f"bicubic reduction to a short side of {store_side(encoder.image_size)} px (JPEG: drafted to "
        "twice that at least), largest centered square, antialiased bilinear resize; normalization is in the graph",
        "image_size": encoder.image_size,
        "output": f"vectors: (N, {encoder.dimensions(output)}) float32, rows of length 1",
        "vectors": output,
    }


def _format_of(out: Path) -> Format:
    for format, suffix in SUFFIXES.items():
        if suffix and out.suffix.lower() == suffix:
            return format
    raise ArgumentError(
        f"{out} ends in none of .safetensors, .onnx and .pt2: choose such a name, or add `format='huggingface'` for a "
        "folder"
    )


def _check_request(encoder: Encoder, out: Path, format: Format, output: Output) -> None:
    """Refuse what cannot work before anything is written."""
    suffix = SUFFIXES[format]
    if suffix and (out.suffix.lower() != suffix or out.is_dir()):
        raise ArgumentError(f"{out}: `format={format!r}` writes a file, and its name must end in {suffix}")
    if not suffix and out.exists() and not out.is_dir():
        raise ArgumentError(f"{out} is a file, and `format={format!r}` writes a folder: choose another `out`")
    if not suffix and RunFolder(out).is_run:
        raise ArgumentError(f"{out} is a run folder: choose another `out`, such as {out / 'huggingface'}")
    if output == "embedding" and encoder.head is None:
        raise ArgumentError(f"`output='embedding'`: {encoder.name} has no projection head; leave out `output`")
    if output == "embedding" and format == "huggingface":
        raise ArgumentError(
            "`output='embedding'`: timm has no place for a projection head; use `format='onnx'` or "
            "`format='safetensors'`"
        )
    if format == "huggingface" and encoder.feature_head is not None:
        raise ArgumentError(
            f"`format='huggingface'`: timm has no place for the head of {encoder.name}; use `format='onnx'` or "
            "`format='safetensors'`, which s2r2 reads"
        )
    if format == "huggingface" and has_small_stem(encoder.backbone):
        raise ArgumentError(
            "`format='huggingface'`: timm cannot build the stem that s2r2 gives a ResNet for images of at most 48 px; "
            "use `format='safetensors'`, whose model card shows how to, or `format='onnx'`"
        )
    if format == "onnx":
        require_extra("export", worded("`format='onnx'`"))
        if sum(p.numel() * p.element_size() for p in encoder.parameters()) > _ONNX_LIMIT:
            raise ArgumentError("`format='onnx'`: an ONNX file holds at most 2 GB; use `format='torch-export'`")


def _check_place(out: Path, format: Format, inputs: Sequence[str | Path]) -> None:
    """Refuse to write over what somebody else has written."""
    refuse_overwriting(out, inputs)
    if RunFolder(out.parent).is_run and out == RunFolder(out.parent).encoder_file:
        raise ArgumentError(f"{out} is the encoder of a run, and would be lost: choose another `out`")
    card = out / "README.md"
    if format == "huggingface" and card.exists() and not (out / "model.safetensors").exists():
        raise ArgumentError(f"{card} would be lost: move it away, or choose another `out`")


def _write(encoder: Encoder, out: Path, format: Format, output: Output) -> tuple[TimmForm | None, float]:
    """Write the weights or the graph; returns the timm form, if it is one, and the difference from the encoder."""
    pixels = torch.rand(3, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    model = PixelsToVectors(encoder, output).eval()
    with torch.inference_mode():
        expected = model(pixels)
    if format == "onnx":
        write_bytes(out, _onnx_bytes(model, describe(encoder, output), encoder.image_size))
        return None, _checked(_run_onnx(out, pixels), expected)
    if format == "torch-export":
        write_bytes(out, _program_bytes(model, describe(encoder, output), encoder.image_size))
        with torch.inference_mode():
            return None, _checked(torch.export.load(out).module()(pixels), expected)
    if output == "embedding" or encoder.feature_head is not None:  # timm's form has no place for heads
        write_bytes(out, encoder.to_bytes())
        return None, _checked(
            torch.from_numpy(load(out).embed_pixels(_normalized(encoder, pixels), output=output)), expected
        )
    form = to_timm(encoder)
    with torch.inference_mode():
        rows = F.normalize(form.build()(_normalized(encoder, pixels)), dim=1)
    difference = _checked(rows, expected)
    if format == "huggingface":
        write_text(out / "config.json", json.dumps(timm_config(encoder, form), indent=2) + "\n")
        out = out / "model.safetensors"
    write_bytes(
        out, safetensors_bytes(form.tensors, metadata={"s2r2": json.dumps(_timm_description(encoder)), "format": "pt"})
    )
    return form, difference


def timm_config(encoder: Encoder, form: TimmForm) -> dict[str, Any]:
    """``config.json`` in the form that timm reads from a folder or the Hugging Face hub."""
    side = encoder.image_size
    return {
        "architecture": form.architecture,
        "num_classes": 0,
        "num_features": encoder.dimensions("feature"),
        "model_args": form.arguments,
        "pretrained_cfg": {
            "tag": "s2r2",
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": "img_size" in form.arguments,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": 0,
        },
    }


def _timm_description(encoder: Encoder) -> dict[str, Any]:
    """What s2r2's own loader needs to build the encoder, without its head, from timm's weights."""
    features = encoder.dimensions("feature")
    architecture = {**encoder.architecture, "has_head": False, "embedding_dimensions": features}
    return {
        "version": TIMM_LAYOUT_VERSION,
        "layout": "timm",
        "name": encoder.name,
        "trained": encoder.trained,
        "architecture": architecture,
    }


def _onnx_bytes(model: nn.Module, description: dict[str, Any], side: int) -> bytes:
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, side, side),),
        input_names=["pixels"],
        output_names=["vectors"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for key, value in description.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"s2r2.{key}", str(value)
    return proto.SerializeToString()


def _program_bytes(model: nn.Module, description: dict[str, Any], side: int) -> bytes:
    shapes = {"pixels": {0: torch.export.Dim("images")}}
    program = torch.export.export(model, (torch.zeros(2, 3, side, side),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"s2r2.json": json.dumps(description)})
    return buffer.getvalue()


def _run_onnx(path: Path, pixels: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _normalized(encoder: Encoder, pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(encoder.mean).reshape(3, 1, 1)) / torch.tensor(encoder.std).reshape(3, 1, 1)


def _checked(found: Tensor, expected: Tensor) -> float:
    """Largest difference between the exported encoder's vectors and the encoder's own.

    Raises:
        S2R2Error: It is more than rounding.
    """
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise S2R2Error(
            f"the exported encoder gives other vectors than the original (by {difference:.2g}): use another `format`"
        )
    return difference


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the notes to developers that torch's exporters print."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
