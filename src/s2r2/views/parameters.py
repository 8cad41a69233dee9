"""The table of random parameters: one row for each view, the same on any machine and in any order.

Each row's random numbers are a stream of SplitMix64 (Steele, Lea, Flood 2014, *Fast splittable pseudorandom number
generators*) whose start is a hash of (seed, epoch, image id, view). No state is carried from row to row, so a view is
the same whatever batch, thread or process draws it, and after a resume.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from s2r2.views.orders import mix
from s2r2.views.recipe import Recipe, view_sizes

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TRIES = 10  # torchvision's RandomResizedCrop: so many crops are drawn before it takes the center
_SCALE, _RATIO, _TOP, _LEFT, _FLIP, _FLOP, _TURN = 0, _TRIES, 2 * _TRIES, 21, 22, 23, 24
_JITTER, _FACTORS, _HUE, _ORDER, _GREY, _BLUR, _SIGMA, _SOLARISE = 25, 26, 29, 30, 34, 35, 36, 37
_NUMBERS = 38


@dataclass(frozen=True)
class ViewParameters:
    """What makes each of N views, as arrays ``(N,)`` or as stated.

    Attributes:
        size: Side of the view in pixels, int32.
        top: First row of the crop, int32.
        left: First column, int32.
        height: Rows of the crop, int32.
        width: Columns, int32.
        flip: Mirror left and right, bool.
        flop: Mirror top and bottom, bool.
        turns: Quarter turns counter-clockwise, int32.
        jitter: Whether colors are jittered, bool.
        order: ``(N, 4)`` int32, the order of brightness (0), contrast (1), saturation (2) and hue (3).
        factors: ``(N, 3)`` float32 factors of brightness, contrast and saturation.
        hue: Shift of the hue as a part of the color circle, float32.
        grey: Whether color is taken away, bool.
        sigma: Standard deviation of the blur in pixels, 0 for none, float32.
        solarise: Whether pixels above one half are inverted, bool.
    """

    size: np.ndarray
    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray
    flop: np.ndarray
    turns: np.ndarray
    jitter: np.ndarray
    order: np.ndarray
    factors: np.ndarray
    hue: np.ndarray
    grey: np.ndarray
    sigma: np.ndarray
    solarise: np.ndarray

    def __len__(self) -> int:
        return len(self.size)

    def rows(self, index: np.ndarray | slice) -> "ViewParameters":
        """Some of the rows."""
        return ViewParameters(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


def draw_parameters(
    recipe: Recipe,
    sizes: np.ndarray,
    image_ids: np.ndarray,
    views: int,
    *,
    seed: int,
    epoch: int,
    view_size: int,
    first_view: int = 0,
) -> ViewParameters:
    """Draw the parameters of V views of each of B images.

    Args:
        recipe: The distributions.
        sizes: ``(B, 2)`` heights and widths of the images in pixels.
        image_ids: ``(B,)`` uint64.
        views: V.
        seed: The run's seed.
        epoch: The epoch: another one, other views.
        view_size: Side of a full view in pixels.
        first_view: Number of the first view; views of other numbers are other views.

    Returns:
        ``B * V`` rows, those of an image together: row ``b * V + v``.
    """
    sizes = np.asarray(sizes, np.int64)
    ids = np.asarray(image_ids, np.uint64)
    keys = _row_keys(seed, epoch, ids, np.arange(first_view, first_view + views, dtype=np.uint64))
    side = np.tile(np.array(view_sizes(recipe, view_size, views), np.int32), len(ids))
    uniform, (top, left, height, width) = _draw(recipe, keys, np.repeat(sizes, views, axis=0), side < view_size)
    jitter = uniform[:, _JITTER] < recipe.jitter_probability
    strengths = np.array([recipe.brightness, recipe.contrast, recipe.saturation])
    low = np.maximum(0.0, 1.0 - strengths)
    factors = low + (1.0 + strengths - low) * uniform[:, _FACTORS : _FACTORS + 3]
    low_sigma, high_sigma = recipe.blur_sigma
    sigma = low_sigma + (high_sigma - low_sigma) * uniform[:, _SIGMA]
    turns = (4 * uniform[:, _TURN]).astype(np.int32)
    return ViewParameters(
        size=side,
        top=top,
        left=left,
        height=height,
        width=width,
        flip=uniform[:, _FLIP] < recipe.horizontal_flip,
        flop=uniform[:, _FLOP] < recipe.vertical_flip,
        turns=turns if recipe.quarter_turns else np.zeros_like(turns),
        jitter=jitter,
        order=np.argsort(uniform[:, _ORDER : _ORDER + 4], axis=1).astype(np.int32),
        factors=factors.astype(np.float32),
        hue=((2 * uniform[:, _HUE] - 1) * recipe.hue).astype(np.float32),
        grey=uniform[:, _GREY] < recipe.grayscale_probability,
        sigma=np.where(uniform[:, _BLUR] < recipe.blur_probability, sigma, 0.0).astype(np.float32),
        solarise=uniform[:, _SOLARISE] < recipe.solarize_probability,
    )


def _draw(
    recipe: Recipe, keys: np.ndarray, sizes: np.ndarray, small: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Random numbers ``(N, numbers)`` of each row's stream; top, left, height and width of its crop."""
    from s2r2.views.draws import draw_crops, draw_uniform

    uniform, crops = np.empty((len(keys), _NUMBERS)), np.empty((len(keys), 4), np.int32)
    scales = np.where(small[:, None], recipe.small_crop_scale, recipe.crop_scale)
    narrow, wide = recipe.crop_ratio
    with np.errstate(over="ignore"):  # without numba
        draw_uniform(keys, uniform)
    draw_crops(sizes, scales, (math.log(narrow), math.log(wide)), uniform, _TRIES, _TOP, crops)
    return uniform, tuple(np.ascontiguousarray(crops.T))


def _row_keys(seed: int, epoch: int, image_ids: np.ndarray, views: np.ndarray) -> np.ndarray:
    """``(B * V,)`` uint64 starts of the streams."""
    with np.errstate(over="ignore"):
        run = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
        run = mix(run ^ (np.uint64(epoch) + _GOLDEN))
        image = mix(image_ids ^ run)
        return mix(image[:, None] ^ mix(views + _GOLDEN)[None, :]).reshape(-1)
