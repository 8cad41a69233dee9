"""The settings of a training run in groups, as the command line shows them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Options = dict[str, Any]


@dataclass(frozen=True)
class MethodSettings:
    """What is learned: the objective, and the encoder that learns it."""

    method: str = "s2r2"
    """s2r2, simclr, swav, or FILE.py with a method of your own."""
    options: Options = dataclasses.field(default_factory=dict)
    """Options of the method, such as form=geometric of simclr; s2r2 methods lists them."""
    temperature: float = 0.0
    """What similarities are divided by; for s2r2, the width of the sigmoid that makes ranks differentiable; 0: the
    method's."""
    backbone: str = "resnet18"
    """Any timm model name."""
    pretrained: bool = False
    """Start from timm's pretrained weights instead of random ones."""
    head_hidden: int = 1024
    """Width of the projection head's hidden layer."""
    embedding_dimensions: int = 128
    """Length of an embedding."""


@dataclass(frozen=True)
class ViewSettings:
    """What the encoder sees of an image."""

    recipe: str = ""
    """Distribution of the random views: photos, mild, documents, aerial, swav-multicrop, or a .yaml file; empty: the
    method's (s2r2 and swav swav-multicrop, simclr photos; photos where the backbone takes one size of image only)."""
    image_size: int = 96
    """Side of a view in pixels."""
    views: int = 0
    """Random views of each image in a step (V, at least 2); 0: the method's (8, simclr 2)."""


@dataclass(frozen=True)
class DataSettings:
    """Where the images are kept while a run goes on."""

    store: Path | None = None
    """Where decoded photos are kept; by default a cache folder (see s2r2 cache). none: nowhere, each photo is decoded
    when a step needs it, as is done by default for more than 200,000."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Optimizer, learning rate and length of the run."""

    batch_size: int = 64
    """Images in a step (B); a step ranks B x V views."""
    micro_batch: int | Literal["auto"] = 0
    """Views that pass through the encoder at once, for steps larger than memory; 0: all of them;
    auto: as many as fit into the free memory."""
    epochs: int = 100
    """Times that every image is seen."""
    steps: int = 0
    """Steps of the run, in place of epochs; 0: epochs decides."""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW, SGD with momentum 0.9, or LARS (for very large steps)."""
    lr: float = 0.0
    """Learning rate after warm-up; 0: the method's for the optimizer, times sqrt(views in a step / 512)."""
    weight_decay: float | None = None
    """Pull of the weights towards zero, not applied to biases and normalization; by default the optimizer's usual
    one (adamw 0.01, sgd 0.0005, lars 0.000001)."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up (at most a tenth of the run); cosine decay to zero follows."""
    seed: int = 0
    """Seed of everything random."""
    retry_at: float = 0.0
    """When the loss becomes NaN or infinite: return to the last checkpoint, once, and continue at this share of the
    learning rate; 0: stop."""


@dataclass(frozen=True)
class DeviceSettings:
    """What a run computes on."""

    device: str = "auto"
    """auto, cpu, cuda, or cuda:1 and the like."""
    precision: str = "auto"
    """auto (bf16-mixed on CUDA, 32-true elsewhere), 32-true, bf16-mixed, 16-mixed; the ranks are always float32."""
    threads: int = 0
    """Threads that make views; 0: one for each processor core."""
    compile: bool = False
    """Compile the encoder with torch.compile: worth it on a GPU and in long runs; needs a C++ compiler."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: whether each holds the whole encoder (ddp) or a part of it (fsdp), for one that is
    larger than a GPU. Not remembered: give it again at a resume; it may change."""
    timeout_minutes: float = 10.0
    """With several processes: minutes that one may fail to answer before the others give up."""


@dataclass(frozen=True)
class OutputSettings:
    """What a run writes down, and when."""

    check_every: int = 0
    """Epochs between online checks; 0: ten checks in the run."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
