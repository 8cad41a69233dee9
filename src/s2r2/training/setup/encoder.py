"""The encoder that a run starts with, and views that it can look at."""

import dataclasses

import torch

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, create_encoder
from s2r2.encoder.backbones import check_backbone, takes_another_size
from s2r2.errors import ArgumentError
from s2r2.system.console import PlainConsole
from s2r2.training.config import TrainConfig
from s2r2.training.setup.cost import fitting_micro_batch
from s2r2.training.setup.plan import Preparation
from s2r2.views import Recipe, get_recipe, view_sizes


def first_encoder(config: TrainConfig, recipe: Recipe, name: str | None = None) -> Encoder:
    """The encoder that a run with this config starts with: its weights follow from the seed."""
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


def build_encoder(prepared: Preparation) -> Encoder:
    """The encoder of a run with its first weights; a resume loads the saved ones afterwards."""
    pretrained = prepared.config.pretrained and prepared.resumed is None
    config = dataclasses.replace(prepared.config, pretrained=pretrained)
    return first_encoder(config, prepared.recipe, prepared.folder.name)


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
