"""Separable Gaussian blur with reflected borders.

A plane is laid into a larger one with its borders reflected. There a neighbor is a constant distance away, along the
rows and down the columns alike, so each direction is a few long loops over the whole plane.
"""

import math

import numpy as np

from s2r2.system.jit import njit
from s2r2.views.kernel.resize import OPTIONS

u64, f32 = np.uint64, np.float32
BLUR_REACH = 4.0
"""In standard deviations: what lies beyond weighs 6e-5, a 60th of a 255th on the hardest edge."""


@njit(**OPTIONS)
def blur_margin(kernel):
    """Pixels around the plane: half the kernel, rounded up to whole pairs."""
    return (kernel // 2 + 1) // 2 * 2


@njit(**OPTIONS)
def blur_weights(sigma, kernel, weight):
    """Weights of the center and of each distance from it, 0 beyond the reach; returns an even reach."""
    reach = min(kernel // 2, math.ceil(BLUR_REACH * sigma))
    total = 0.0
    for t in range(len(weight)):
        w = math.exp(-0.5 * (t / sigma) ** 2) if t <= reach else 0.0
        weight[t] = w
        total += w if t == 0 else 2 * w
    for t in range(reach + 1):
        weight[t] = weight[t] / total
    return (reach + 1) // 2 * 2


@njit(**OPTIONS)
def blur(pixels, begin, size, reach, weight, padded, half_blurred):
    """Blur the plane of ``size x size`` pixels at ``begin``, in place; the last two arrays are scratch."""
    stride = size + 2 * reach
    mirrored = min(reach, size - 1)
    for q in range(size):
        row = (q + reach) * stride + reach
        _copy(padded, u64(row), pixels, u64(begin + q * size), u64(size))
        for t in range(1, mirrored + 1):
            padded[row - t] = padded[row + t]
            padded[row + size - 1 + t] = padded[row + size - 1 - t]
    first = reach * stride + reach
    n = (size - 1) * stride + size
    _convolve(half_blurred, padded, first, 1, n, reach, weight)
    for t in range(1, mirrored + 1):
        _copy(half_blurred, u64(first - t * stride), half_blurred, u64(first + t * stride), u64(size))
        last = first + (size - 1) * stride
        _copy(half_blurred, u64(last + t * stride), half_blurred, u64(last - t * stride), u64(size))
    _convolve(padded, half_blurred, first, stride, n, reach, weight)
    for q in range(size):
        _copy(pixels, u64(begin + q * size), padded, u64(first + q * stride), u64(size))


@njit(**OPTIONS)
def _convolve(result, values, first, step, n, reach, weight):
    """Symmetric sum over neighbors ``step`` places apart, four distances at a time."""
    at, step, n = u64(first), u64(step), u64(n)
    if reach == 2:
        _begin_two(result, values, at, step, n, weight)
        return
    _begin_four(result, values, at, step, n, weight)
    t = 5
    while t + 3 <= reach:
        _add_four(result, values, at, step, n, weight, t)
        t += 4
    if t <= reach:
        _add_two(result, values, at, step, n, weight, t)


@njit(**OPTIONS)
def _begin_two(result, values, at, step, n, weight):
    a, b, c = weight[0], weight[1], weight[2]
    l1, l2, r1, r2 = at - step, at - step - step, at + step, at + step + step
    for x in range(n):
        result[at + x] = (
            a * values[at + x] + b * (values[l1 + x] + values[r1 + x]) + c * (values[l2 + x] + values[r2 + x])
        )


@njit(**OPTIONS)
def _begin_four(result, values, at, step, n, weight):
    a, b, c, d, e = weight[0], weight[1], weight[2], weight[3], weight[4]
    l1, l2, l3, l4 = at - step, at - u64(2) * step, at - u64(3) * step, at - u64(4) * step
    r1, r2, r3, r4 = at + step, at + u64(2) * step, at + u64(3) * step, at + u64(4) * step
    for x in range(n):
        result[at + x] = (
            a * values[at + x]
            + (b * (values[l1 + x] + values[r1 + x]) + c * (values[l2 + x] + values[r2 + x]))
            + (d * (values[l3 + x] + values[r3 + x]) + e * (values[l4 + x] + values[r4 + x]))
        )


@njit(**OPTIONS)
def _add_two(result, values, at, step, n, weight, t):
    b, c = weight[t], weight[t + 1]
    l1, l2 = at - u64(t) * step, at - u64(t + 1) * step
    r1, r2 = at + u64(t) * step, at + u64(t + 1) * step
    for x in range(n):
        result[at + x] += b * (values[l1 + x] + values[r1 + x]) + c * (values[l2 + x] + values[r2 + x])


@njit(**OPTIONS)
def _add_four(result, values, at, step, n, weight, t):
    b, c, d, e = weight[t], weight[t + 1], weight[t + 2], weight[t + 3]
    l1, l2, l3, l4 = at - u64(t) * step, at - u64(t + 1) * step, at - u64(t + 2) * step, at - u64(t + 3) * step
    r1, r2, r3, r4 = at + u64(t) * step, at + u64(t + 1) * step, at + u64(t + 2) * step, at + u64(t + 3) * step
    for x in range(n):
        result[at + x] += (b * (values[l1 + x] + values[r1 + x]) + c * (values[l2 + x] + values[r2 + x])) + (
            d * (values[l3 + x] + values[r3 + x]) + e * (values[l4 + x] + values[r4 + x])
        )


@njit(**OPTIONS)
def _copy(target, at, values, begin, n):
    for x in range(n):
        target[at + x] = values[begin + x]
