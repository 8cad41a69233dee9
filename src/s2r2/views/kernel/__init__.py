"""The fused kernel: from images and a table of parameters to normalized views, without the GIL.

For each view: crop and antialiased resize (:mod:`resize`), mirror, color jitter with exact hue in the row's own order
and grayscale (:mod:`jitter`), blur (:mod:`blur`), solarization, normalization and quarter turns (here). It agrees with
the torchvision float pipeline of :mod:`s2r2.views.reference` to 0.001/255 on average.

Two rules make the loops fast. Indices are unsigned, so that there are no wrap-around checks and the compiler makes
vector instructions of them; and rows are places in flat arrays, not slices, whose reference counts cost as much as a
row of arithmetic.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from s2r2.system.jit import njit
from s2r2.views.kernel.blur import BLUR_REACH, blur, blur_margin, blur_weights
from s2r2.views.kernel.jitter import jitter, saturate, solarise
from s2r2.views.kernel.resize import OPTIONS, crop_and_resize

__all__ = ["BLUR_REACH", "render_images"]

u64, f32 = np.uint64, np.float32


@intrinsic
def _pointer(typing_context, address):
    """The address of some bytes as a pointer to them."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.CPointer(types.uint8)(types.uint64), generate


@njit(**OPTIONS)
def render_images(
    addresses, sides, size, top, left, height, width, flip, flop, turns, jittered, order, factors, hue, grey, sigma,
    blur_kernel, solarised, mean, scale, bias, out,
):  # fmt: skip
    """Render the V views of each of B images, all of side ``size``.

    ``addresses`` ``(B,)`` uint64 says where the pixels ``(H, W, 3)`` uint8 of the images lie, C-contiguous; ``sides``
    ``(B, 2)`` their H and W. From ``top`` to ``sigma`` come columns of the table, ``B * V`` rows; ``blur_kernel`` is
    the blur's odd side in pixels. A pixel x in [0, 1] is written as ``(x - mean) * scale + bias`` into ``out``
    ``(B * V * 3 * P * P,)``, float32 or uint8.
    """
    views, plane = len(top) // len(sides), size * size
    longest = sides.max()
    taps = 2 * (longest // size) + 4  # a triangle is two supports wide, and a support at least 1
    first, count = np.empty((2, size), np.int64), np.empty((2, size), np.int64)
    weight = np.empty((2, size, taps), np.float32)
    gather, across = np.empty(size, np.uint32), np.empty(taps * size, np.float32)
    line = np.zeros(3 * longest + 3 * taps, np.float32)
    pixels = np.empty(3 * plane, np.float32)
    gauss = np.zeros(blur_margin(blur_kernel) + 1, np.float32)
    padded_side = size + 2 * blur_margin(blur_kernel)
    padded, half_blurred = (
        np.zeros(padded_side * padded_side, np.float32),
        np.zeros(padded_side * padded_side, np.float32),
    )
    turned = np.empty(plane, np.float32)
    for v in range(len(top)):
        rows, columns = sides[v // views]
        address = addresses[v // views]
        image = numba.carray(_pointer(address), (rows * columns * 3,), np.uint8)  # type: ignore[call-arg]
        crop_and_resize(
            image, columns, top[v], left[v], height[v], width[v], flip[v], flop[v], size, first, count, weight, gather,
            across, line, pixels,
        )  # fmt: skip
        if jittered[v]:
            jitter(pixels, plane, order[v], factors[v], hue[v])
        if grey[v]:
            saturate(pixels, u64(0), u64(plane), u64(plane), f32(0))
        if sigma[v] > 0 and blur_kernel > 1:
            reach = blur_weights(sigma[v], blur_kernel, gauss)
            for c in range(3):
                blur(pixels, c * plane, size, reach, gauss, padded, half_blurred)
        if solarised[v]:
            solarise(pixels)
        for c in range(3):
            at = (3 * v + c) * plane
            if turns[v]:
                _turn(pixels, c * plane, turned, size, turns[v])
                _write(out, u64(at), turned, u64(0), u64(plane), mean[c], scale[c], bias)
            else:
                _write(out, u64(at), pixels, u64(c * plane), u64(plane), mean[c], scale[c], bias)


@njit(**OPTIONS)
def _turn(pixels, begin, turned, size, turns):
    """Turn a plane counter-clockwise by so many quarters."""
    for q in range(size):
        for p in range(size):
            if turns == 1:
                turned[(size - 1 - p) * size + q] = pixels[begin + q * size + p]
            elif turns == 2:
                turned[(size - 1 - q) * size + size - 1 - p] = pixels[begin + q * size + p]
            else:
                turned[p * size + size - 1 - q] = pixels[begin + q * size + p]


@njit(**OPTIONS)
def _write(out, at, values, begin, n, mean, scale, bias):
    for x in range(n):
        out[at + x] = (values[begin + x] - mean) * scale + bias
