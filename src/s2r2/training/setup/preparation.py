"""Before the first step: check everything that could stop the run, make its folder, and decode the photos."""

import dataclasses
import platform
import time
from pathlib import Path

import timm
import torch

from s2r2._version import __version__
from s2r2.distributed.devices import choose_device
from s2r2.distributed.processes import Processes
from s2r2.encoder import store_side
from s2r2.encoder.backbones import check_backbone
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import DirectImages, ImageSource, absolute_data, open_source
from s2r2.images.grades import group_photos, read_grades, refuse_unknown_columns
from s2r2.runs import Claim, RunFolder, make_run_folder, shown
from s2r2.system.console import PlainConsole
from s2r2.system.thumbnails import save_picture
from s2r2.training.config import TrainConfig
from s2r2.training.methods import build_method, resolve
from s2r2.training.parallel.sharding import refuse_what_cannot_be_sharded
from s2r2.training.run.trust import name_method
from s2r2.training.setup.encoder import with_micro_batch, with_recipe, with_start
from s2r2.training.setup.images import open_images, open_images_again
from s2r2.training.setup.plan import Plan, Preparation
from s2r2.training.setup.resuming import (
    SHUFFLE,
    Request,
    announce_length,
    check_facts,
    check_length,
    facts,
    read_request,
    restarted,
)
from s2r2.training.setup.time_limit import choose_for_time
from s2r2.views import Recipe, get_recipe, views_sheet
from s2r2.views.orders import usual_shuffle

Data = str | Path | ImageSource | None


