"""Before the first step: look at everything that could stop the run, and say what it will do."""

import dataclasses
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

from s2r2._version import __version__
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, create_encoder, store_side
from s2r2.encoder.backbones import check_backbone, takes_another_size
from s2r2.errors import S2R2Error
from s2r2.images import DirectImages, ImageSource, PixelStore, absolute_data, open_source
from s2r2.runs import Claim, RunFolder, make_run_folder, shown
from s2r2.system.machine import choose_device
from s2r2.system.terminal import PlainConsole
from s2r2.system.thumbnails import save_picture
from s2r2.training.config import TrainConfig
from s2r2.training.methods import build_method, resolve
from s2r2.training.optimizer import warmup_steps
from s2r2.training.parallel.sharding import refuse_what_cannot_be_sharded
from s2r2.training.run.resuming import compare_with_saved, facts, refuse_shorter, request, say_longer, to_go_on
from s2r2.training.run.trust import name_method
from s2r2.training.setup.cost import fitting_micro_batch
from s2r2.training.setup.images import follow_images, open_images
from s2r2.views import Recipe, get_recipe, view_sizes, views_sheet


@dataclass
class Preparation:
    """What the loop needs: settings, photos, view recipe, and at a resume the saved state."""

    folder: Path
    config: TrainConfig
    store: PixelStore | DirectImages
    recipe: Recipe
    device: torch.device
    resumed: dict[str, Any] | None
    data: str

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
        return warmup_steps(self.config, self.steps_per_epoch, self.steps)

    @property
    def pixels_per_step(self) -> int:
        """Pixels that the encoder sees in a step: what views of all sizes cost."""
        sizes = view_sizes(self.recipe, self.config.image_size, self.config.views)
        return self.config.batch_size * sum(size**2 for size in sizes)


