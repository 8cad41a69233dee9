"""The same views through torchvision's float operations: the oracle, and the path without numba."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from s2r2.views.parameters import ViewParameters


def render_view(image: np.ndarray, parameters: ViewParameters, row: int, blur_kernel: int) -> Tensor:
    """One view as float32 in [0, 1].

    Args:
        image: ``(H, W, 3)`` uint8.
        parameters: The table.
        row: Which row of it.
        blur_kernel: Side of the blur's kernel in pixels, odd; 1 for no blur.

    Returns:
        ``(3, P, P)``.
    """
    p, size = parameters, int(parameters.size[row])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    top, left, height, width = (int(a[row]) for a in (p.top, p.left, p.height, p.width))
    view = tv.resized_crop(pixels, top, left, height, width, [size, size], antialias=True)
    if p.flip[row]:
        view = tv.horizontal_flip(view)
    if p.flop[row]:
        view = tv.vertical_flip(view)
    if p.turns[row]:
        view = torch.rot90(view, int(p.turns[row]), (1, 2))
    if p.jitter[row]:
        for operation in p.order[row]:
            view = _jitter(view, int(operation), p, row)
    if p.grey[row]:
        view = tv.rgb_to_grayscale(view, 3)
    if p.sigma[row] > 0 and blur_kernel > 1:
        view = tv.gaussian_blur(view, [blur_kernel, blur_kernel], [float(p.sigma[row])] * 2)
    if p.solarise[row]:
        view = tv.solarize(view, 0.5)
    return view


def normalise(view: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(view - mean) / std`` by channel."""
    return (view - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _jitter(view: Tensor, operation: int, parameters: ViewParameters, row: int) -> Tensor:
    if operation == 0:
        return tv.adjust_brightness(view, float(parameters.factors[row, 0]))
    if operation == 1:
        return tv.adjust_contrast(view, float(parameters.factors[row, 1]))
    if operation == 2:
        return tv.adjust_saturation(view, float(parameters.factors[row, 2]))
    return tv.adjust_hue(view, float(parameters.hue[row])) if parameters.hue[row] != 0 else view
