"""What views are drawn from: the distributions of every random operation, as plain data."""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from s2r2.errors import ArgumentError
from s2r2.settings.values import Mistakes, Where, fitted, plain, show, unknown_key
from s2r2.settings.yaml_documents import read_yaml

Range = tuple[float, float]
LARGEST = 1000.0
FORMER = {"grey_probability": "grayscale_probability", "solarise_probability": "solarize_probability"}
"""Former names of settings, which files and runs of earlier versions have."""


@dataclass(frozen=True)
class Recipe:
    """Distributions of the random views of an image.

    The operations, in this order: crop and antialiased resize, flips, quarter turns, color jitter (its four parts
    in an order drawn for each view), grayscale, Gaussian blur, solarization, normalization. The meaning of each
    setting is torchvision's; the defaults are SimCLR's (Chen et al. 2020, appendix A).

    Attributes:
        crop_scale: Share of the image's area that a crop covers.
        crop_ratio: Its ratio of width to height, drawn uniformly in the logarithm.
        horizontal_flip: Probability of mirroring left and right.
        vertical_flip: Probability of mirroring top and bottom.
        quarter_turns: Whether to turn by 0, 90, 180 or 270 degrees, each as likely.
        brightness: b: factor drawn from [max(0, 1 - b), 1 + b].
        contrast: Likewise.
        saturation: Likewise.
        hue: h <= 0.5: shift drawn from [-h, h], as a part of the color circle.
        jitter_probability: Probability of color jitter.
        grayscale_probability: Probability of grayscale.
        blur_probability: Probability of blur.
        blur_sigma: Its standard deviation in pixels of the view; the kernel is a tenth of the view wide.
        solarize_probability: Probability of inverting the pixels above one half.
        mean: Channel means that the pixels in [0, 1] are normalized with.
        std: Channel standard deviations, likewise.
        large_views: Multi-crop: how many of the views are of full size; 0 means all.
        small_size: Multi-crop: side of the other views as a share of the full side.
        small_crop_scale: Multi-crop: share of the area that they cover.
    """

    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turns: bool = False
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: Range = (0.1, 2.0)
    solarize_probability: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    large_views: int = 0
    small_size: float = 3 / 7
    small_crop_scale: Range = (0.05, 0.14)

    def __post_init__(self) -> None:
        mistakes = Mistakes("recipe")
        for name, value in _checked(dataclasses.asdict(self), mistakes, ()).items():
            object.__setattr__(self, name, value)
        mistakes.refuse()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for YAML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any, mistakes: Mistakes | None = None, where: Where = ()) -> "Recipe":
        """The recipe that :meth:`to_dict` described.

        Args:
            values: The settings, by name.
            mistakes: Those of the file they stand in.
            where: Place of the settings in it.

        Raises:
            S2R2Error: Keys or values that are none of a recipe's, and what else the file has of mistakes.
        """
        found = mistakes or Mistakes("recipe")
        checked = _checked(values, found, where) if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            found.add(where, f"{show(values)}: must be settings, such as hue: 0.1")
        found.refuse()
        return cls(**checked)


def _checked(values: dict[str, Any], mistakes: Mistakes, where: Where) -> dict[str, Any]:
    """Settings as they should be; what is wrong with them goes to the mistakes."""
    hints = get_type_hints(Recipe)
    made = {}
    for key, value in values.items():
        before, name = len(mistakes.found), FORMER.get(key, key)
        if name not in hints:
            mistakes.add((*where, key), unknown_key(key, hints))
            continue
        made[name] = fitted(plain(value), hints[name], mistakes, (*where, key))
        if len(mistakes.found) == before and (wrong := _wrong(name, made[name])):
            mistakes.add((*where, key), f"{show(value)}: {wrong}")
    return made


def _wrong(name: str, value: Any) -> str:
    """What is wrong with a setting of the right type; empty if nothing is."""
    if name in ("crop_scale", "small_crop_scale") and not 0 < value[0] <= value[1] <= 1:
        return "must be two shares, 0 < low <= high <= 1"
    if name in ("crop_ratio", "blur_sigma") and not 0 < value[0] <= value[1] <= LARGEST:
        return f"must be 0 < low <= high <= {LARGEST:g}"
    if name.endswith(("probability", "flip")) and not 0 <= value <= 1:
        return "must be a probability"
    if name in ("brightness", "contrast", "saturation") and not 0 <= value <= LARGEST:
        return f"must not be negative, {LARGEST:g} at most"
    if name == "hue" and not 0 <= value <= 0.5:
        return "must be between 0 and 0.5"
    if name == "std" and min(value) <= 0:
        return "must be above 0"
    if name == "large_views" and value < 0:
        return "must not be negative"
    if name == "small_size" and not 0 < value <= 1:
        return "must be above 0, and 1 at most"
    return ""


RECIPES: dict[str, Recipe] = {
    "photos": Recipe(),
    "mild": Recipe(
        crop_scale=(0.3, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale_probability=0.1,
        blur_probability=0.2, blur_sigma=(0.1, 1.0),
    ),
    "documents": Recipe(
        crop_scale=(0.4, 1.0), crop_ratio=(0.5, 2.0), horizontal_flip=0.0, brightness=0.4, contrast=0.4,
        saturation=0.0, hue=0.0, grayscale_probability=0.0, blur_probability=0.2, blur_sigma=(0.1, 1.0),
    ),
    "aerial": Recipe(crop_scale=(0.2, 1.0), vertical_flip=0.5, quarter_turns=True, hue=0.1),
    "swav-multicrop": Recipe(crop_scale=(0.14, 1.0), large_views=2),
}  # fmt: skip
"""SimCLR's views for photos; milder ones; for scans and handwriting (no mirror, no color); from above (any way up);
SwAV's two full and several small crops (Caron et al. 2020)."""


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or of that file (``.yaml``), which states what differs from ``photos``.

    Raises:
        S2R2Error: There is none (near matches are named), or the file is not a recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith((".yaml", ".yml")):
        return _read_recipe(Path(name))
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use {', '.join(RECIPES)}, or a .yaml file"
    raise ArgumentError(f"recipe {name!r} is not known: {hint}")


def _read_recipe(path: Path) -> Recipe:
    values, mistakes = read_yaml(path)
    return Recipe.from_dict(values, mistakes)


def view_sizes(recipe: Recipe, view_size: int, views: int) -> tuple[int, ...]:
    """Side in pixels of each of an image's views: full ones first, then the small ones of multi-crop."""
    large = views if recipe.large_views == 0 else min(recipe.large_views, views)
    small = max(1, round(view_size * recipe.small_size))
    return (view_size,) * large + (small,) * (views - large)
