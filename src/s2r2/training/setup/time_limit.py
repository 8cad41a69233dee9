"""``--minutes``: settings for a run of so much time, from a table, by how fast this machine is."""

import dataclasses
import math
from typing import NamedTuple

import torch

from s2r2.distributed.processes import Processes
from s2r2.errors import ArgumentError
from s2r2.system.console import PlainConsole
from s2r2.system.wording import amount, worded
from s2r2.training.config import TrainConfig
from s2r2.training.methods import resolve
from s2r2.training.methods.registry import BASE_VIEWS
from s2r2.training.setup.cost import seconds_per_pixel, seconds_per_step_of_head
from s2r2.training.setup.encoder import first_encoder
from s2r2.views import get_recipe, view_sizes

_TRIAL_VIEWS = 64
_SHOWN = ("backbone", "image_size", "batch_size", "views", "recipe")


class Choice(NamedTuple):
    """An encoder that is worth its time if that is enough for some epochs; for fewer, take a cheaper one.

    Attributes:
        epochs: The fewest.
        backbone: A timm model.
        image_size: Side of a view in pixels.
    """

    epochs: int
    backbone: str
    image_size: int


TABLE = (Choice(200, "resnet18", 64), Choice(12, "test_resnet", 48), Choice(0, "test_resnet", 32))
"""The most expensive first. ``benchmarks/quality_per_minute.py`` has the figures; the first one is for GPUs and
hours, where it was not measured: after ten minutes of two cores, or five epochs, it is eight points of kNN behind."""
BATCH_SIZE, LEAST_STEPS_PER_EPOCH = 64, 8
EMBEDDING_SHARE = 0.4
"""Of the time for training a head, what the passes through the backbone may take; rendering the views is not
counted."""
LEARNING_RATE, SPREAD = 6e-3, 1.0
"""Of short runs by ranking: three times the usual rate for 512 views in a step, and a term of spread."""


def choose_for_time(
    config: TrainConfig, given: frozenset[str], images: int, device: torch.device, processes: Processes,
    console: PlainConsole,
) -> TrainConfig:  # fmt: skip
    """The config with all that was not given chosen for its ``minutes``, and the epochs that they allow, estimated.

    Each choice of the table is tried on this machine, the most expensive first, until one is fast enough.

    Args:
        config: The settings.
        given: Names of those that the user gave, which stay.
        images: Photos that there are.
        device: Where the run will be.
        processes: All that train.
        console: Where to say what was chosen.
    """
    batch = max(2, min(BATCH_SIZE, images // LEAST_STEPS_PER_EPOCH) // processes.world_size * processes.world_size)
    config = _filled(config, given, batch_size=batch)
    if config.adapt == "head":
        return _chosen_for_head(config, given, images, device, console)
    fixed = given & {"backbone", "pretrained", "start"}
    for choice in TABLE:
        asked = _filled(config, given, image_size=choice.image_size, **({} if fixed else {"backbone": choice.backbone}))
        epochs = epochs_in_time(asked, images, device, processes)
        if epochs >= choice.epochs:
            break
    from_nothing = not (config.start or config.pretrained)  # what was learned wants a rate of its own
    if from_nothing and config.method == "s2r2" and config.optimizer == "adamw":
        views = asked.batch_size * resolve(asked).views
        asked = _filled(asked, given, lr=LEARNING_RATE * (views / BASE_VIEWS) ** 0.5, options={"spread": SPREAD})
    _say_chosen(asked, images, console)
    return dataclasses.replace(asked, epochs=max(1, math.ceil(epochs)))


def _say_chosen(config: TrainConfig, images: int, console: PlainConsole) -> None:
    shown = resolve(config)
    settings = ", ".join(f"`{name}={getattr(shown, name)!r}`" for name in _SHOWN)
    options = "".join(f", `options={name}={value}`" for name, value in shown.options.items())
    about = f"for {amount(config.minutes, 'minute')} and {amount(images, 'photo')}"
    console.say(worded(f"chosen    {about}: {settings}, `lr={shown.lr:.2g}`{options}"))


def _chosen_for_head(
    config: TrainConfig, given: frozenset[str], images: int, device: torch.device, console: PlainConsole
) -> TrainConfig:
    """As many views as can be embedded in a part of the time, and the epochs of a head that the rest allows.

    Raises:
        S2R2Error: The time is too short for embedding them.
    """
    most = resolve(config)
    recipe = get_recipe(most.recipe)
    encoder = first_encoder(dataclasses.replace(most, pretrained=False), recipe).to(device)
    each = seconds_per_pixel(encoder, most.image_size, _TRIAL_VIEWS)  # of a frozen backbone: forward only
    limit, pixels = 60 * config.minutes, sum(size**2 for size in view_sizes(recipe, most.image_size, most.views))
    embedding = images * each * pixels  # all views of all images, in seconds
    views = most.views
    if "views" not in given:
        views = max(2, min(views, int(views * EMBEDDING_SHARE * limit / embedding)))
    embedding *= views / most.views
    if embedding > limit:
        raise ArgumentError(
            f"`minutes={config.minutes:g}` is too short: embedding {views} views of each of {images:,} photos takes "
            f"about {embedding / 60:.1f} minutes here; give `minutes={math.ceil(2 * embedding / 60)}` or more"
        )
    step = seconds_per_step_of_head(encoder, most.batch_size * views)
    asked = dataclasses.replace(config, views=views)
    _say_chosen(asked, images, console)
    steps = (limit - embedding) / step
    return dataclasses.replace(asked, epochs=max(1, math.ceil(steps * most.batch_size / images)))


def epochs_in_time(config: TrainConfig, images: int, device: torch.device, processes: Processes) -> float:
    """Epochs that the time allows, by a few passes of the encoder forward and backward on this machine."""
    config = resolve(config)
    recipe = get_recipe(config.recipe)
    encoder = first_encoder(dataclasses.replace(config, pretrained=False), recipe).to(device)
    each = seconds_per_pixel(encoder, config.image_size, min(_TRIAL_VIEWS, config.batch_size * config.views))
    pixels = images * sum(size**2 for size in view_sizes(recipe, config.image_size, config.views))
    return 60 * config.minutes * processes.world_size / (each * pixels)


def _filled(config: TrainConfig, given: frozenset[str], **chosen: object) -> TrainConfig:
    """The config with these settings, but for those that were given."""
    return dataclasses.replace(config, **{name: value for name, value in chosen.items() if name not in given})  # type: ignore[arg-type]
