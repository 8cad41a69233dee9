"""Headers of strangers' files: what would cost time or memory without end is cut out, or refused, before a decoder.

Nothing here takes a step for each byte.
"""

import re
import struct
import zlib
from collections.abc import Collection

import numpy as np

MOST_SCANS = 100
"""Progressive JPEGs have about ten; each one more costs a pass over the whole image."""
MOST_SEGMENTS = 5_000
MOST_CHUNKS = 500_000
MOST_TAGS = 4_096
LARGEST_PROFILE = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf"))
_XMP = b"XML:com.adobe.xmp\0"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">", b"II\0*": "<", b"MM*\0": ">"}
_TIFF_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], float)


class Refused(Exception):
    """A header that no honest program writes; the text says what is wrong."""


def cleaned(content: bytes) -> bytes:
    """The same image with only the parts of its file that make its first picture.

    Comments, thumbnails, additional pictures, padding, and all but the first of what may come once only are left out.

    Raises:
        Refused: Decoding it would take time or memory without bound.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _gif(content)
    if content[:4] in _TIFF:
        _check_tiff(content)
    return content


def is_complete(jpeg: bytes) -> bool:
    """Whether a cleaned JPEG has its end marker."""
    return jpeg.endswith(b"\xff\xd9")


def unidentified(content: bytes, formats: Collection[str]) -> str:
    """Why a file is read by no decoder of these formats: what it is, and what to do."""
    known = next((name for name, begin in _BEGINNINGS.items() if name in formats and begin.match(content)), None)
    if known is not None:
        return f"damaged: a {known} whose header cannot be read"
    if content[4:8] == b"ftyp":
        brand = content[8:12]
        if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "a HEIC photo, which is not read: convert it to JPEG"
        if brand in (b"avif", b"avis"):
            return "an AVIF photo that this Pillow does not read: convert it to JPEG, or install Pillow 11.3 or newer"
        if brand == b"crx ":
            return "a raw photo of a camera, which is not read: convert it to JPEG or TIFF"
        return "a film, or a photo in a kind of MP4 that is not read"
    if content[:4] in _TIFF:
        return _tiff_kind(content)
    for start, what in _OTHERS:
        if content.startswith(start):
            return f"{what}, which is not read: convert it to JPEG or PNG"
    if content.lstrip()[:200].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page or drawing (HTML, XML or SVG) and no photo"
    if content.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and no photo: fetch the photos with git lfs pull"
    if not content.strip(b"\0"):
        return "nothing but zero bytes: the copy is damaged"
    return "not an image in a format that is read (JPEG, PNG, WebP, BMP, TIFF, GIF, MPO)"


_BEGINNINGS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}
_OTHERS = (
    (b"\xff\x0a", "a JPEG XL photo"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL photo"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 photo"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 photo"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF file"),
    (b"\0\0\1\0", "an icon"),
    (b"v/1\1", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance HDR file"),
    (b"FUJIFILM", "a raw photo of a camera"),
    (b"IIRO", "a raw photo of a camera"),
    (b"IIU\0", "a raw photo of a camera"),
    (b"\x1f\x8b", "a packed file (gzip)"),
    (b"PK\3\4", "a packed file (zip)"),
)


def _jpeg(content: bytes) -> bytes:
    """Without fill bytes, junk, comments, and what follows the end; of application segments those that matter."""
    kept, seen = [b"\xff\xd8"], set[bytes]()
    position, data, scans = 2, -1, 0
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(content, position)
        if found is None:
            break
        start, code = found.start(), content[found.start() + 1]
        if code == 0xD9:
            if data < 0:
                break
            return b"".join((*kept, content[data : start + 2]))
        if code in (0x01, 0xD8):
            position = start + 2
            continue
        position = start + 2 + max(2, int.from_bytes(content[start + 2 : start + 4]))
        if code == 0xDA:
            scans += 1
            data = start if data < 0 else data
            if scans > MOST_SCANS:
                raise Refused(f"refused: a JPEG of more than {MOST_SCANS} scans")
        elif data < 0 and _is_wanted(code, content[start + 4 : start + 40], seen):
            kept.append(content[start:position])
    else:
        raise Refused(f"refused: a JPEG of more than {MOST_SEGMENTS:,} segments")
    if data < 0:
        raise Refused("damaged: a JPEG without image data")
    return b"".join((*kept, content[data:]))


def _is_wanted(code: int, begin: bytes, seen: set[bytes]) -> bool:
    """Whether a segment before the image data says something about its pixels, or how they are to be turned."""
    if code == 0xE2:
        return begin.startswith(b"ICC_PROFILE\0")
    for marker, name in (
        (0xE0, b"JFIF"),
        (0xE1, b"Exif\0\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        (0xEE, b"Adobe"),
    ):
        if code == marker and begin.startswith(name) and name not in seen:
            seen.add(name)
            return True
    return code < 0xE0


def _png(content: bytes) -> bytes:
    """The chunks that make the picture, its pixels in one."""
    kept, seen, pixels = [_PNG], set[bytes](), []
    position = len(_PNG)
    for _ in range(MOST_CHUNKS):
        if position + 8 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind == b"IDAT":
            pixels.append(content[position + 8 : end - 4])
        elif kind == b"IEND":
            break
        elif kind not in seen and _is_kept(kind, content, position, end):
            seen.add(kind)
            kept.append(content[position:end])
        position = end
    else:
        raise Refused(f"refused: a PNG of more than {MOST_CHUNKS:,} chunks")
    if not pixels:
        raise Refused("damaged: a PNG without image data")
    data = b"".join(pixels)
    return b"".join((*kept, _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _is_kept(kind: bytes, content: bytes, position: int, end: int) -> bool:
    if kind == b"iTXt":
        return content.startswith(_XMP + b"\0", position + 8) and end - position <= LARGEST_PROFILE
    if kind == b"iCCP":
        _, _, packed = content[position + 8 : end - 4].partition(b"\0")
        try:
            return len(zlib.decompressobj().decompress(packed[1:], LARGEST_PROFILE)) < LARGEST_PROFILE
        except zlib.error:
            return False
    return kind in _PNG_KEPT


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((len(data).to_bytes(4), kind, data, zlib.crc32(data, zlib.crc32(kind)).to_bytes(4)))


def _gif(content: bytes) -> bytes:
    """The screen, the last control block before the first picture, and all from that picture on."""
    flags = content[10] if len(content) > 10 else 0
    position = start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control = b""
    for _ in range(MOST_CHUNKS):
        kind = content[position : position + 1]
        if kind == b",":
            return b"".join((content[:start], control, content[position:]))
        if kind == b"!":
            block = position
            position += 2
            while position < len(content) and content[position]:
                position += 1 + content[position]
                if position - block > len(content):
                    break
            position += 1
            if content[block + 1 : block + 2] == b"\xf9":
                control = content[block:position]
        elif not kind or kind == b";":
            raise Refused("damaged: a GIF without a picture")
        else:  # junk
            found = re.compile(rb"[,!;]").search(content, position)
            position = found.start() if found else len(content)
    raise Refused(f"refused: a GIF of more than {MOST_CHUNKS:,} blocks before its picture")


def _tags(content: bytes) -> np.ndarray | None:
    """Entries of a TIFF's first directory: ``tag``, ``type``, ``count``, ``value``; None if it lies outside."""
    order, big = _TIFF[content[:4]], b"+" in content[:4]
    wide, short = (f"{order}u8", f"{order}u8") if big else (f"{order}u4", f"{order}u2")
    try:
        offset = int(np.frombuffer(content, wide, 1, 8 if big else 4)[0])
        count = int(np.frombuffer(content, short, 1, offset)[0])
        if count > MOST_TAGS:
            raise Refused(f"refused: a TIFF of more than {MOST_TAGS:,} tags")
        row = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", wide), ("value", wide)])
        offset += 8 if big else 2
        return np.frombuffer(content, row, min(count, (len(content) - offset) // row.itemsize), offset)
    except (ValueError, OverflowError):
        return None


def _check_tiff(content: bytes) -> None:
    tags = _tags(content)
    if tags is not None:
        sizes = _TIFF_SIZES[np.minimum(tags["type"], len(_TIFF_SIZES) - 1)] * tags["count"].astype(float)
        if sizes.sum() > 2 * len(content) + LARGEST_PROFILE:
            raise Refused("damaged: a TIFF whose tags are larger than the file")


def _tiff_kind(content: bytes) -> str:
    tags = _tags(content)
    if tags is None or not len(tags):
        return "damaged: a TIFF without a directory"
    order = _TIFF[content[:4]]
    found: dict[int, int] = {}
    for entry in tags[np.isin(tags["tag"], (258, 259, 277, 339))]:
        value = entry["value"].tobytes() if entry["type"] != 3 or entry["count"] <= entry["value"].nbytes // 2 else b""
        if not value and int(entry["value"]) + 2 <= len(content):
            value = content[int(entry["value"]) : int(entry["value"]) + 2]
        if len(value) >= 2:
            found[int(entry["tag"])] = int(np.frombuffer(value[:2], f"{order}u2")[0])
    numbers = {1: "whole numbers", 2: "signed numbers", 3: "floating point", 5: "complex", 6: "complex"}
    return (
        f"a TIFF of a kind that is not read ({found.get(277, 1)} x {found.get(258, 1)} bits a pixel, "
        f"{numbers.get(found.get(339, 1), 'no usual numbers')}, compression {found.get(259, 1)}): "
        "convert it to whole numbers of 8 or 16 bits"
    )
