"""Before the first step: look at everything that could stop the run, and say what it will do."""

import contextlib
import dataclasses
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console

import s2r2
from s2r2.encoder import Encoder, create_encoder, store_side
from s2r2.encoder.model import check_backbone
from s2r2.errors import S2R2Error
from s2r2.images import DirectImages, ImageSource, PixelStore, open_source
from s2r2.training.checkpoint import load_checkpoint
from s2r2.training.config import TrainConfig, read_config, write_config
from s2r2.training.methods import resolve
from s2r2.training.progress import format_seconds
from s2r2.training.stores import open_images
from s2r2.views import Recipe, get_recipe, view_sizes, views_sheet

# Settings that change where or how fast a run goes, not what it computes: a resume may change them.
OPERATIONAL = ("device", "threads", "store", "checkpoint_minutes")


@dataclass
class Preparation:
    """What the loop needs: settings, photos, view recipe, and at a resume the saved state."""

    folder: Path
    config: TrainConfig
    store: PixelStore | DirectImages
    recipe: Recipe
    device: torch.device
    resumed: dict[str, Any] | None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the images left over change from epoch to epoch."""
        return len(self.store) // self.config.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.steps or self.steps_per_epoch * self.config.epochs

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        return max(1, round(min(self.steps_per_epoch * self.config.warmup_epochs, self.steps / 10)))

    @property
    def pixels_per_step(self) -> int:
        """Pixels that the encoder sees in a step: what views of all sizes cost."""
        sizes = view_sizes(self.recipe, self.config.image_size, self.config.views)
        return self.config.batch_size * sum(size**2 for size in sizes)


def prepare(
    data: str | Path | ImageSource | None, config: TrainConfig, out: Path | None, resume: bool, console: Console
) -> Preparation:
    """Check the request, make the run folder and decode the photos.

    Raises:
        S2R2Error: The request cannot work; the message says what to change.
    """
    folder, config, resumed, data = _settings(data, config, out, resume, console)
    config = resolve(config)
    check_backbone(config.backbone)
    recipe = get_recipe(config.recipe) if resumed is None else _saved_recipe(folder)
    device = choose_device(config.device)
    source = data if isinstance(data, ImageSource) else open_source(data)
    _refuse_small(len(source), config, source.name)
    folder = folder or _free_folder(source.name, config.backbone)
    make_run_folder(folder, fresh=not resume)
    saved = resumed["facts"]["store"] if resumed is not None else None
    store = open_images(source, store_side(config.image_size), config.store, folder, saved, console)
    _refuse_small(len(store), config, f"{source.name}, readable")
    if resumed is not None and resumed["facts"]["store"] != store.fingerprint:
        raise S2R2Error(
            f"the photos of {source.name} are not those that {folder} was trained on "
            f"({resumed['facts']['images']} then, {len(store)} now, or others): restore them, or start a new run"
        )
    if config.steps:
        config = dataclasses.replace(config, epochs=-(-config.steps // (len(store) // config.batch_size)))
    prepared = Preparation(folder, config, store, recipe, device, resumed)
    if resumed is None:
        _write_beginnings(prepared, str(data if isinstance(data, str | Path) else source.name))
    return prepared


def announce(prepared: Preparation, encoder: Encoder, console: Console) -> None:
    """Print what the run will do, with an estimate of its time measured on this machine."""
    config, store = prepared.config, prepared.store
    labels = f", {len(store.labels.names)} labels (not used in training)" if store.labels is not None else ""
    skipped = f", {len(store.skipped)} skipped (see {prepared.folder / 'skipped.csv'})" if store.skipped else ""
    weights = "pretrained" if config.pretrained else "random weights"
    console.print(f"photos    {len(store):,} of {store.name}{labels}{skipped}", highlight=False, soft_wrap=True)
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    console.print(
        f"encoder   {config.backbone}, {weights}, {size:.1f} M parameters, {config.image_size} px, {prepared.device}",
        highlight=False,
        soft_wrap=True,
    )
    options = "".join(f", {name} {value}" for name, value in config.options.items())
    console.print(
        f"step      {config.method}: {config.batch_size} images x {config.views} views ({config.recipe}) = "
        f"{config.batch_size * config.views:,} views, temperature {config.temperature}{options}",
        highlight=False,
        soft_wrap=True,
    )
    done = prepared.resumed["step"] if prepared.resumed else 0
    seconds = _seconds_per_step(prepared, encoder) * (prepared.steps - done)
    left = f", going on at step {done + 1:,}" if done else ""
    console.print(
        f"run       {prepared.steps / prepared.steps_per_epoch:.4g} epochs x {prepared.steps_per_epoch:,} steps = "
        f"{prepared.steps:,} steps{left}, "
        f"about {format_seconds(seconds)} (estimated)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"folder    {prepared.folder}", highlight=False, soft_wrap=True)


def build_encoder(prepared: Preparation) -> Encoder:
    """The encoder with its first weights, which follow from the seed."""
    config = prepared.config
    torch.manual_seed(config.seed)
    return create_encoder(
        config.backbone,
        image_size=config.image_size,
        pretrained=config.pretrained and prepared.resumed is None,
        head_hidden=config.head_hidden,
        embedding_dimensions=config.embedding_dimensions,
        mean=prepared.recipe.mean,
        std=prepared.recipe.std,
        name=prepared.folder.name,
    )


def facts(prepared: Preparation) -> dict[str, Any]:
    """What should be the same at a resume, kept in the checkpoint."""
    return {
        "store": prepared.store.fingerprint,
        "images": len(prepared.store),
        "torch": str(torch.__version__),
        "torch_threads": torch.get_num_threads(),
    }


def choose_device(name: str) -> torch.device:
    """``auto`` becomes a GPU where there is one.

    Raises:
        S2R2Error: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise S2R2Error(f"--device {name}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise S2R2Error(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise S2R2Error(f"--device {name}: use auto, cpu, cuda or cuda:N")
    return device


def make_run_folder(folder: Path, *, fresh: bool) -> None:
    """Make the folder; a fresh run must not find anything in it.

    Raises:
        S2R2Error: It holds files already, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fresh and any(folder.iterdir()):
            raise S2R2Error(f"run folder {folder} exists: go on with --resume, or choose another --out")
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise S2R2Error(
            f"cannot write to run folder {folder}: {error.strerror or error}; choose another --out"
        ) from error


def _saved_recipe(folder: Path | None) -> Recipe:
    """The recipe that the run began with, whatever has become of its file."""
    assert folder is not None
    return Recipe.from_dict(read_config(folder)[1]["recipe"])


def _settings(
    data: Any, config: TrainConfig, out: Path | None, resume: bool, console: Console
) -> tuple[Path | None, TrainConfig, dict[str, Any] | None, Any]:
    """Folder, settings, saved state and data of the request: at a resume, those of the run folder."""
    if not resume:
        if data is None:
            raise S2R2Error("no DATA: give a folder of photos, a manifest, a .tar, or digits")
        return out, config, None, data
    if out is None:
        raise S2R2Error("--resume needs --out: the run folder to go on with")
    saved, about = read_config(out)
    usual = TrainConfig()
    changed = [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(TrainConfig)
        if getattr(config, field.name) not in (getattr(saved, field.name), getattr(usual, field.name))
        and field.name not in OPERATIONAL
    ]
    if changed:
        raise S2R2Error(
            f"{out} was begun with other settings: leave out {', '.join(changed)} to resume, or start a new run"
        )
    given = {name: getattr(config, name) for name in OPERATIONAL if getattr(config, name) != getattr(usual, name)}
    state, warning = load_checkpoint(out)
    if warning:
        console.print(f"warning   {warning}", highlight=False, soft_wrap=True)
    return out, dataclasses.replace(saved, **given), state, data if data is not None else about["data"]


def _refuse_small(count: int, config: TrainConfig, what: str) -> None:
    if count < config.batch_size:
        raise S2R2Error(
            f"--batch-size {config.batch_size} is larger than the data ({count} images in {what}): "
            f"use --batch-size {max(2, count)} or less"
        )


def _free_folder(data: str, backbone: str) -> Path:
    stem = f"{Path(data).stem or 'photos'}-{backbone.split('.')[0]}".replace("/", "-").replace(":", "-")
    candidates = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def _write_beginnings(prepared: Preparation, data: str) -> None:
    """``config.yaml`` and the sheet of sample views."""
    store, config = prepared.store, prepared.config
    about = {
        "data": data,
        "images": len(store),
        "skipped": len(store.skipped),
        "labels": len(store.labels.names) if store.labels is not None else 0,
        "steps": prepared.steps,
        "learning_rate": config.lr,
        "pixels_per_step": prepared.pixels_per_step,
        "recipe": prepared.recipe.to_dict(),
        "s2r2": s2r2.__version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "python": platform.python_version(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    write_config(prepared.folder, config, about)
    sheet = views_sheet(
        store.some(6),
        prepared.recipe,
        view_size=config.image_size,
        views=config.views,
        seed=config.seed,
    )
    try:
        sheet.save(prepared.folder / "views.png")
    except OSError as error:
        raise S2R2Error(f"cannot write {prepared.folder / 'views.png'}: {error.strerror or error}") from error


def _seconds_per_step(prepared: Preparation, encoder: Encoder) -> float:
    """Time of a step from three forward and backward passes over part of one, leaving the encoder as it was."""
    config = prepared.config
    full_views = prepared.pixels_per_step / config.image_size**2
    part = min(config.batch_size * config.views, 64)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    trial = encoder.to(prepared.device).train()
    pixels = torch.randn(part, 3, config.image_size, config.image_size, device=prepared.device)
    times = []
    with torch.random.fork_rng(), contextlib.ExitStack() as cleaning:
        cleaning.callback(trial.load_state_dict, state)
        cleaning.callback(trial.zero_grad, set_to_none=True)
        for _ in range(3):
            began = time.perf_counter()
            trial(pixels).sum().backward()
            if prepared.device.type == "cuda":
                torch.cuda.synchronize(prepared.device)
            times.append(time.perf_counter() - began)
    passes = 4 / 3 if config.micro_batch else 1  # the gradient cache goes forward twice
    return min(times) * full_views / part * passes
