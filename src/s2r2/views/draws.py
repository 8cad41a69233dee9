"""Random numbers and crops of a table of parameters, in one call without the GIL.

Many short NumPy calls in the threads that make views would hold up the thread that starts a GPU's kernels: each takes
the GIL and gives it back.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import math

import numpy as np

from s2r2.system.jit import njit

u64 = np.uint64
_GOLDEN, _FIRST, _SECOND = u64(0x9E3779B97F4A7C15), u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB)


@njit(nogil=True, error_model="numpy")
def draw_uniform(keys, uniform):
    """Fill ``uniform`` ``(N, numbers)`` float64 from the SplitMix64 streams that start at ``keys`` ``(N,)``."""
    for row in range(len(keys)):
        state = keys[row]
        for number in range(uniform.shape[1]):
            state = state + _GOLDEN
            z = (state ^ (state >> u64(30))) * _FIRST
            z = (z ^ (z >> u64(27))) * _SECOND
            z = z ^ (z >> u64(31))
            uniform[row, number] = (z >> u64(11)) * 2.0**-53


@njit(nogil=True, error_model="numpy")
def draw_crops(sizes, scales, log_ratios, uniform, tries, place, crops):
    """Fill ``crops`` ``(N, 4)`` int32 (top, left, height, width), as torchvision's RandomResizedCrop finds them.

    ``sizes`` ``(N, 2)`` int64 are heights and widths of the images, ``scales`` ``(N, 2)`` bounds of the crop's share
    of the area, ``log_ratios`` logarithms of the bounds of its ratio. Of a row's numbers the first ``tries`` make
    areas, the next ratios, and the two from ``place`` on its top and left.
    """
    narrow, wide = log_ratios
    for row in range(len(sizes)):
        rows, columns = float(sizes[row, 0]), float(sizes[row, 1])
        low, high = scales[row]
        height = width = 0.0
        for number in range(tries):
            area = rows * columns * (low + (high - low) * uniform[row, number])
            ratio = math.exp(narrow + (wide - narrow) * uniform[row, tries + number])
            width, height = np.rint(math.sqrt(area * ratio)), np.rint(math.sqrt(area / ratio))
            if 1 <= width <= columns and 1 <= height <= rows:
                top = math.floor(uniform[row, place] * (rows - height + 1))
                left = math.floor(uniform[row, place + 1] * (columns - width + 1))
                break
        else:  # the largest one in the center whose ratio is allowed
            shape, narrowest, widest = columns / rows, math.exp(narrow), math.exp(wide)
            width = np.rint(rows * widest) if shape > widest else columns
            height = np.rint(columns / narrowest) if shape < narrowest else rows
            width, height = min(max(width, 1.0), columns), min(max(height, 1.0), rows)
            top, left = (rows - height) // 2, (columns - width) // 2
        crops[row, 0], crops[row, 1] = np.int32(top), np.int32(left)
        crops[row, 2], crops[row, 3] = np.int32(height), np.int32(width)
