"""The encoder that a run starts with, and views that it can look at."""

import dataclasses
from typing import Any

import torch

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, create_encoder, load
from s2r2.encoder.backbones import check_backbone, takes_another_size
from s2r2.encoder.feature_head import add_feature_head
from s2r2.errors import ArgumentError
from s2r2.system.console import PlainConsole
from s2r2.system.wording import worded
from s2r2.training.adaptation import HEAD_EPOCHS, equip
from s2r2.training.config import MOST_STEPS, TrainConfig
from s2r2.training.settings import Adaptation
from s2r2.training.setup.cost import fitting_micro_batch
from s2r2.training.setup.plan import Preparation
from s2r2.views import Recipe, get_recipe, view_sizes

DEFAULT_ADAPTATION: Adaptation = "head"
"""What benchmarks/adapting.py found best on three of four sets of photos: docs/adapting.md."""


def with_start(config: TrainConfig, given: frozenset[str], console: PlainConsole) -> tuple[TrainConfig, Recipe | None]:
    """The config with what the encoder to start from decides: backbone, image size, head.

    Args:
        config: The settings.
        given: Names of those that the user gave.
        console: Where to say that a spelling is a former one.

    Returns:
        The config, and a recipe with the normalization of that encoder; None without one.

    Raises:
        S2R2Error: There is no such encoder, or settings contradict it.
    """
    if config.pretrained and "pretrained" in given and config.start:
        raise ArgumentError(
            f"`start={config.start!r}` and `pretrained` name different weights to begin with: leave out `pretrained`, "
            "or leave out `start` for timm's weights of `backbone`"
        )
    if config.pretrained and "pretrained" in given:
        config = dataclasses.replace(
            config, start=f"timm:{config.backbone}", pretrained=False, adapt=config.adapt or "all"
        )
        given -= {"backbone"}
        console.say(
            worded(
                f"note      `pretrained` is now `start={config.start!r}` with `adapt={config.adapt!r}`, and keeps what "
                "it has learned better"
            )
        )
    if not config.start:
        if config.adapt:
            raise ArgumentError(f"`adapt={config.adapt!r}` is for an encoder to start from: name it as `start`")
        return config, None
    if "backbone" in given:
        raise ArgumentError(f"`start={config.start!r}` decides the backbone: leave out `backbone`")
    if config.strategy == "fsdp":
        raise ArgumentError("`strategy='fsdp'` does not work with `start`: leave out `strategy`")
    how = config.adapt or DEFAULT_ADAPTATION
    encoder = load(config.start, image_size=config.image_size if "image_size" in given else None)
    settings: dict[str, Any] = {"backbone": encoder.architecture["backbone"], "image_size": encoder.image_size}
    equip(encoder, how)  # refuses what cannot be adapted in this form
    if encoder.head is not None:
        settings |= {name: encoder.architecture[name] for name in ("head_hidden", "embedding_dimensions")}
        if contrary := sorted(name for name in given & set(settings) if getattr(config, name) != settings[name]):
            raise ArgumentError(f"`start={config.start!r}` has a head: leave out `{contrary[0]}`")
    if how == "head":
        settings |= _for_a_head(encoder, given)
    made = dataclasses.replace(config, **settings, adapt=how)
    mean, std = ((*values,) for values in (encoder.mean, encoder.std))
    return made, Recipe(mean=mean, std=std)  # type: ignore[arg-type]


def _for_a_head(encoder: Encoder, given: frozenset[str]) -> dict[str, Any]:
    """Settings for training a head on features of views that are embedded once.

    Raises:
        S2R2Error: A setting was given that it does not have.
    """
    if contrary := sorted(given & {"head_hidden", "embedding_dimensions", "optimizer"}):
        raise ArgumentError(
            f"`adapt='head'` is one linear layer as wide as the backbone's features, trained with AdamW: leave out "
            f"`{contrary[0]}`, or train the whole encoder with `adapt='all'`"
        )
    settings: dict[str, Any] = {"embedding_dimensions": encoder.dimensions("feature")}
    if not given & {"epochs", "steps", "minutes"}:
        settings["epochs"] = HEAD_EPOCHS
    if "recipe" not in given:
        settings["recipe"] = "photos"
    if "check_every" not in given:  # a check embeds as many images as some epochs of a head take time for
        settings["check_every"] = MOST_STEPS
    return settings


