"""Pixels to random views: recipes, the table of parameters, the fused kernel, the loader."""

import importlib
from typing import TYPE_CHECKING, Any

from s2r2.views.parameters import ViewParameters, draw_parameters, epoch_order
from s2r2.views.recipe import RECIPES, Recipe, get_recipe, view_sizes
from s2r2.views.reducing import reduce_bicubic
from s2r2.views.rendering import blur_kernel, centre_parameters, render_centre, render_views
from s2r2.views.sheet import sample, views_sheet

if TYPE_CHECKING:
    from s2r2.views.loader import ViewBatch, ViewLoader

__all__ = [
    "RECIPES",
    "Recipe",
    "ViewBatch",
    "ViewLoader",
    "ViewParameters",
    "blur_kernel",
    "centre_parameters",
    "draw_parameters",
    "epoch_order",
    "get_recipe",
    "reduce_bicubic",
    "render_centre",
    "render_views",
    "sample",
    "view_sizes",
    "views_sheet",
]


def __getattr__(name: str) -> Any:
    if name in ("ViewBatch", "ViewLoader"):  # they need torch; making a picture of views does not
        return getattr(importlib.import_module("s2r2.views.loader"), name)
    raise AttributeError(f"module 's2r2.views' has no attribute {name!r}")
