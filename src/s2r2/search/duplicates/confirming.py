"""Whether one of two pictures was made from the other, by their pixels: aligned, then compared tile by tile."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from s2r2.search.duplicates.descriptors import WHOLE, Crop

_LEVELS = ((24, 8, 0.7), (48, 5, 0.75), (80, 4, 0.8))
"""Side at which two pictures are aligned, steps at most, and the correlation below which they are given up."""

_TILES = 8
_SMALLEST_TILE = 4
_LARGEST_CROP = 0.5
_TEXTURE = 3.0
"""Gray levels (standard deviation) from which on a tile has texture."""

_FEW_TILES = 12
_AGREEMENT, _CORRELATION, _CORRELATION_OF_FEW, _TINT = 0.8, 0.9, 0.97, 30.0
"""What copies have at least, and of tint at most. Of photos that are none the nearest ones had an agreement of 0.7, or
two flat halves and a horizon: little texture, and other colors."""

_DETAIL = 0.7
_GRAY = 3.0
"""Distance from gray within which a picture has no colors; beside one that has, it may be its black-and-white copy."""

_OTHER_COLORS, _OTHER_GAIN, _OTHER_OFFSET = 6.0, 0.05, 4.0
_WHOLE_AREA = 0.98


class Shown(NamedTuple):
    """A small picture: gray for alignment, and its colors."""

    gray: Image.Image
    color: Image.Image

    @classmethod
    def of(cls, picture: np.ndarray) -> "Shown":
        """A thumbnail ``(H, W, 3)`` uint8."""
        color = Image.fromarray(picture)
        return cls(color.convert("L").convert("F"), color)

    def mirrored(self) -> "Shown":
        """With left and right exchanged."""
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        return Shown(self.gray.transpose(flip), self.color.transpose(flip))


@dataclass(frozen=True)
class Guess:
    """How two pictures may belong together: which part of one shows what which part of the other shows."""

    left: Crop = WHOLE
    right: Crop = WHOLE
    mirrored: bool = False


@dataclass(frozen=True)
class Evidence:
    """What a comparison of two aligned pictures found.

    Attributes:
        agreement: Share of the textured tiles that agree, 0 to 1, without those at the edge that an overlay may cover.
        covered: Share of the height at the top or bottom that disagrees.
        correlation: Of fine detail over all tiles that count.
        left: Part of the left picture that the right one shows too: left, top, right, bottom in parts of its sides.
        right: Likewise.
        gain: Contrast of the right picture over that of the left one.
        offset: Gray levels by which it is brighter.
        tint: Gray levels by which colors differ beyond that.
        detail: Correlation of what neither rows nor columns explain: shifted stripes and equal gradients have none.
        textured: Tiles that have texture.
        mirrored: Whether the right picture was mirrored.
    """

    agreement: float
    covered: float
    correlation: float
    left: tuple[float, float, float, float]
    right: tuple[float, float, float, float]
    gain: float
    offset: float
    tint: float
    detail: float
    textured: int
    mirrored: bool

    def exchanged(self) -> "Evidence":
        """The same with left and right exchanged."""
        left, right = self.left, self.right
        if self.mirrored:  # places are those of the pictures as they were compared
            left, right = ((1 - box[2], box[1], 1 - box[0], box[3]) for box in (left, right))
        gain = 1 / self.gain
        return replace(self, left=right, right=left, gain=gain, offset=-self.offset)

    @property
    def is_copy(self) -> bool:
        """Whether one picture was made from the other, or both from a third one."""
        few = self.textured < _FEW_TILES
        least = _CORRELATION_OF_FEW if few else _CORRELATION
        agrees = self.agreement >= _AGREEMENT and self.correlation >= least and self.detail >= _DETAIL
        return agrees and self.tint <= _TINT

    @property
    def is_exact(self) -> bool:
        """Whether both pictures may have the same pixels."""
        same = self.agreement == 1 and self.correlation > 0.98 and abs(self.gain - 1) < 0.02 and abs(self.offset) < 1
        return same and not self.mirrored and not self.is_cropped

    @property
    def is_cropped(self) -> bool:
        """Whether one picture shows more than the other."""
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in (self.left, self.right)]
        return min(areas) < _WHOLE_AREA

    @property
    def is_recolored(self) -> bool:
        """Whether brightness, contrast or colors differ."""
        other_light = abs(self.gain - 1) > _OTHER_GAIN or abs(self.offset) > _OTHER_OFFSET
        return other_light or self.tint > _OTHER_COLORS


def compare(left: Shown, right: Shown, guess: Guess) -> Evidence | None:
    """Align two pictures, beginning with a guess, and compare them; None if they do not fit.

    Args:
        left: One picture.
        right: The other one.
        guess: How they may belong together; mirrored means that the right one is to be mirrored.
    """
    if guess.left == WHOLE != guess.right:  # the one that shows less is the template
        found = compare(right, left, Guess(guess.right, guess.left, guess.mirrored))
        return None if found is None else found.exchanged()
    if guess.mirrored:
        right = right.mirrored()
    box, template_box = _pixels(guess.left, left.gray), _pixels(guess.right, right.gray)
    for side, steps, least in _LEVELS:
        template = _resampled(right.gray, template_box, side, side)
        box, correlation = _align(left.gray, box, template, steps)
        if correlation < least:
            return None
    return _judge(left, right, box, template_box, guess.mirrored)


def _pixels(crop: Crop, image: Image.Image) -> np.ndarray:
    (left, right), (top, bottom) = crop
    return np.array([left * image.width, top * image.height, right * image.width, bottom * image.height])


def _resampled(image: Image.Image, box: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=tuple(box.tolist())))


def _align(image: Image.Image, box: np.ndarray, template: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
    """Move the sides of a box of the image until it shows the template (Lucas and Kanade 1981, with gain and offset).

    Returns:
        The best box, and its correlation with the template.
    """
    side = len(template)
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    best, best_correlation = box, -1.0
    for _ in range(steps + 1):
        shown = _resampled(image, box, side, side)
        correlation = _correlation(shown, template)
        if correlation > best_correlation + 1e-4:
            best, best_correlation = box, correlation
        elif correlation < best_correlation - 0.05:
            break
        slope_y, slope_x = np.gradient(shown)
        columns = np.stack(
            [
                slope_x * (1 - place), slope_y * (1 - place[:, None]), slope_x * place, slope_y * place[:, None],
                shown, np.ones_like(shown),
            ]
        ).reshape(6, -1)  # fmt: skip
        products = np.einsum("an,bn->ab", columns, columns).astype(np.float64)
        aims = np.einsum("an,n->a", columns, template.reshape(-1)).astype(np.float64)
        products[np.diag_indices(6)] *= 1 + 1e-3
        products[np.diag_indices(6)] += 1e-3
        found = np.linalg.solve(products, aims)
        if abs(found[4]) < 1e-3:
            break
        extent = np.array([box[2] - box[0], box[3] - box[1]] * 2)
        move = np.clip(found[:4] / found[4] / side, -0.1, 0.1) * extent
        box = _inside(box + move, image)
        if np.abs(move).max() < 0.02:
            break
    return best, best_correlation


def _inside(box: np.ndarray, image: Image.Image) -> np.ndarray:
    """The box within the image, at least a part of its sides."""
    size = np.array([image.width, image.height], float)
    low = np.clip(box[:2], 0, size * (1 - _LARGEST_CROP))
    return np.concatenate([low, np.clip(box[2:], low + size * (1 - _LARGEST_CROP), size)])


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(dtype=np.float64), right - right.mean(dtype=np.float64)
    strength = np.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / strength) if strength > 1e-6 else 0.0


def _judge(left: Shown, right: Shown, box: np.ndarray, template_box: np.ndarray, mirrored: bool) -> Evidence | None:
    """Compare all that both pictures show."""
    left_box, right_box = _common(left.gray, right.gray, box, template_box)
    extents = np.minimum(left_box[2:] - left_box[:2], right_box[2:] - right_box[:2])
    width, height = (int(np.clip(0.7 * extent, 8, 112)) for extent in extents)
    shown, template = (_resampled(p.gray, b, width, height) for p, b in ((left, left_box), (right, right_box)))
    gain, offset = _fit(shown, template)
    tiles_x, tiles_y = (min(_TILES, max(2, extent // _SMALLEST_TILE)) for extent in (width, height))
    textured, agreeing, products = _tiles(shown * gain + offset, template, tiles_y, tiles_x)
    if textured.sum() < 4:
        return None
    covered, counted = _without_overlay(agreeing)
    strength = np.sqrt(products[1][counted].sum() * products[2][counted].sum())
    return Evidence(
        float(agreeing[counted & textured].sum() / max(1, (counted & textured).sum())),
        covered,
        float(products[0][counted].sum() / max(strength, 1e-6)),
        _parts(left_box, left.gray),
        _parts(right_box, right.gray),
        gain,
        float(offset + (gain - 1) * shown.mean()),
        _tint(left, right, left_box, right_box, gain),
        _detail(shown, template, counted[:, 0]),
        int((counted & textured).sum()),
        mirrored,
    )


def _common(
    left: Image.Image, right: Image.Image, box: np.ndarray, template_box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of what both pictures show, given a box of each that shows the same."""
    scale = (box[2:] - box[:2]) / (template_box[2:] - template_box[:2])
    shift = box[:2] - template_box[:2] * scale  # from places in the right picture to those in the left one
    low = np.maximum(shift, 0)
    high = np.minimum(shift + scale * right.size, left.size)
    both = np.concatenate([low, high])
    there = (both - np.tile(shift, 2)) / np.tile(scale, 2)
    return both, np.clip(there, 0, np.tile(right.size, 2))


