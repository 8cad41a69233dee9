"""Raw photos of cameras: the preview that the camera has put into them, found by LibRaw (the extra ``raw``)."""

import io

from PIL import Image

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.tiff import is_raw_tiff, is_tiff

_BEGINNINGS = (
    b"FUJIFILM",
    b"FOVb",
    b"\0MRM",
    b"IIRO",
    b"IIRS",
    b"IIU\0",
    b"II\x1a\0\0\0HEAP",
    b"MMOR",
    b"IIII",
    b"MMMM",
)
_ORIENTATIONS = (1, 2, 4, 3, 5, 8, 6, 7)
"""EXIF's number of each of LibRaw's turns."""


def is_raw(content: bytes) -> bool:
    """Whether a file is a raw photo, by what it begins with and, where that is a TIFF, by what is in it."""
    if is_tiff(content):
        return is_raw_tiff(content)
    return content.startswith(_BEGINNINGS) or content[4:12] == b"ftypcrx "


def preview(content: bytes) -> bytes:
    """The largest picture in a raw photo, as a JPEG or PNG file with its orientation.

    Raises:
        UnreadableImage: There is none, or the file is damaged, or rawpy cannot be loaded.
    """
    try:
        import rawpy
    except ImportError as error:
        raise UnreadableImage(f"a raw photo of a camera, and rawpy cannot be loaded: {error}") from None
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            found, turn = raw.extract_thumb(), raw.sizes.flip
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise UnreadableImage("a raw photo without a preview that is read: save it as JPEG or TIFF") from None
    except rawpy.LibRawError as error:
        said = error.args[0] if error.args else ""
        line = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise UnreadableImage(f"damaged: a raw photo of a camera ({line or type(error).__name__})") from None
    if isinstance(found.data, bytes):
        return found.data
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = _ORIENTATIONS[turn % 8]
    Image.fromarray(found.data).save(file, "PNG", compress_level=0, exif=exif)
    return file.getvalue()