def prepare(
    data: str | Path | ImageSource | None,
    config: TrainConfig,
    out: Path | None,
    resume: bool,
    claim: Claim,
    console: PlainConsole,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Preparation:
    """Check the request, make the run folder and decode the photos.

    With several processes the first one does it, and the others do what it found.

    Raises:
        S2R2Error: The request cannot work; the message says what to change.
    """
    led: list[Preparation] = []

    def lead() -> _Plan:
        prepared = _prepare(data, config, out, resume, claim, console, processes)
        led.append(prepared)
        return _Plan(
            prepared.folder,
            prepared.config,
            prepared.recipe,
            prepared.resumed,
            prepared.data,
            prepared.store.fingerprint,
        )

    if not processes.leader and "method" in config.given:
        name_method(config.method)
    plan = processes.from_leader(lead)
    prepared = led[0] if led else _follow(plan, data, config, processes)
    # Not before all have opened the photos may one begin and wait for the others.
    processes.check_alike(f"the photos of {prepared.store.name}", prepared.store.fingerprint)
    return prepared


class _Plan(NamedTuple):
    """What the first process tells the others."""

    folder: Path
    config: TrainConfig
    recipe: Recipe
    resumed: dict[str, Any] | None
    data: str
    fingerprint: str


def _prepare(
    data: str | Path | ImageSource | None,
    config: TrainConfig,
    out: Path | None,
    resume: bool,
    claim: Claim,
    console: PlainConsole,
    processes: Processes,
) -> Preparation:
    folder, config, resumed, data, about = request(data, config, out, resume or to_go_on(out), claim, console)
    if resumed is None:
        config = with_recipe(resolve(config), config.recipe, console)
        recipe = get_recipe(config.recipe)
    else:
        check_backbone(config.backbone)
        recipe = Recipe.from_dict(about["recipe"])  # whatever has become of its file
    device = choose_device(config.device, processes)
    refuse_what_cannot_be_sharded(config, processes)
    config = _with_micro_batch(config, recipe, device, processes)
    _refuse_processes(config, processes)
    source = data if isinstance(data, ImageSource) else _open(data, folder if resumed is not None else None)
    _refuse_small(len(source), config, source.name)
    build_method(config, len(source))  # finds options that cannot be
    if resumed is None:
        folder = make_run_folder(folder, _usual_name(source.name, config.backbone), claim)
    assert folder is not None
    saved = resumed["facts"]["store"] if resumed is not None else None
    store = open_images(source, store_side(config.image_size), config.store, folder, saved, console)
    _refuse_small(len(store), config, f"{source.name}, readable")
    if resumed is not None:
        then = resumed["facts"]
        if then["store"] == store.former_fingerprint:
            then = {**then, "store": store.fingerprint}
        compare_with_saved(then, facts(store, config, processes), source.name, folder, console)
    if config.steps:
        config = dataclasses.replace(config, epochs=-(-config.steps // (len(store) // config.batch_size)))
    said = absolute_data(data) if isinstance(data, str | Path) else source.name
    prepared = Preparation(folder, config, store, recipe, device, resumed, said)
    if resumed is None:
        _write_beginnings(prepared)
        return prepared
    refuse_shorter(prepared)
    before = about.get("steps", prepared.steps)
    if before != prepared.steps:
        say_longer(prepared, before, console)
        changes = [*about.get("lengths", []), {"step": resumed["step"], "steps": before}]
        RunFolder(folder).write_config(
            config.to_dict(), {**about, "data": said, "steps": prepared.steps, "lengths": changes}
        )
    return prepared


def _open(data: Any, resumed: Path | None) -> ImageSource:
    """The images; a run that is gone on with may have been begun elsewhere."""
    try:
        return open_source(absolute_data(data) if isinstance(data, str | Path) else data)
    except S2R2Error as error:
        if resumed is None:
            raise
        raise S2R2Error(
            f"{error}. If the photos of {resumed} were moved, or it was begun in another folder, say where they are: "
            f"s2r2 train DATA --resume --out {shown(resumed)}"
        ) from error


def _follow(
    plan: _Plan, data: str | Path | ImageSource | None, config: TrainConfig, processes: Processes
) -> Preparation:
    """What the first process prepared, in another one: photos may be elsewhere on another machine, but the same."""
    source = data if isinstance(data, ImageSource) else open_source(data if data is not None else plan.data)
    here = dataclasses.replace(plan.config, store=config.store, threads=config.threads)
    store = follow_images(source, store_side(here.image_size), here.store, plan.folder, plan.fingerprint)
    device = choose_device(here.device, processes)
    return Preparation(plan.folder, here, store, plan.recipe, device, plan.resumed, plan.data)


def with_recipe(config: TrainConfig, asked: str, console: PlainConsole) -> TrainConfig:
    """Views that the backbone can look at: in the place of a method's multi-crop those of ``photos``, if need be."""
    check_backbone(config.backbone)
    smallest = min(view_sizes(get_recipe(config.recipe), config.image_size, config.views))
    if smallest == config.image_size or takes_another_size(config.backbone, config.image_size, smallest):
        return config
    if asked:
        raise S2R2Error(
            f"--recipe {asked} has views of {config.image_size} and of {smallest} px, and backbone {config.backbone!r} "
            f"takes images of one size only: use --recipe photos, or another backbone"
        )
    console.say(
        f"note      {config.backbone} takes images of one size only: views by photos, not by {config.recipe}",
    )
    return dataclasses.replace(config, recipe="photos")


def _with_micro_batch(config: TrainConfig, recipe: Recipe, device: torch.device, processes: Processes) -> TrainConfig:
    """``auto`` becomes the number that fits here."""
    if config.micro_batch != "auto":
        return config
    encoder = first_encoder(dataclasses.replace(config, pretrained=False), recipe).to(device)
    views = config.batch_size * config.views // processes.world_size
    fitting = fitting_micro_batch(
        encoder, image_size=config.image_size, views=views, device=device, processes=processes.local_world_size
    )
    return dataclasses.replace(config, micro_batch=fitting)


def _refuse_processes(config: TrainConfig, processes: Processes) -> None:
    if config.batch_size % processes.world_size:
        raise S2R2Error(
            f"--batch-size {config.batch_size} cannot be shared equally by {processes.world_size} processes: "
            f"use a multiple of {processes.world_size}"
        )


def build_encoder(prepared: Preparation) -> Encoder:
    """The encoder of a run, with its first weights; at a resume the saved ones follow."""
    config = prepared.config
    config = dataclasses.replace(config, pretrained=config.pretrained and prepared.resumed is None)
    return first_encoder(config, prepared.recipe, prepared.folder.name)


def first_encoder(config: TrainConfig, recipe: Recipe, name: str | None = None) -> Encoder:
    """The encoder that a run with this config begins with: its weights follow from the seed."""
    torch.manual_seed(config.seed)
    return create_encoder(
        config.backbone,
        image_size=config.image_size,
        pretrained=config.pretrained,
        head_hidden=config.head_hidden,
        embedding_dimensions=config.embedding_dimensions,
        mean=recipe.mean,
        std=recipe.std,
        name=name,
        several_sizes=recipe.large_views > 0,
    )


def _refuse_small(count: int, config: TrainConfig, what: str) -> None:
    if count < config.batch_size:
        raise S2R2Error(
            f"--batch-size {config.batch_size} is larger than the data ({count} images in {what}): "
            f"use --batch-size {max(2, count)} or less"
        )


def _usual_name(data: str, backbone: str) -> str:
    """Of a run folder."""
    return f"{Path(data).stem or 'photos'}-{backbone.split('.')[0]}".replace("/", "-").replace(":", "-")


def _write_beginnings(prepared: Preparation) -> None:
    """``config.yaml`` and the sheet of sample views."""
    store, config = prepared.store, prepared.config
    about = {
        "data": prepared.data,
        "images": len(store),
        "skipped": len(store.skipped),
        "labels": len(store.labels.names) if store.labels is not None else 0,
        "steps": prepared.steps,
        "learning_rate": config.lr,
        "pixels_per_step": prepared.pixels_per_step,
        "recipe": prepared.recipe.to_dict(),
        "s2r2": __version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "python": platform.python_version(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    run = RunFolder(prepared.folder)
    run.write_config(config.to_dict(), about)
    sheet = views_sheet(
        store.some(6),
        prepared.recipe,
        view_size=config.image_size,
        views=config.views,
        seed=config.seed,
    )
    save_picture(sheet, run.views_file)
