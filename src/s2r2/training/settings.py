"""The settings of a training run in groups, as the command line shows them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Options = dict[str, Any]
Adaptation = Literal["", "head", "lora", "last-blocks", "all"]


@dataclass(frozen=True)
class MethodSettings:
    """What is learned: the objective, and the encoder that learns it."""

    method: str = "s2r2"
    """s2r2, simclr, swav and others that s2r2 methods lists, or FILE.py with a method of your own."""
    options: Options = dataclasses.field(default_factory=dict)
    """Options of the method, such as form=geometric for simclr; s2r2 methods lists them."""
    temperature: float = 0.0
    """What similarities are divided by; for s2r2, the width of the sigmoid that makes ranks differentiable.
    0: the method's default."""
    backbone: str = "resnet18"
    """Name of any timm model."""
    start: str = ""
    """Encoder to start from, which decides backbone, image size, normalization and head: timm:NAME (pretrained
    weights), a run folder, encoder.safetensors, and others that docs/search.md lists; by default random weights."""
    adapt: Adaptation = ""
    """What is trained of the encoder to start from: a linear layer behind it, which takes minutes on a CPU (head, the
    default); all of it, earlier layers more slowly (all); the last third of its layers (last-blocks); or low-rank
    adapters of its attention layers (lora). See docs/adapting.md."""
    pretrained: bool = False
    """Former spelling of --start timm:BACKBONE."""
    head_hidden: int = 1024
    """Width of the projection head's hidden layer."""
    embedding_dimensions: int = 128
    """Length of an embedding."""


@dataclass(frozen=True)
class ViewSettings:
    """What the encoder sees of an image."""

    recipe: str = ""
    """Distribution of the random views: photos, mild, documents, aerial, swav-multicrop, or a .yaml file.
    By default the method's: photos for simclr and for backbones that take images of one size only, else
    swav-multicrop."""
    image_size: int = 96
    """Side of a view in pixels."""
    views: int = 0
    """Random views of each image in a step (V, at least 2); 0: the method's default (8; simclr 2)."""


@dataclass(frozen=True)
class DataSettings:
    """Where the images are kept while a run goes on."""

    store: Path | None = None
    """Where decoded photos are kept; by default a cache folder (see s2r2 cache).
    none: nowhere; a photo is decoded whenever a step needs it, which is the default for more than 200,000 photos."""
    grades: str = ""
    """What photos have in common, from the closest on, such as time:30s,place:50m,folder: bursts by capture time and
    places by GPS (EXIF), folders, or columns of a manifest. Views of these photos rank next after those of their own;
    for s2r2, and simclr as plain positives (see docs/grades.md). By default none."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Optimizer, learning rate and length of the run."""

    batch_size: int = 64
    """Images in a step (B); a step ranks B x V views."""
    micro_batch: int | Literal["auto"] = 0
    """Views that pass through the encoder at once, for steps that do not fit into memory.
    0: all of them; auto: as many as fit into free memory."""
    epochs: int = 100
    """How often every image is seen."""
    steps: int = 0
    """Length of the run in steps, in place of epochs; 0: as epochs says."""
    minutes: float = 0.0
    """Length of the run in minutes, in place of epochs; settings that are not given are chosen to suit this time, the
    machine and the number of photos (see docs/own_photos.md). 0: as epochs or steps say."""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW, SGD with momentum 0.9, or LARS (for very large steps)."""
    lr: float = 0.0
    """Learning rate after warm-up; 0: the method's default for the optimizer, times sqrt(views in a step / 512)."""
    weight_decay: float | None = None
    """Weight decay, not applied to biases and normalization layers.
    By default 0.01 for adamw, 0.0005 for sgd and 0.000001 for lars."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up, at most a tenth of the run; cosine decay to zero follows."""
    seed: int = 0
    """Seed of everything that is random."""
    retry_at: float = 0.0
    """If the loss becomes NaN or infinite, go back to the last checkpoint once and continue with the learning rate
    times this factor; 0: stop."""


@dataclass(frozen=True)
class DeviceSettings:
    """What a run is computed on."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """auto (bf16-mixed on CUDA, else 32-true), 32-true, bf16-mixed or 16-mixed; ranks are always float32."""
    threads: int = 0
    """Threads that make views; 0: one per processor core."""
    compile: bool = False
    """Compile the encoder with torch.compile; pays off in long runs on a GPU, and needs a C++ compiler."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each holds the whole encoder (ddp) or a part of it (fsdp, for one too large for a GPU).
    It is not remembered: give it again when you resume; it may change."""
    timeout_minutes: float = 10.0
    """With several processes: minutes without an answer from one after which the others give up."""


@dataclass(frozen=True)
class OutputSettings:
    """What a run writes, and when."""

    check_every: int = 0
    """Epochs between checks during training; 0: ten checks in the run."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