def _fit(shown: np.ndarray, template: np.ndarray) -> tuple[float, float]:
    """Gain and offset from one picture to the other, from what agrees best."""
    kept = np.ones(shown.shape, bool)
    gain, offset = 1.0, 0.0
    for _ in range(3):
        x, y = shown[kept].astype(np.float64), template[kept].astype(np.float64)
        variance = x.var()
        gain = float(np.clip(((x - x.mean()) * (y - y.mean())).mean() / max(variance, 1e-6), 0.3, 3))
        offset = float(y.mean() - gain * x.mean())
        error = np.abs(shown * gain + offset - template)
        kept = error <= max(4.0, 2.5 * float(np.median(error)))
    return gain, offset


def _tiles(
    shown: np.ndarray, template: np.ndarray, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which tiles ``(rows, columns)`` have texture, and which agree; and their covariances and variances."""
    height, width = shown.shape
    cut_y, cut_x = (
        np.linspace(0, extent, parts + 1).astype(int)[:-1] for extent, parts in ((height, rows), (width, columns))
    )

    def sums(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values.astype(np.float64), cut_y, 0), cut_x, 1)

    count = sums(np.ones_like(shown))
    mean_s, mean_t = sums(shown) / count, sums(template) / count
    cov = sums(shown * template) / count - mean_s * mean_t
    var_s = np.maximum(sums(shown * shown) / count - mean_s**2, 0)
    var_t = np.maximum(sums(template * template) / count - mean_t**2, 0)
    textured = np.maximum(var_s, var_t) > _TEXTURE**2
    alike = 2 * cov / (var_s + var_t + 1e-6) > 0.75
    near = np.abs(mean_s - mean_t) < 16
    quiet = np.sqrt(np.maximum(var_s + var_t - 2 * cov, 0)) < _TEXTURE
    return textured, near & (alike | quiet), (cov, var_s, var_t)


def _detail(shown: np.ndarray, template: np.ndarray, rows: np.ndarray) -> float:
    """Correlation of two pictures without the mean of each row and column, in the rows of tiles that count."""
    kept = rows[np.arange(len(shown)) * len(rows) // len(shown)]

    def rest(picture: np.ndarray) -> np.ndarray:
        return picture - picture.mean(0) - picture.mean(1, keepdims=True) + picture.mean()

    return _correlation(rest(shown[kept]), rest(template[kept]))


def _without_overlay(agreeing: np.ndarray) -> tuple[float, np.ndarray]:
    """How much at the top or the bottom an overlay covers, at most a quarter, and which tiles then count."""
    rows = len(agreeing)
    bad = agreeing.mean(1) < 0.5
    counted = np.ones(agreeing.shape, bool)
    if not bad.any():
        return 0.0, counted
    for order in (range(rows), range(rows - 1, -1, -1)):
        covered = 0
        for row in order:
            if not bad[row] or covered >= rows // 4:
                break
            covered += 1
        if covered:
            chosen = list(order)[:covered]
            counted[chosen] = False
            return covered / rows, counted
    return 0.0, counted


def _tint(left: Shown, right: Shown, left_box: np.ndarray, right_box: np.ndarray, gain: float) -> float:
    """How far colors lie apart beyond the gain."""
    first = _colors(left.color, left_box) * gain
    second = _colors(right.color, right_box)
    tint = float(np.median(np.linalg.norm(first - second, axis=-1)))
    grayest = min(float(np.linalg.norm(colors, axis=-1).max()) for colors in (first, second))
    return min(tint, _TINT) if grayest < _GRAY else tint


def _colors(image: Image.Image, box: np.ndarray) -> np.ndarray:
    """Difference from gray, ``(16, 16, 3)``."""
    pixels = _resampled(image, box, 16, 16).astype(np.float32)
    return pixels - pixels.mean(-1, keepdims=True)


def _parts(box: np.ndarray, image: Image.Image) -> tuple[float, float, float, float]:
    left, top, right, bottom = (box / np.tile(image.size, 2)).tolist()
    return left, top, right, bottom
