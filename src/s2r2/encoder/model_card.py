"""The README of an exported encoder: how to use it, what it was made from, how good it is, where it ends."""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2r2.encoder.images import store_side
from s2r2.encoder.model import Encoder, Output
from s2r2.encoder.timm_form import TimmForm
from s2r2.errors import S2R2Error
from s2r2.runs import ENCODER_FILE, RunFolder
from s2r2.system.markdown import markdown_table
from s2r2.system.terminal import visible

_PREPARE = '''import io
import math

import numpy as np
from PIL import Image, ImageCms

SIZE, SIDE = {size}, {side}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
TURNS = {{2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}}  # what undoes each EXIF orientation


def pixels(path):
    """The largest centered square of a photo: (3, SIZE, SIZE) float32 in [0, 1], RGB."""
    image = Image.open(path, formats=FORMATS)
    turn, profile = TURNS.get(image.getexif().get(0x0112)), image.info.get("icc_profile")
    if image.format in ("JPEG", "MPO") and min(image.size) > SIDE:  # libjpeg reduces while it decodes
        image.draft(None, tuple(math.ceil(side * (2 * SIDE / min(image.size))) for side in image.size))
    if image.has_transparency_data:
        over, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(over, mask=over.getchannel("A"))
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    scale = min(SIDE / min(image.size), math.sqrt(64 * SIDE**2 / (image.width * image.height)))
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    image = in_srgb(image, profile).convert("RGB")
    image = image if turn is None else image.transpose(Image.Transpose(turn))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    # Channel by channel in 32-bit floats: on a whole RGB image, Pillow rounds to 8 bits.
    channels = [Image.fromarray(np.asarray(c, np.float32)) for c in square.split()]
    resized = [np.asarray(c.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for c in channels]
    return np.stack(resized) / np.float32(255)


def in_srgb(image, profile):
    """Colors of a profile as those of sRGB; what hardly changes them, or is damaged, is left out."""
    try:
        given, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        relative, black = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(given, srgb, image.mode, "RGB", relative, black)
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        chart = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
        before = Image.fromarray(chart if image.mode == "RGB" else np.ascontiguousarray(chart[..., 0]))
        after = np.asarray(ImageCms.applyTransform(before, transform), np.int16)
        same = np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max() <= 3
        return image if same else ImageCms.applyTransform(image, transform)
    except Exception:
        return image

'''
_ONNX = '''
import onnxruntime

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])


def embed(paths):
    """One row of length 1 for each photo."""
    return session.run(["vectors"], {{"pixels": np.stack([pixels(path) for path in paths])}})[0]
'''
_PROGRAM = '''
import torch

model = torch.export.load({file}).module()


def embed(paths):
    """One row of length 1 for each photo."""
    with torch.inference_mode():
        return model(torch.from_numpy(np.stack([pixels(path) for path in paths]))).numpy()
'''
_TIMM = '''
import timm
import torch

model = {create}
model.eval()
mean, std = np.array({mean}, np.float32), np.array({std}, np.float32)


def embed(paths):
    """One row of length 1 for each photo."""
    batch = np.stack([(pixels(path) - mean[:, None, None]) / std[:, None, None] for path in paths])
    with torch.inference_mode():
        features = model(torch.from_numpy(batch))
    return torch.nn.functional.normalize(features, dim=1).numpy()
'''
_S2R2 = """import s2r2

encoder = s2r2.load({file})


def embed(paths):
    return encoder.embed(paths, output="embedding")
"""
_SMALL_STEM = """
# For tiny images: a stem of 3 x 3 without stride or pooling, which timm does not have.
model.conv1 = torch.nn.Conv2d(3, {width}, 3, padding=1, bias=False)
model.maxpool = torch.nn.Identity()
timm.models.load_checkpoint(model, {file})"""
_SETTINGS = ("recipe", "views", "batch_size", "epochs", "temperature", "weight_decay", "seed")


@dataclass(frozen=True)
class Usage:
    """What was exported, and how.

    Attributes:
        format: Name of the format.
        output: ``"feature"`` or ``"embedding"``.
        file: Name of the file or folder.
        form: The timm form, where that is the format.
    """

    format: str
    output: Output
    file: str
    form: TimmForm | None