def prepare(
    data: Data,
    config: TrainConfig,
    out: Path | None,
    resume: bool,
    claim: Claim,
    console: PlainConsole,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Preparation:
    """Check the request, make the run folder and decode the photos.

    With several processes the first one does it, and the others do as it decided.

    Raises:
        S2R2Error: The request cannot work; the message says what to change.
    """
    mine: list[Preparation] = []

    def decide() -> Plan:
        request = read_request(data, config, out, resume or restarted(out), claim, console)
        mine.append(_prepare(request, claim, console, processes))
        return mine[0].plan

    if not processes.leader and "method" in config.given:
        name_method(config.method)
    plan = processes.from_leader(decide)
    prepared = mine[0] if mine else _prepare_alike(plan, data, config, processes)
    # No process may start, and wait for the others in a step, before all have opened the photos.
    processes.check_alike(f"the photos of {prepared.store.name}", prepared.store.fingerprint)
    return prepared


def _prepare(request: Request, claim: Claim, console: PlainConsole, processes: Processes) -> Preparation:
    """What the first process does."""
    device, data = choose_device(request.config.device, processes), request.data
    normalization = None
    if request.resumed is None:
        started, normalization = with_start(request.config, request.given, console)
        taken = {"backbone", "image_size"} if started.start else set()
        request = request._replace(config=started, given=request.given | taken)
    if request.config.minutes and request.resumed is None:
        resolve(request.config)  # mistakes are said before photos are looked for
        source = _open(request)
        chosen = choose_for_time(request.config, request.given, len(source), device, processes, console)
        request = request._replace(data=source, config=chosen)
    config, recipe = _with_views(request, console)
    if normalization is not None:
        recipe = dataclasses.replace(recipe, mean=normalization.mean, std=normalization.std)
    refuse_what_cannot_be_sharded(config, processes)
    config = with_micro_batch(config, recipe, device, processes)
    _refuse_processes(config, processes)
    source = _open(request)
    _refuse_small(len(source), config, source.name)
    grades = read_grades(config.grades)
    refuse_unknown_columns(grades, source)
    build_method(config, len(source))  # refuses options that do not work
    saved = None if request.resumed is None else request.resumed["facts"]
    folder = request.folder
    if saved is None or folder is None:
        folder = make_run_folder(folder, _default_name(source.name, config.backbone), claim)
    side = store_side(config.image_size)
    store = open_images(source, side, config.store, folder, saved and saved["store"], console)
    _refuse_small(len(store), config, f"{source.name}, readable")
    groups = group_photos(grades, store) if grades else None
    shuffle = usual_shuffle(len(store)) if saved is None else saved.get(SHUFFLE, "table")
    if saved is not None:
        check_facts(saved, store, facts(store, config, processes, groups, shuffle), folder, console)
    if config.steps and not config.minutes:
        config = dataclasses.replace(config, epochs=-(-config.steps // (len(store) // config.batch_size)))
    name = absolute_data(data) if isinstance(data, str | Path) else source.name
    direct = isinstance(store, DirectImages)
    prepared = Preparation(folder, config, recipe, name, request.resumed, direct, groups, shuffle, store, device)
    if request.resumed is None:
        _write_start(prepared)
    else:
        _write_length(prepared, request, console)
    return prepared


def _prepare_alike(plan: Plan, data: Data, config: TrainConfig, processes: Processes) -> Preparation:
    """What the others do: the photos may be elsewhere on another machine, but must be the same."""
    source = data if isinstance(data, ImageSource) else open_source(data if data is not None else plan.data)
    here = dataclasses.replace(plan.config, store=config.store, threads=config.threads)
    store = open_images_again(source, store_side(here.image_size), here.store, plan.folder, direct=plan.direct)
    device = choose_device(here.device, processes)
    return Preparation(**{**vars(plan), "config": here}, store=store, device=device)


def _with_views(request: Request, console: PlainConsole) -> tuple[TrainConfig, Recipe]:
    """The config with all its settings, and the recipe: at a resume that of the run, whatever became of its file."""
    if request.resumed is not None:
        check_backbone(request.config.backbone)
        return request.config, Recipe.from_dict(request.about["recipe"])
    config = with_recipe(resolve(request.config), request.config.recipe, console)
    return config, get_recipe(config.recipe)


def _open(request: Request) -> ImageSource:
    """The images; those of a run that is resumed may have been moved."""
    if isinstance(request.data, ImageSource):
        return request.data
    try:
        return open_source(absolute_data(request.data) if isinstance(request.data, str | Path) else request.data)
    except S2R2Error as error:
        if request.resumed is None or request.folder is None:
            raise
        raise S2R2Error(
            f"{error}. If the photos of {request.folder} were moved, or it was started in another folder, say where "
            f"they are: s2r2 train DATA --resume --out {shown(request.folder)}"
        ) from error


def _refuse_processes(config: TrainConfig, processes: Processes) -> None:
    if config.adapt == "head" and processes.world_size > 1:
        raise ArgumentError(
            "`adapt='head'` works in one process, and there are several: leave out `devices`, "
            "or train the whole encoder with `adapt='all'`"
        )
    if config.batch_size % processes.world_size:
        raise ArgumentError(
            f"`batch_size={config.batch_size}` cannot be shared equally by {processes.world_size} processes: "
            f"use a multiple of {processes.world_size}"
        )


def _refuse_small(count: int, config: TrainConfig, what: str) -> None:
    if count < config.batch_size:
        raise ArgumentError(
            f"`batch_size={config.batch_size}` is larger than the data ({count} images in {what}): "
            f"use `batch_size={max(2, count)}` or less"
        )


def _default_name(data: str, backbone: str) -> str:
    """The name of a run folder that was given none."""
    return f"{Path(data).stem or 'photos'}-{backbone.split('.')[0]}".replace("/", "-").replace(":", "-")


def _write_length(prepared: Preparation, request: Request, console: PlainConsole) -> None:
    """At a resume: check how long the run will be, and write it down if that has changed."""
    assert request.before is not None
    minutes, minutes_before = prepared.config.minutes, request.before.minutes
    before = request.about.get("steps", prepared.steps)
    same = minutes == minutes_before and (minutes or before == prepared.steps)
    if minutes != minutes_before or not minutes:
        check_length(prepared)
    if same:
        return
    announce_length(prepared, request.before, before, console)
    changes = [*request.about.get("lengths", []), {"step": prepared.steps_done, "steps": before}]
    about = {**request.about, "data": prepared.data, "steps": prepared.steps, "lengths": changes}
    RunFolder(prepared.folder).write_config(prepared.config.to_dict(), about)


def write_steps_taken(prepared: Preparation, steps: int) -> None:
    """Write down how many steps a run with ``minutes`` has taken in its time, in place of the estimate."""
    run = RunFolder(prepared.folder)
    epochs = max(1, -(-steps // prepared.steps_per_epoch))
    about = {**run.read_config().about, "steps": steps}
    run.write_config(dataclasses.replace(prepared.config, epochs=epochs).to_dict(), about)


def _write_start(prepared: Preparation) -> None:
    """Write ``config.yaml`` and the sheet of sample views."""
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
