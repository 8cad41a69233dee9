"""Colors that HEIC and AVIF name by numbers (ITU-T H.273) instead of a profile: the same as a profile."""

import struct
from functools import cache

import numpy as np

_COLORS = {
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
"""Red, green and blue as x and y, for what is not sRGB's."""
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_WHITE = (0.3127, 0.3290)
_D50 = (0.9642, 1.0, 0.8249)
_PQ, _HLG = 16, 18
_PAPER = 203.0
"""Nits of white paper in PQ (ITU-R BT.2408); what is brighter is shown as white."""
_HLG_PAPER = 0.75
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(content: bytes) -> bytes | None:
    """An ICC profile of the colors that a HEIC or AVIF file names; None if they are sRGB's, or not named by numbers."""
    start = content.find(b"colrnclx", 0, 1 << 16) if content[4:8] == b"ftyp" else -1
    if start < 0 or start + 12 > len(content):
        return None
    primaries, transfer = struct.unpack_from(">HH", content, start + 8)
    if primaries not in _COLORS and transfer not in (_PQ, _HLG):
        return None
    return _profile(primaries, transfer)


@cache
def _profile(primaries: int, transfer: int) -> bytes:
    colors = _to_d50(_COLORS.get(primaries, _SRGB))
    curve = b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *np.rint(65535 * _linear(transfer)).astype(int).tolist())
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colors.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    start, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    white = b"".join(_fixed(value) for value in _D50)
    header = struct.pack(">I4sI4s4s4s", start + len(data), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _linear(transfer: int) -> np.ndarray:
    """Light of 1,024 levels, 1 being white paper: by sRGB's curve where there is no other."""
    level = np.linspace(0, 1, 1024)
    if transfer == _PQ:
        root = level ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return np.minimum(light * 10_000 / _PAPER, 1)
    if transfer == _HLG:
        low, high = level**2 / 3, (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(level <= 0.5, low, high)
        return np.minimum(light / light[round(1023 * _HLG_PAPER)], 1)
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def _to_d50(colors: tuple[tuple[float, float], ...]) -> np.ndarray:
    """XYZ of full red, green and blue in the columns, seen by an eye that is used to D50."""
    x, y = np.array(colors).T
    unscaled = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    white = np.array([_WHITE[0] / _WHITE[1], 1, (1 - sum(_WHITE)) / _WHITE[1]])
    scale = np.diag((_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white))
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ (unscaled * np.linalg.solve(unscaled, white))
    return adapted


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(float(value)) for value in values)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
