"""Crop and antialiased resize: first down the columns, then along the rows.

The filter is the triangle of torchvision's ``antialias=True``: as wide as two output pixels of the source when
reducing, two source pixels when enlarging.
"""

from typing import Any

import numpy as np

from s2r2.system.jit import njit

OPTIONS: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
u64, f32 = np.uint64, np.float32
_ONE, _TWO = u64(1), u64(2)


@njit(**OPTIONS)
def crop_and_resize(
    image, columns, top, left, height, width, flip, flop, size, first, count, weight, gather, across, line, pixels
):
    """Write a crop of a flat image, resized to ``size`` and in [0, 1], as three planes into ``pixels``."""
    triangle(top, height, size, first[0], count[0], weight[0])
    triangle(left, width, size, first[1], count[1], weight[1])
    most = count[1].max()
    across[: most * size] = f32(0)
    for p in range(size):
        target = size - 1 - p if flip else p
        gather[target] = 3 * (first[1, p] - left)
        for t in range(count[1, p]):
            across[t * size + target] = weight[1, p, t] * f32(1 / 255)
    plane, n = u64(size * size), u64(3 * width)
    for q in range(size):
        begin = 3 * (first[0, q] * columns + left)
        _sum_rows(line, image, begin, 3 * columns, n, count[0, q], weight, q)
        target = u64((size - 1 - q if flop else q) * size)
        t = 0
        while t + 1 < most:
            _gather_two(pixels, target, plane, across, u64(t * size), gather, line, u64(3 * t), t == 0)
            t += 2
        if t < most:
            _gather_one(pixels, target, plane, across, u64(t * size), gather, line, u64(3 * t), t == 0)


@njit(**OPTIONS)
def triangle(start, length, size, first, count, weight):
    """Where the filter of each of ``size`` outputs begins, how many inputs it has, and their weights."""
    scale = length / size
    support = max(scale, 1.0)
    inverse = 1.0 / support
    for p in range(size):
        centre = start + (p + 0.5) * scale
        low = max(int(centre - support + 0.5), start)
        high = min(int(centre + support + 0.5), start + length)
        total = 0.0
        for j in range(low, high):
            w = max(0.0, 1.0 - abs(j + 0.5 - centre) * inverse)
            weight[p, j - low] = w
            total += w
        share = f32(1.0 / total)
        for j in range(high - low):
            weight[p, j] *= share
        first[p], count[p] = low, high - low


@njit(**OPTIONS)
def _sum_rows(line, image, begin, stride, n, count, weight, q):
    """Weighted sum of ``count`` rows of the crop, a few at a time."""
    j = 0
    while j + 3 < count:
        at = begin + j * stride
        _four_rows(
            line, image, u64(at), u64(stride), n, weight[0, q, j], weight[0, q, j + 1], weight[0, q, j + 2],
            weight[0, q, j + 3], j == 0,
        )  # fmt: skip
        j += 4
    if j + 1 < count:
        at = begin + j * stride
        _two_rows(line, image, u64(at), u64(at + stride), n, weight[0, q, j], weight[0, q, j + 1], j == 0)
        j += 2
    if j < count:
        _one_row(line, image, u64(begin + j * stride), n, weight[0, q, j], j == 0)


@njit(**OPTIONS)
def _one_row(line, image, a, n, f, begins):
    if begins:
        for x in range(n):
            line[x] = f * f32(image[a + x])
    else:
        for x in range(n):
            line[x] += f * f32(image[a + x])


@njit(**OPTIONS)
def _two_rows(line, image, a, b, n, f, g, begins):
    if begins:
        for x in range(n):
            line[x] = f * f32(image[a + x]) + g * f32(image[b + x])
    else:
        for x in range(n):
            line[x] += f * f32(image[a + x]) + g * f32(image[b + x])


@njit(**OPTIONS)
def _four_rows(line, image, a, stride, n, f, g, h, k, begins):
    b, c, d = a + stride, a + _TWO * stride, a + u64(3) * stride
    if begins:
        for x in range(n):
            line[x] = (f * f32(image[a + x]) + g * f32(image[b + x])) + (h * f32(image[c + x]) + k * f32(image[d + x]))
    else:
        for x in range(n):
            line[x] += (f * f32(image[a + x]) + g * f32(image[b + x])) + (h * f32(image[c + x]) + k * f32(image[d + x]))


@njit(**OPTIONS)
def _gather_one(pixels, red, plane, across, a, gather, line, shift, begins):
    green, blue = red + plane, red + plane + plane
    for p in range(u64(gather.shape[0])):
        e = u64(gather[p]) + shift
        w = across[a + p]
        if begins:
            pixels[red + p] = w * line[e]
            pixels[green + p] = w * line[e + _ONE]
            pixels[blue + p] = w * line[e + _TWO]
        else:
            pixels[red + p] += w * line[e]
            pixels[green + p] += w * line[e + _ONE]
            pixels[blue + p] += w * line[e + _TWO]


@njit(**OPTIONS)
def _gather_two(pixels, red, plane, across, a, gather, line, shift, begins):
    green, blue = red + plane, red + plane + plane
    size = u64(gather.shape[0])
    b = a + size
    for p in range(size):
        e = u64(gather[p]) + shift
        v, w = across[a + p], across[b + p]
        if begins:
            pixels[red + p] = v * line[e] + w * line[e + u64(3)]
            pixels[green + p] = v * line[e + _ONE] + w * line[e + u64(4)]
            pixels[blue + p] = v * line[e + _TWO] + w * line[e + u64(5)]
        else:
            pixels[red + p] += v * line[e] + w * line[e + u64(3)]
            pixels[green + p] += v * line[e + _ONE] + w * line[e + u64(4)]
            pixels[blue + p] += v * line[e + _TWO] + w * line[e + u64(5)]
