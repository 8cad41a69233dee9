"""Headers of strangers' files: what would cost time or memory without end is cut out, or refused, before a decoder.

Nothing here takes a step for each byte.
"""

import re
import struct
import zlib

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.tiff import is_tiff, shown_page

MOST_SCANS = 100
"""Progressive JPEGs have about ten; each one more costs a pass over the whole image."""
MOST_SEGMENTS = 5_000
MOST_CHUNKS = 500_000
MOST_BOXES = 1_000
LARGEST_PROFILE = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf"))
_XMP = b"XML:com.adobe.xmp\0"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def cleaned(content: bytes) -> bytes:
    """The same image with only the parts of its file that make its first picture, of a TIFF its largest page.

    Comments, thumbnails, additional pictures, padding, and all but the first of what may come once only are left out.

    Raises:
        UnreadableImage: Decoding it would take time or memory without bound.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _gif(content)
    if content[4:8] == b"ftyp":
        _check_boxes(content)
    return shown_page(content) if is_tiff(content) else content


def is_complete(jpeg: bytes) -> bool:
    """Whether a cleaned JPEG has its end marker."""
    return jpeg.endswith(b"\xff\xd9")


def _check_boxes(content: bytes) -> None:
    """Refuse HEIC and AVIF without the end of their data: libheif would show grey in its place."""
    position = 0
    for _ in range(MOST_BOXES):
        length, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        if length == 1:
            length = int.from_bytes(content[position + 8 : position + 16])
        if length < 8 or len(kind) < 4:  # the last box, or what a phone has put behind it
            return
        position += length
        if position > len(content) and kind in (b"mdat", b"meta"):
            raise UnreadableImage("damaged: the file ends before the image does")


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
                raise UnreadableImage(f"refused: a JPEG of more than {MOST_SCANS} scans")
        elif data < 0 and _is_wanted(code, content[start + 4 : start + 40], seen):
            kept.append(content[start:position])
    else:
        raise UnreadableImage(f"refused: a JPEG of more than {MOST_SEGMENTS:,} segments")
    if data < 0:
        raise UnreadableImage("damaged: a JPEG without image data")
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
        raise UnreadableImage(f"refused: a PNG of more than {MOST_CHUNKS:,} chunks")
    if not pixels:
        raise UnreadableImage("damaged: a PNG without image data")
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
            raise UnreadableImage("damaged: a GIF without a picture")
        else:  # junk
            found = re.compile(rb"[,!;]").search(content, position)
            position = found.start() if found else len(content)
    raise UnreadableImage(f"refused: a GIF of more than {MOST_CHUNKS:,} blocks before its picture")