def model_card(encoder: Encoder, run: Path | None, usage: Usage, difference: float) -> str:
    """The card as Markdown.

    Args:
        encoder: What was exported.
        run: Its run folder, from which data, recipe and figures are taken; another path or None says nothing of them.
        usage: What was exported, and how.
        difference: Largest difference from the encoder's own vectors.
    """
    about = _read_run(run)
    figures = _read_evaluation(run) if about else None
    parts = [
        _front_matter() if usage.format == "huggingface" else "",
        f"# {_plain(encoder.name)}\n\n{_what_it_is(encoder, usage, about)}",
        f"## Use\n\n{_use(encoder, usage)}",
        f"## Preprocessing\n\n{_preprocessing(encoder, usage)}",
        f"## Made from\n\n{_made_from(encoder, about)}",
        f"## Figures\n\n{_figures(figures)}",
        f"## Limits\n\n{_limits(about, figures, usage, difference)}",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _front_matter() -> str:
    tags = "- image-feature-extraction\n- timm\n- self-supervised-learning"
    return f"---\nlibrary_name: timm\npipeline_tag: image-feature-extraction\ntags:\n{tags}\n---"


def _what_it_is(encoder: Encoder, usage: Usage, about: dict[str, Any]) -> str:
    what = "features of the backbone" if usage.output == "feature" else "embeddings from behind the projection head"
    start = "trained by ranking (S2R2, arXiv 2010.07258), without labels," if about else "as it is:"
    return (
        f"An image encoder, {encoder.architecture['backbone']} at {encoder.image_size} px, {start} exported as "
        f"{usage.format}. It turns a photo into a vector of {encoder.dimensions(usage.output)} numbers ({what}); "
        f"the dot product of two vectors of length 1 says how much alike two photos are."
    )


def _use(encoder: Encoder, usage: Usage) -> str:
    return f"```python\n{_code(encoder, usage)}```"


def _code(encoder: Encoder, usage: Usage) -> str:
    prepare = _PREPARE.format(size=encoder.image_size, side=store_side(encoder.image_size))
    if usage.format == "onnx":
        return prepare + _ONNX.format(file=json.dumps(usage.file))
    if usage.format == "torch-export":
        return prepare + _PROGRAM.format(file=json.dumps(usage.file))
    if usage.form is None:
        return _S2R2.format(file=json.dumps(usage.file))
    arguments = "".join(f", {key}={value!r}" for key, value in usage.form.arguments.items())
    file = json.dumps(usage.file)
    if usage.format == "huggingface":
        create = f"timm.create_model({json.dumps(f'local-dir:{usage.file}')}, pretrained=True)"
    elif usage.form.small_stem:
        create = f"timm.create_model({json.dumps(usage.form.architecture)}, num_classes=0{arguments})"
        create += _SMALL_STEM.format(width=len(usage.form.tensors["conv1.weight"]), file=file)
    else:
        name = json.dumps(usage.form.architecture)
        create = f"timm.create_model({name}, num_classes=0, checkpoint_path={file}{arguments})"
    return prepare + _TIMM.format(create=create, mean=list(encoder.mean), std=list(encoder.std))


def _preprocessing(encoder: Encoder, usage: Usage) -> str:
    size = encoder.image_size
    inside = usage.format in ("onnx", "torch-export")
    normalize = (
        "Normalization is inside: give pixels in [0, 1]."
        if inside
        else f"Normalize with mean {list(encoder.mean)} and standard deviation {list(encoder.std)}."
    )
    text = (
        f"The photo upright (EXIF), in sRGB, transparency laid over white; where its shorter side is longer than "
        f"{store_side(size)} pixels, reduced to that by Pillow's `BICUBIC` (a JPEG first by libjpeg as it is decoded, "
        f"to no less than twice that); its largest centered square; resized to {size} x {size} by Pillow's `BILINEAR`, "
        f"which is antialiased, on 32-bit float channels as above. {normalize} This is how s2r2 decodes: the vectors "
        f"are the same to 0.00001; only deep grayscale (16 bits or more) and CMYK with a profile are treated otherwise "
        f"here. Whatever is simpler gives vectors that differ in the second to fourth place."
    )
    if usage.form is not None:
        text += " timm's own transform resizes before it crops and rounds likewise: near, but not the same."
    return text


def _made_from(encoder: Encoder, about: dict[str, Any]) -> str:
    if not about:
        return f"No run of s2r2: the weights are those of {_plain(encoder.name)}."
    config, run = about["config"], about["run"]
    labels = f"; labels of {run['labels']} kinds were there and not used" if run.get("labels") else ""
    settings = ", ".join(f"{name.replace('_', ' ')} {_plain(config[name])}" for name in _SETTINGS if name in config)
    start = "timm's pretrained weights" if config.get("pretrained") else "random weights"
    unread = f"{run.get('skipped', 0):,} could not be read"
    return (
        f"- data: {run['images']:,} photos of `{_name_only(run['data'])}`{labels}; {unread}\n"
        f"- from {start}: {settings}; {run['steps']:,} steps, learning rate {run['learning_rate']:g}\n"
        f"- with s2r2 {run['s2r2']}, torch {run['torch']}, timm {run['timm']}; started {run['began'].split()[0]}"
    )


def _figures(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "None: it has not been evaluated (`s2r2 evaluate`)."
    columns = {
        n: c["title"] for n, c in evaluation["columns"].items() if any(n in r["figures"] for r in evaluation["rows"])
    }
    about = evaluation["about"]
    trained = f", labels for kNN and the linear probe from `{_name_only(about['train'])}`" if about.get("train") else ""
    lines = [
        f"On {about['test_images']:,} photos of `{_name_only(about['test'])}`{trained}; per cent, "
        f"with 95 % intervals over test photos:",
        "",
        *markdown_table(
            ["", *columns.values()],
            ([_title(row), *(_cell(row["figures"].get(name)) for name in columns)] for row in evaluation["rows"]),
        ),
    ]
    return "\n".join(lines)


def _limits(about: dict[str, Any], evaluation: dict[str, Any] | None, usage: Usage, difference: float) -> str:
    limits = []
    if about:
        limits.append(
            "It knows what the photos above show. Of other kinds of photo nothing is known: evaluate on your own first."
        )
    if evaluation is None:
        limits.append("How good it is has not been measured.")
    else:
        limits.append("The intervals cover other test photos of the same kind, and not other training runs.")
        limits += _not_better(evaluation)
        ill = [row for row in evaluation["rows"] if row["health"].get("warning")]
        limits += [f"{_title(row)}: {_plain(row['health']['warning'])}" for row in ill]
        notes = evaluation["notes"]
        limits += [_plain(note) for note in notes if not note.startswith("±")]  # intervals stand in full here
    limits.append("It says which photos look alike, and not what they show. It was not tested for recognizing people.")
    limits.append(f"The export's vectors differ from the encoder's own by {difference:.1g} at most (random pixels).")
    return "\n".join(f"- {line}" for line in limits)


def _not_better(evaluation: dict[str, Any]) -> list[str]:
    """The figures in which the trained encoder is not clearly above raw pixels."""
    figures = {row["kind"]: row["figures"] for row in evaluation["rows"] if row["output"] != "embedding"}
    pixels, trained = figures.get("pixels", {}), figures.get("trained", {})
    titles = [
        evaluation["columns"][name]["title"]
        for name, figure in trained.items()
        if name in pixels and None not in (figure[1], pixels[name][2]) and figure[1] <= pixels[name][2]
    ]
    return [f"Not clearly above raw pixels in: {', '.join(titles)}."] if titles else []


def _cell(figure: list[float | None] | None) -> str:
    if figure is None or figure[0] is None:
        return "-"
    low, high = (f"{100 * v:.1f}" if v is not None else "?" for v in figure[1:3])
    return f"{100 * figure[0]:.1f} [{low}, {high}]"


def _title(row: dict[str, Any]) -> str:
    name = _plain(row["encoder"])
    return f"{name}, head" if row["output"] == "embedding" else name


def _name_only(data: str) -> str:
    """The last part of a path: a card is published, and where somebody keeps photos is not."""
    return visible(Path(data).name).replace("`", "'")


def _plain(text: Any) -> str:
    """Somebody's text in Markdown: no HTML, no link, no picture, no cell of its own."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(visible(text), quote=False))


def _read_run(run: Path | None) -> dict[str, Any]:
    """Settings and facts of a run folder as plain data; empty where there is none."""
    if run is None or not RunFolder(run).is_run:
        return {}
    try:
        found = RunFolder(run).read_config()
        found.mistakes.refuse()
    except S2R2Error as error:
        raise S2R2Error(
            f"cannot read {RunFolder(run).config_file}: it is damaged; export {ENCODER_FILE} of that folder instead"
        ) from error
    return {"config": found.settings, "run": found.about}


def _read_evaluation(run: Path | None) -> dict[str, Any] | None:
    if run is None or not RunFolder(run).evaluation_file.is_file():
        return None
    return RunFolder(run).read_evaluation()
