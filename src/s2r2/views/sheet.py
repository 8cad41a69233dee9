"""A picture for people: photos, and what the encoder will see of them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from s2r2.settings.values import whole_number
from s2r2.system.thumbnails import PAPER, place, thumbnail
from s2r2.views.parameters import draw_parameters
from s2r2.views.recipe import Recipe, view_sizes
from s2r2.views.rendering import Backend, render_centre, render_views

_GAP = 4


def check_sheet(*, image_size: int, views: int, images: int = 1, seed: int = 0) -> tuple[int, int, int, int]:
    """The numbers of a sheet as Python's, checked before a photo is read.

    Raises:
        S2R2Error: One is out of range; it is named as an option of the command line.
    """
    return (
        whole_number(image_size, 8, 4096, "image_size"),
        whole_number(views, 1, 1024, "views"),
        whole_number(images, 1, 10_000, "images"),
        whole_number(seed, 0, (1 << 63) - 1, "seed"),
    )


def views_sheet(
    images: Sequence[np.ndarray],
    recipe: Recipe,
    *,
    view_size: int,
    views: int,
    seed: int = 0,
    backend: Backend = "auto",
) -> Image.Image:
    """A row for each image: the image itself, then V random views of it, colors as people see them.

    Args:
        images: Arrays ``(H, W, 3)`` uint8.
        recipe: The distributions.
        view_size: Side of a full view in pixels; cells are at least 64 and at most 160 pixels.
        views: V.
        seed: Another seed, other views.
        backend: As in :func:`render_views`.

    Raises:
        S2R2Error: A number is out of range.
    """
    view_size, views, _, seed = check_sheet(image_size=view_size, views=views, seed=seed)
    cell = min(160, max(64, view_size))
    sides = view_sizes(recipe, view_size, views)
    step = cell + _GAP
    sheet = Image.new("RGB", (step * (views + 1) + 3 * _GAP, step * len(images) + _GAP), PAPER)
    for row, image in enumerate(images):
        size = np.array([image.shape[:2]])
        table = draw_parameters(recipe, size, np.array([row]), views, seed=seed, epoch=0, view_size=view_size)
        shown = [_picture(render_centre([image], max(cell, view_size), mean=(0.0,) * 3, std=(1.0,) * 3)[0])]
        for v, side in enumerate(sides):
            view = render_views([image], table.rows(slice(v, v + 1)), side, backend=backend)[0]
            shown.append(_picture(view))
        for column, picture in enumerate(shown):
            side = cell if column == 0 else max(1, round(sides[column - 1] * cell / view_size))
            left = _GAP + column * step + (2 * _GAP if column else 0)
            place(sheet, thumbnail(picture, side, square=True), left, _GAP + row * step, cell)
    return sheet


def _picture(view: np.ndarray) -> Image.Image:
    return Image.fromarray((view.transpose(1, 2, 0) * 255 + 0.5).clip(0, 255).astype(np.uint8))
