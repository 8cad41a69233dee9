"""The fused kernel: one pass from an image and a row of parameters to a normalised view.

Crop, antialiased resize, mirror, colour jitter with exact hue, greyscale, blur, solarisation and normalisation,
compiled by numba without the GIL, so that threads scale. It agrees with the torchvision float pipeline of
:mod:`s2r2.views.reference` to 0.001/255 on average. Loops run over slices of planes, never over computed indices:
without wrap-around checks they become vector instructions.
"""

import math
from typing import Any

import numba
import numpy as np

_OPTIONS: dict[str, Any] = {"fastmath": True, "cache": True, "nogil": True, "error_model": "numpy"}
_f32 = np.float32
_ZERO, _ONE, _TWO, _FOUR, _SIX = _f32(0), _f32(1), _f32(2), _f32(4), _f32(6)
_RED, _GREEN, _BLUE = _f32(0.2989), _f32(0.587), _f32(0.114)  # torchvision's weights of grey
BLUR_REACH = 4.5
"""The blur's kernel is cut where it has fallen to 4e-5 of its peak, far below a 255th of a 255th."""


@numba.njit(**_OPTIONS)
def render_image(
    image, size, top, left, height, width, flip, flop, turns, jitter, order, factors, hue, grey, sigma, blur_kernel,
    solarise, mean, scale, bias, out,
):  # fmt: skip
    """Render the V views of one image, all of side ``size``, into ``out`` ``(V, 3, size, size)``.

    A pixel x in [0, 1] is written as ``(x - mean) * scale + bias``; all other arguments are columns of the table.
    """
    rows, columns = image.shape[0], image.shape[1]
    source = image.reshape(rows, 3 * columns)
    taps = 2 * (max(rows, columns) // size) + 4  # a triangle is two supports wide, and a support at least 1
    row_first, row_count = np.empty(size, np.int32), np.empty(size, np.int32)
    row_weight = np.empty((size, taps), np.float32)
    column_first, column_count = np.empty(size, np.int32), np.empty(size, np.int32)
    column_weight = np.empty((size, taps), np.float32)
    gather = np.empty(size, np.uint32)
    across = np.empty((taps, size), np.float32)
    line = np.zeros(3 * columns + 3 * taps, np.float32)
    planes, spare = np.empty((3, size * size), np.float32), np.empty((3, size * size), np.float32)
    for v in range(len(top)):
        _taps(top[v], height[v], size, row_first, row_count, row_weight)
        _taps(left[v], width[v], size, column_first, column_count, column_weight)
        most = column_count.max()
        across[:most] = _ZERO
        for p in range(size):
            target = size - 1 - p if flip[v] else p
            gather[target] = 3 * column_first[p]
            for t in range(column_count[p]):
                across[t, target] = column_weight[p, t] * _f32(1 / 255)
        begin, end = 3 * left[v], 3 * (left[v] + width[v])
        for q in range(size):
            target = size - 1 - q if flop[v] else q
            part = line[begin:end]
            _sum_rows(part, source, begin, end, row_first[q], row_count[q], row_weight[q])
            red = planes[0, target * size : target * size + size]
            green = planes[1, target * size : target * size + size]
            blue = planes[2, target * size : target * size + size]
            _gather_first(red, green, blue, across[0], gather, line)
            for t in range(1, most):
                _gather_add(red, green, blue, across[t], gather, line[3 * t :])
        now, other = planes, spare
        if jitter[v]:
            now, other = _jitter(now, other, order[v], factors[v], hue[v])
        if grey[v]:
            _saturate(now[0], now[1], now[2], other[0], other[1], other[2], _ZERO)
            now, other = other, now
        if sigma[v] > 0 and blur_kernel > 1:
            _blur(now, other, size, sigma[v], blur_kernel)
            now, other = other, now
        if solarise[v]:
            _solarise(now.reshape(3 * size * size))
        for c in range(3):
            if turns[v]:
                _turn(now[c], other[c], size, turns[v])
                _write(out[v, c].reshape(size * size), other[c], mean[c], scale[c], bias)
            else:
                _write(out[v, c].reshape(size * size), now[c], mean[c], scale[c], bias)


@numba.njit(**_OPTIONS)
def _taps(start, length, size, first, count, weight):
    """Triangle filter of an antialiased resize of ``length`` pixels from ``start`` to ``size``."""
    scale = length / size
    support = max(scale, 1.0)
    for p in range(size):
        centre = start + (p + 0.5) * scale
        low = max(int(centre - support + 0.5), start)
        high = min(int(centre + support + 0.5), start + length)
        total = 0.0
        for j in range(low, high):
            w = max(0.0, 1.0 - abs((j + 0.5 - centre) / support))
            weight[p, j - low] = w
            total += w
        for j in range(high - low):
            weight[p, j] /= total
        first[p], count[p] = low, high - low


@numba.njit(**_OPTIONS)
def _sum_rows(part, source, begin, end, first, count, weight):
    """Weighted sum of ``count`` rows of the crop, two at a time."""
    if count == 1:
        _row(part, source[first, begin:end])
        return
    _two_rows(part, source[first, begin:end], source[first + 1, begin:end], weight[0], weight[1])
    j = 2
    while j + 1 < count:
        _add_two_rows(part, source[first + j, begin:end], source[first + j + 1, begin:end], weight[j], weight[j + 1])
        j += 2
    if j < count:
        _add_row(part, source[first + j, begin:end], weight[j])


@numba.njit(**_OPTIONS)
def _row(part, a):
    for x in range(part.shape[0]):
        part[x] = _f32(a[x])


@numba.njit(**_OPTIONS)
def _two_rows(part, a, b, f, g):
    for x in range(part.shape[0]):
        part[x] = f * _f32(a[x]) + g * _f32(b[x])


@numba.njit(**_OPTIONS)
def _add_two_rows(part, a, b, f, g):
    for x in range(part.shape[0]):
        part[x] += f * _f32(a[x]) + g * _f32(b[x])


@numba.njit(**_OPTIONS)
def _add_row(part, a, f):
    for x in range(part.shape[0]):
        part[x] += f * _f32(a[x])


@numba.njit(**_OPTIONS)
def _gather_first(red, green, blue, weight, gather, line):
    for p in range(gather.shape[0]):
        e = np.uint64(gather[p])
        w = weight[p]
        red[p] = w * line[e]
        green[p] = w * line[e + np.uint64(1)]
        blue[p] = w * line[e + np.uint64(2)]


@numba.njit(**_OPTIONS)
def _gather_add(red, green, blue, weight, gather, line):
    for p in range(gather.shape[0]):
        e = np.uint64(gather[p])
        w = weight[p]
        red[p] += w * line[e]
        green[p] += w * line[e + np.uint64(1)]
        blue[p] += w * line[e + np.uint64(2)]


@numba.njit(**_OPTIONS)
def _jitter(now, other, order, factors, hue):
    """Brightness, contrast, saturation and hue in the row's own order, clamped after each, as torchvision does."""
    n = now.shape[1]
    for step in range(4):
        operation = order[step]
        if operation == 0:
            _brightness(now.reshape(3 * n), factors[0])
        elif operation == 1:
            mean = _mean_grey(now[0], now[1], now[2])
            _contrast(now.reshape(3 * n), factors[1], (_ONE - factors[1]) * mean)
        elif operation == 2:
            _saturate(now[0], now[1], now[2], other[0], other[1], other[2], factors[2])
            now, other = other, now
        elif hue != _ZERO:
            _hue(now[0], now[1], now[2], other[0], other[1], other[2], hue * _SIX)
            now, other = other, now
    return now, other


@numba.njit(**_OPTIONS)
def _brightness(values, factor):
    for x in range(values.shape[0]):
        values[x] = min(values[x] * factor, _ONE)


@numba.njit(**_OPTIONS)
def _mean_grey(red, green, blue):
    total = _ZERO
    for x in range(red.shape[0]):
        total += _RED * red[x] + _GREEN * green[x] + _BLUE * blue[x]
    return total / _f32(red.shape[0])


@numba.njit(**_OPTIONS)
def _contrast(values, factor, offset):
    for x in range(values.shape[0]):
        values[x] = max(_ZERO, min(values[x] * factor + offset, _ONE))


@numba.njit(**_OPTIONS)
def _saturate(red, green, blue, new_red, new_green, new_blue, factor):
    rest = _ONE - factor
    for x in range(red.shape[0]):
        r, g, b = red[x], green[x], blue[x]
        grey = rest * (_RED * r + _GREEN * g + _BLUE * b)
        new_red[x] = max(_ZERO, min(r * factor + grey, _ONE))
        new_green[x] = max(_ZERO, min(g * factor + grey, _ONE))
        new_blue[x] = max(_ZERO, min(b * factor + grey, _ONE))


@numba.njit(**_OPTIONS)
def _hue(red, green, blue, new_red, new_green, new_blue, shift):
    """Turn the hue by ``shift`` sixths of the circle: value and chroma stay, without branches."""
    for x in range(red.shape[0]):
        r, g, b = red[x], green[x], blue[x]
        top = max(r, max(g, b))
        chroma = top - min(r, min(g, b))
        inverse = _ONE / max(chroma, _f32(1e-12))
        from_red, from_green, from_blue = (g - b) * inverse, (b - r) * inverse + _TWO, (r - g) * inverse + _FOUR
        h = from_green if top == g else from_blue
        h = from_red if top == r else h
        h += shift
        h += _SIX if h < _ZERO else _ZERO
        h -= _SIX if h >= _SIX else _ZERO
        five, three, one = h + _f32(5), h + _f32(3), h + _ONE
        five -= _SIX if five >= _SIX else _ZERO
        three -= _SIX if three >= _SIX else _ZERO
        one -= _SIX if one >= _SIX else _ZERO
        new_red[x] = top - chroma * max(_ZERO, min(_ONE, min(five, _FOUR - five)))
        new_green[x] = top - chroma * max(_ZERO, min(_ONE, min(three, _FOUR - three)))
        new_blue[x] = top - chroma * max(_ZERO, min(_ONE, min(one, _FOUR - one)))


@numba.njit(**_OPTIONS)
def _blur(now, other, size, sigma, kernel):
    """Separable Gaussian with reflected borders, rows and columns of a line of the view in one go."""
    reach = min(kernel // 2, math.ceil(BLUR_REACH * sigma))
    weight = np.empty(reach + 1, np.float32)
    total = 0.0
    for t in range(reach + 1):
        w = math.exp(-0.5 * (t / sigma) ** 2)
        weight[t] = w
        total += w if t == 0 else 2 * w
    for t in range(reach + 1):
        weight[t] = weight[t] / total
    column = np.empty(size, np.float32)
    padded = np.empty(size + 2 * reach, np.float32)
    for c in range(3):
        plane = now[c]
        for q in range(size):
            _weighted(column, plane[q * size : q * size + size], weight[0])
            for t in range(1, reach + 1):
                up = abs(q - t)
                down = q + t
                if down > size - 1:
                    down = 2 * (size - 1) - down
                above, below = plane[up * size : up * size + size], plane[down * size : down * size + size]
                _add_pair(column, above, below, weight[t])
            padded[reach : reach + size] = column
            for t in range(1, reach + 1):
                padded[reach - t] = column[t]
                padded[reach + size - 1 + t] = column[size - 1 - t]
            result = other[c, q * size : q * size + size]
            _weighted(result, padded[reach : reach + size], weight[0])
            for t in range(1, reach + 1):
                _add_pair(result, padded[reach - t : reach - t + size], padded[reach + t : reach + t + size], weight[t])


@numba.njit(**_OPTIONS)
def _weighted(result, values, weight):
    for x in range(result.shape[0]):
        result[x] = weight * values[x]


@numba.njit(**_OPTIONS)
def _add_pair(result, a, b, weight):
    for x in range(result.shape[0]):
        result[x] += weight * (a[x] + b[x])


@numba.njit(**_OPTIONS)
def _solarise(values):
    for x in range(values.shape[0]):
        values[x] = _ONE - values[x] if values[x] >= _f32(0.5) else values[x]


@numba.njit(**_OPTIONS)
def _turn(plane, turned, size, turns):
    for q in range(size):
        for p in range(size):
            if turns == 1:
                turned[(size - 1 - p) * size + q] = plane[q * size + p]
            elif turns == 2:
                turned[(size - 1 - q) * size + size - 1 - p] = plane[q * size + p]
            else:
                turned[p * size + size - 1 - q] = plane[q * size + p]


@numba.njit(**_OPTIONS)
def _write(target, values, mean, scale, bias):
    for x in range(values.shape[0]):
        target[x] = (values[x] - mean) * scale + bias
