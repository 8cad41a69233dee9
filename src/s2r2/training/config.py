"""What a training run is asked to do, as plain data: command line, ``config.yaml`` and Python share it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from s2r2.errors import S2R2Error
from s2r2.files import write_text

OPTIMISERS = ("adamw", "sgd", "lars")
STRATEGIES = ("ddp", "fsdp")

Options = dict[str, Any]


def _parse_options(words: list[str]) -> Options:
    """``["form=geometric", "bank=4096"]`` as a mapping; values are read as YAML does."""
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word} is not NAME=VALUE")
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}


_OPTIONS = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="NAME=VALUE",
    instance_from_str=_parse_options,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [f"{name}={setting}" for name, setting in value.items()],
)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    What is 0 or empty by default is chosen by the method, see :func:`s2r2.training.methods.resolve`.
    """

    method: str = "s2r2"
    """s2r2, simclr, swav, or FILE.py with a method of your own."""
    options: Annotated[Options, _OPTIONS] = dataclasses.field(default_factory=dict)
    """Options of the method, such as form=geometric of simclr; s2r2 methods lists them."""
    backbone: str = "resnet18"
    """Any timm model name."""
    pretrained: bool = False
    """Start from timm's pretrained weights instead of random ones."""
    image_size: int = 96
    """Side of a view in pixels."""
    views: int = 0
    """Random views of each image in a step (V, at least 2); 0: the method's (8, simclr 2)."""
    batch_size: int = 64
    """Images in a step (B); a step ranks B x V views."""
    micro_batch: int | Literal["auto"] = 0
    """Views that pass through the encoder at once: a step of any size in the memory of so many; 0: all of them;
    auto: as many as fit into the free memory."""
    epochs: int = 100
    """Times that every image is seen."""
    steps: int = 0
    """Steps of the run, in place of epochs; 0: epochs decides."""
    recipe: str = ""
    """Distribution of the random views: photos, mild, documents, aerial, swav-multicrop, or a .yaml file; empty: the
    method's (s2r2 and swav swav-multicrop, simclr photos; photos where the backbone takes one size of image only)."""
    temperature: float = 0.0
    """What similarities are divided by, of s2r2 the width of the sigmoid that makes ranks differentiable; 0: the
    method's."""
    optimiser: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW, SGD with momentum 0.9, or LARS (for very large steps)."""
    lr: float = 0.0
    """Learning rate after warm-up; 0: the method's for the optimiser, times sqrt(views in a step / 512)."""
    weight_decay: float | None = None
    """Pull of the weights towards zero, not applied to biases and normalisation; by default the optimiser's usual
    one (adamw 0.01, sgd 0.0005, lars 0.000001)."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up (at most a tenth of the run); cosine decay to zero follows."""
    head_hidden: int = 1024
    """Width of the projection head's hidden layer."""
    embedding_dimensions: int = 128
    """Length of an embedding."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, or cuda:1 and the like."""
    precision: str = "auto"
    """auto (bf16-mixed on CUDA, 32-true elsewhere), 32-true, bf16-mixed, 16-mixed; the ranks are always float32."""
    threads: int = 0
    """Threads that make views; 0: one for each processor core."""
    store: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where decoded photos are kept; by default a cache folder (see s2r2 cache). none: nowhere, each photo is decoded
    when a step needs it, as is done by default for more than 200,000."""
    check_every: int = 0
    """Epochs between online checks; 0: ten checks in the run."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
    compile: bool = False
    """Compile the encoder with torch.compile: worth it on a GPU and in long runs; needs a C++ compiler."""
    retry_at: float = 0.0
    """When the loss becomes NaN or infinite: go back to the last checkpoint, once, and on at this share of the
    learning rate; 0: stop."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: whether each holds the whole encoder (ddp) or a part of it (fsdp), for one that is
    larger than a GPU. As --devices, to be said again at a resume, and it may change there."""
    timeout_minutes: float = 10.0
    """With several processes: minutes that one may fail to answer before the others give up."""

    def validate(self) -> None:
        """Raise an S2R2Error naming the first setting that cannot work."""
        rules = [
            (
                self.views == 0 or self.views >= 2,
                f"--views {self.views}: a view needs another view of its image to find; use 2 or more",
            ),
            (self.batch_size >= 2, f"--batch-size {self.batch_size}: ranking needs at least 2 images in a step"),
            (self.image_size >= 8, f"--image-size {self.image_size}: use at least 8 pixels"),
            (self.epochs >= 1, f"--epochs {self.epochs}: use at least 1"),
            (self.steps >= 0, f"--steps {self.steps}: must not be negative (0: epochs decides)"),
            (
                self.micro_batch == "auto" or (isinstance(self.micro_batch, int) and self.micro_batch >= 0),
                f"--micro-batch {self.micro_batch}: must be auto or not negative (0: the whole step)",
            ),
            (self.temperature >= 0, f"--temperature {self.temperature}: must be above 0 (0: the method's)"),
            (self.optimiser in OPTIMISERS, f"--optimiser {self.optimiser}: use {', '.join(OPTIMISERS)}"),
            (self.lr >= 0, f"--lr {self.lr}: must not be negative (0 chooses it)"),
            ((self.weight_decay or 0) >= 0, f"--weight-decay {self.weight_decay}: must not be negative"),
            (self.warmup_epochs >= 0, f"--warmup-epochs {self.warmup_epochs}: must not be negative"),
            (self.head_hidden >= 1, f"--head-hidden {self.head_hidden}: use at least 1"),
            (self.embedding_dimensions >= 2, f"--embedding-dimensions {self.embedding_dimensions}: use at least 2"),
            (self.threads >= 0, f"--threads {self.threads}: must not be negative (0: one for each core)"),
            (self.check_every >= 0, f"--check-every {self.check_every}: must not be negative (0: ten checks)"),
            (0 <= self.retry_at < 1, f"--retry-at {self.retry_at}: must be at least 0 (0: stop) and below 1"),
            (self.timeout_minutes > 0, f"--timeout-minutes {self.timeout_minutes}: must be above 0"),
            (self.strategy in STRATEGIES, f"--strategy {self.strategy}: use {' or '.join(STRATEGIES)}"),
            (self.checkpoint_minutes > 0, f"--checkpoint-minutes {self.checkpoint_minutes}: must be above 0"),
            (
                self.precision in ("auto", "32-true", "bf16-mixed", "16-mixed"),
                f"--precision {self.precision}: use auto, 32-true, bf16-mixed or 16-mixed",
            ),
        ]
        for holds, message in rules:
            if not holds:
                raise S2R2Error(message)

    @property
    def epochs_between_checks(self) -> int:
        """Epochs from one online check to the next."""
        return self.check_every or max(1, self.epochs // 10)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The config that :meth:`to_dict` described.

        Raises:
            S2R2Error: A key is not a setting of this version.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise S2R2Error(
                f"config has settings this s2r2 does not know: {', '.join(unknown)}; use the s2r2 that wrote it"
            )
        store = values.get("store")
        return cls(**{**values, "store": Path(store) if store else None})


def write_config(folder: Path, config: TrainConfig, about: dict[str, Any]) -> None:
    """Write ``config.yaml``: the settings, and under ``run`` what was found and used (data, versions, counts)."""
    content = {"config": config.to_dict(), "run": about}
    write_text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """What :func:`write_config` wrote.

    Raises:
        S2R2Error: There is no readable ``config.yaml`` in the folder.
    """
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TrainConfig.from_dict(content["config"]), content["run"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise S2R2Error(f"cannot read {path}: {folder} is not a run folder of s2r2 train, or it is damaged") from error
