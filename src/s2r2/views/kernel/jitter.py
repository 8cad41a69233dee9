"""Colour operations on three planes of floats in [0, 1], one after another in a flat array, in place.

Each clamps its result, as torchvision's do.
"""

import numpy as np

from s2r2.system.jit import njit
from s2r2.views.kernel.resize import OPTIONS

u64, f32 = np.uint64, np.float32
_CONTRAST = 1  # its number in the order
_BLOCK = 2048  # pixels; their three planes fill 24 KiB
_ZERO, _ONE, _TWO, _FOUR, _SIX = f32(0), f32(1), f32(2), f32(4), f32(6)
_RED, _GREEN, _BLUE = f32(0.2989), f32(0.587), f32(0.114)  # torchvision's weights of gray


@njit(**OPTIONS)
def jitter(pixels, plane, order, factors, hue):
    """Brightness, contrast, saturation and hue in the row's own order.

    Block by block, so that a block's pixels stay in the innermost cache from one operation to the next. Contrast needs
    the mean of the whole view, so what comes before it is one round over the blocks and the rest another.
    """
    contrast = 0
    while order[contrast] != _CONTRAST:
        contrast += 1
    total = 0.0
    for begin in range(0, plane, _BLOCK):
        a, n = u64(begin), u64(min(_BLOCK, plane - begin))
        _operations(pixels, a, n, u64(plane), order, 0, contrast, factors, hue)
        total += _sum_of_grey(pixels, a, n, u64(plane))
    offset = (_ONE - factors[_CONTRAST]) * f32(total / plane)
    for begin in range(0, plane, _BLOCK):
        a, n = u64(begin), u64(min(_BLOCK, plane - begin))
        for c in range(3):
            _contrast(pixels, a + u64(c * plane), n, factors[_CONTRAST], offset)
        _operations(pixels, a, n, u64(plane), order, contrast + 1, 4, factors, hue)


@njit(**OPTIONS)
def _operations(pixels, a, n, plane, order, begin, end, factors, hue):
    for step in range(begin, end):
        operation = order[step]
        if operation == 0:
            for c in range(3):
                _brighten(pixels, a + u64(c) * plane, n, factors[0])
        elif operation == 2:
            saturate(pixels, a, n, plane, factors[2])
        elif hue != _ZERO:
            _turn_hue(pixels, a, n, plane, hue * _SIX)


@njit(**OPTIONS)
def _brighten(pixels, a, n, factor):
    for x in range(n):
        pixels[a + x] = min(pixels[a + x] * factor, _ONE)


@njit(**OPTIONS)
def _sum_of_grey(pixels, a, n, plane):
    b, c = a + plane, a + plane + plane
    total = _ZERO
    for x in range(n):
        total += _RED * pixels[a + x] + _GREEN * pixels[b + x] + _BLUE * pixels[c + x]
    return total


@njit(**OPTIONS)
def _contrast(pixels, a, n, factor, offset):
    """Blend with the mean gray of the view; ``offset`` is the mean times ``1 - factor``."""
    for x in range(n):
        pixels[a + x] = max(_ZERO, min(pixels[a + x] * factor + offset, _ONE))


@njit(**OPTIONS)
def saturate(pixels, a, n, plane, factor):
    """Blend each of ``n`` pixels from ``a`` on with its gray; factor 0 is grayscale."""
    rest = _ONE - factor
    b, c = a + plane, a + plane + plane
    for x in range(n):
        red, green, blue = pixels[a + x], pixels[b + x], pixels[c + x]
        grey = rest * (_RED * red + _GREEN * green + _BLUE * blue)
        pixels[a + x] = max(_ZERO, min(red * factor + grey, _ONE))
        pixels[b + x] = max(_ZERO, min(green * factor + grey, _ONE))
        pixels[c + x] = max(_ZERO, min(blue * factor + grey, _ONE))


@njit(**OPTIONS)
def _turn_hue(pixels, a, n, plane, shift):
    """Turn the hue by ``shift`` sixths of the circle (HSV, exactly): value and chroma stay.

    Where two channels are both the largest, either gives the same hue; where chroma is 0, it does not matter.
    """
    second, third = a + plane, a + plane + plane
    for x in range(n):
        r, g, b = pixels[a + x], pixels[second + x], pixels[third + x]
        top = max(r, max(g, b))
        chroma = top - min(r, min(g, b))
        inverse = _ONE / max(chroma, f32(1e-12))
        from_red, from_green, from_blue = (g - b) * inverse, (b - r) * inverse + _TWO, (r - g) * inverse + _FOUR
        h = from_green if top == g else from_blue
        h = from_red if top == r else h
        h += shift
        h += _SIX if h < _ZERO else _ZERO
        h -= _SIX if h >= _SIX else _ZERO
        five, three, one = h + f32(5), h + f32(3), h + _ONE
        five -= _SIX if five >= _SIX else _ZERO
        three -= _SIX if three >= _SIX else _ZERO
        one -= _SIX if one >= _SIX else _ZERO
        pixels[a + x] = top - chroma * max(_ZERO, min(_ONE, min(five, _FOUR - five)))
        pixels[second + x] = top - chroma * max(_ZERO, min(_ONE, min(three, _FOUR - three)))
        pixels[third + x] = top - chroma * max(_ZERO, min(_ONE, min(one, _FOUR - one)))


@njit(**OPTIONS)
def solarise(pixels):
    """Invert what is at least one half."""
    for x in range(u64(pixels.shape[0])):
        pixels[x] = _ONE - pixels[x] if pixels[x] >= f32(0.5) else pixels[x]
