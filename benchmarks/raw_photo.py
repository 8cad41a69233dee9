"""A raw photo as cameras write it: a DNG whose first directory is a preview, with the sensor's values inside."""

import io
import struct

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
Tag = tuple[int, int, int, int | bytes]


def raw_photo(preview: bytes, smaller: bytes | None = None, orientation: int = 1, side: int = 64) -> bytes:
    """A DNG.

    Args:
        preview: A JPEG, which programs show; the first directory's, or, with a smaller one, inside like the sensor.
        smaller: A JPEG that is in the first directory then.
        orientation: EXIF's.
        side: Rows and columns of the sensor.
    """
    first, second = (preview, None) if smaller is None else (smaller, preview)
    sensor = np.random.default_rng(0).integers(0, 1000, (side, side)).astype("<u2").tobytes()
    places = [0] * 5
    for _ in range(2):  # the first time for the sizes
        inner = places[3:] if second else places[3:4]
        main: list[Tag] = [
            *_jpeg_tags(first, places[0]),
            (271, ASCII, 5, b"Test\0"), (272, ASCII, 5, b"Cam1\0"), (274, SHORT, 1, orientation),
            (330, LONG, len(inner), struct.pack(f"<{len(inner)}I", *inner)),
            (50706, BYTE, 4, bytes((1, 4, 0, 0))), (50707, BYTE, 4, bytes((1, 1, 0, 0))),
            (50708, ASCII, 10, b"Test Cam1\0"),
            (50721, SIGNED_RATIONAL, 9, struct.pack("<18i", *(n for one in np.eye(3).flat for n in (int(one), 1)))),
            (50728, RATIONAL, 3, struct.pack("<6I", *[1] * 6)), (50778, SHORT, 1, 21),
        ]  # fmt: skip
        colors: list[Tag] = [
            (254, LONG, 1, 0), (256, LONG, 1, side), (257, LONG, 1, side), (258, SHORT, 1, 16), (259, SHORT, 1, 1),
            (262, SHORT, 1, 32803), (273, LONG, 1, places[2]), (277, SHORT, 1, 1), (278, LONG, 1, side),
            (279, LONG, 1, len(sensor)), (33421, SHORT, 2, struct.pack("<2H", 2, 2)),
            (33422, BYTE, 4, bytes((0, 1, 1, 2))), (50717, LONG, 1, 1000),
        ]  # fmt: skip
        content = b"II*\0\x08\0\0\0" + _directory(8, main)
        places[3], content = len(content), content + _directory(len(content), colors)
        if second:
            places[4], content = len(content), content + _directory(len(content), _jpeg_tags(second, places[1]))
        for number, data in enumerate((first, second or b"", sensor)):
            places[number], content = len(content), content + data + bytes(len(data) % 2)
    return content


def _jpeg_tags(jpeg: bytes, place: int) -> list[Tag]:
    width, height = Image.open(io.BytesIO(jpeg)).size
    return [
        (254, LONG, 1, 1), (256, LONG, 1, width), (257, LONG, 1, height),
        (258, SHORT, 3, struct.pack("<3H", 8, 8, 8)), (259, SHORT, 1, 7), (262, SHORT, 1, 6), (273, LONG, 1, place),
        (277, SHORT, 1, 3), (278, LONG, 1, height), (279, LONG, 1, len(jpeg)),
    ]  # fmt: skip


def _directory(start: int, tags: list[Tag]) -> bytes:
    rows, behind = b"", b""
    place = start + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in sorted(tags, key=lambda row: row[0]):
        if isinstance(value, int):
            value = struct.pack("<I" if kind == LONG else "<Hxx", value)
        if len(value) > 4:
            behind, value = behind + value + bytes(len(value) % 2), struct.pack("<I", place + len(behind))
        rows += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return struct.pack("<H", len(tags)) + rows + bytes(4) + behind