def _started(config: TrainConfig, recipe: Recipe, name: str | None) -> Encoder:
    encoder = load(config.start, image_size=config.image_size, several_sizes=recipe.large_views > 0)
    if encoder.head is None:
        encoder.with_head(config.head_hidden, config.embedding_dimensions)
    encoder.name, encoder.trained = name or encoder.name, True
    return encoder.train()


def first_encoder(
    config: TrainConfig,
    recipe: Recipe,
    name: str | None = None,
    small_stem: bool | None = None,
    *,
    refined: bool = False,
) -> Encoder:
    """The encoder that a run with this config starts with: what is random in it follows from the seed.

    Args:
        config: The settings.
        recipe: Whose normalization it gets, if it starts with random weights.
        name: Its name.
        small_stem: As in :func:`create_encoder`.
        refined: Whether it gets a feature head; one to start from has its own.
    """
    torch.manual_seed(config.seed)
    if config.start:
        return equip(_started(config, recipe, name), config.adapt)
    encoder = create_encoder(
        config.backbone,
        image_size=config.image_size,
        pretrained=config.pretrained,
        head_hidden=config.head_hidden,
        embedding_dimensions=config.embedding_dimensions,
        mean=recipe.mean,
        std=recipe.std,
        name=name,
        several_sizes=recipe.large_views > 0,
        small_stem=small_stem,
    )
    if refined:
        add_feature_head(encoder, torch.eye(encoder.dimensions("feature")))
    return equip(encoder, config.adapt)


def build_encoder(prepared: Preparation) -> Encoder:
    """The encoder of a run with its first weights; a resume loads the saved ones afterwards, and needs no others."""
    config, small_stem, refined = prepared.config, None, False
    if prepared.resumed is not None:
        if config.start or config.pretrained:
            stem = prepared.resumed["encoder"].get("backbone.conv1.weight")
            small_stem = stem is not None and config.image_size <= 48 and stem.shape[-1] == 3
        refined = "feature_head.weight" in prepared.resumed["encoder"]
        config = dataclasses.replace(config, pretrained=False, start="")
    return first_encoder(config, prepared.recipe, prepared.folder.name, small_stem, refined=refined)


def with_recipe(config: TrainConfig, asked: str, console: PlainConsole) -> TrainConfig:
    """The config with views that the backbone can look at: ``photos`` in place of a method's multi-crop, if need be."""
    check_backbone(config.backbone)
    smallest = min(view_sizes(get_recipe(config.recipe), config.image_size, config.views))
    if smallest == config.image_size or takes_another_size(config.backbone, config.image_size, smallest):
        return config
    if asked:
        raise ArgumentError(
            f"`recipe={asked!r}` has views of {config.image_size} and of {smallest} px, and backbone "
            f"{config.backbone!r} takes images of one size only: use `recipe='photos'`, or another `backbone`"
        )
    console.say(f"note      {config.backbone} takes images of one size only: views by photos, not by {config.recipe}")
    return dataclasses.replace(config, recipe="photos")


def with_micro_batch(config: TrainConfig, recipe: Recipe, device: torch.device, processes: Processes) -> TrainConfig:
    """The config with the number of views that fit into memory here, where it says ``auto``."""
    if config.micro_batch != "auto":
        return config
    encoder = first_encoder(dataclasses.replace(config, pretrained=False), recipe).to(device)
    views = config.batch_size * config.views // processes.world_size
    fitting = fitting_micro_batch(
        encoder, image_size=config.image_size, views=views, device=device, processes=processes.local_world_size
    )
    return dataclasses.replace(config, micro_batch=fitting)
