"""Formats that are read, by Pillow and, where their packages are installed, by libheif and LibRaw; what others are."""

import importlib.metadata
import importlib.util
import re
from functools import cache

import PIL
from PIL import features

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.raw import is_raw
from s2r2.images.decoding.tiff import is_tiff, why_not_read

DECODER = 3
"""Grows when files are read that were not, or other pixels come of them: pixel stores try them again."""


def is_installed(module: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(module) is not None


FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF"),
    *(("AVIF",) if features.check("avif") else ()),
    *(("JPEG2000",) if features.check("jpg_2000") else ()),
    *(("HEIF",) if is_installed("pillow_heif") else ()),
    *(("RAW",) if is_installed("rawpy") else ()),
)
"""Decoders that are tried; all others (EPS starts a program) are never given a stranger's file."""
READ = ", ".join(
    name
    for name, form in (
        *(("JPEG", "JPEG"), ("PNG", "PNG"), ("WebP", "WEBP"), ("BMP", "BMP"), ("TIFF", "TIFF"), ("GIF", "GIF")),
        *(("MPO", "JPEG"), ("AVIF", "AVIF"), ("JPEG 2000", "JPEG2000"), ("HEIC", "HEIF"), ("raw photos", "RAW")),
    )
    if form in FORMATS
)
"""What is read, for people."""
_PILLOWS = tuple(name for name in FORMATS if name not in ("HEIF", "RAW"))
_AVIF = ("avif", "avifs")
_JPEG_2000 = ("jp2", "j2k", "jpf", "jpx", "j2c", "jpc")
HEIC = ("heic", "heif", "hif", "heics", "heifs")
RAW = (
    *("dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "rwl", "raf", "pef", "srw", "x3f"),
    *("raw", "3fr", "fff", "iiq", "erf", "mrw", "kdc", "dcr", "gpr", "mos", "mef"),
)
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp", "bmp", "dib", "tif", "tiff", "gif"),
        *(_AVIF if "AVIF" in FORMATS else ()),
        *(_JPEG_2000 if "JPEG2000" in FORMATS else ()),
        *(HEIC if "HEIF" in FORMATS else ()),
        *(RAW if "RAW" in FORMATS else ()),
    )
)
"""Endings of the files that are read."""
NEEDS_HEIC = "needs pillow-heif: pip install 's2r2[heic]', or convert it to JPEG"
NEEDS_RAW = "needs rawpy: pip install 's2r2[raw]', or save it as JPEG or TIFF"

_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_PLAIN_BRANDS = frozenset((b"mif1", b"msf1"))


def openable(content: bytes) -> tuple[str, ...]:
    """Names of Pillow's decoders for a file; libheif's is added to them only for a HEIC photo.

    Raises:
        UnreadableImage: It is such a photo, and its package is not installed, or cannot be loaded.
    """
    if _container(content) == "HEIF":
        if "HEIF" not in FORMATS:
            raise UnreadableImage(f"a HEIC photo, which {NEEDS_HEIC}")
        _add_heif()
        return ("HEIF",)
    return _PILLOWS


def is_raw_photo(content: bytes) -> bool:
    """Whether LibRaw is to find the picture.

    Raises:
        UnreadableImage: It is a raw photo, and the package is not installed.
    """
    found = is_raw(content)
    if found and "RAW" not in FORMATS:
        raise UnreadableImage(f"a raw photo of a camera, which {NEEDS_RAW}")
    return found


def readers() -> dict[str, str | int | None]:
    """What decides which files are read, and how: versions of the decoders."""
    return {
        "decoder": DECODER,
        "pillow": PIL.__version__,
        "formats": " ".join(FORMATS),
        "pillow_heif": _version("pillow-heif") if "HEIF" in FORMATS else None,
        "rawpy": _version("rawpy") if "RAW" in FORMATS else None,
    }


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _add_heif() -> None:
    """Let Pillow open HEIC photos: the photo itself, not the pictures that come with it; no threads of its own."""
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImage(f"a HEIC photo, and pillow-heif cannot be loaded: {error}") from None
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _container(content: bytes) -> str:
    """What a file of boxes, as MP4 has them, is: HEIF, AVIF, RAW, or another; empty for other files."""
    if content[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(content[:4]), 400)
    first = content[8:12]
    brands = {first, *(content[start : start + 4] for start in range(16, end, 4))}
    if first in _HEIC_BRANDS:
        return "HEIF"
    if first in _AVIF_BRANDS or (first in _PLAIN_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    if first in _PLAIN_BRANDS:
        return "HEIF"
    return "RAW" if first == b"crx " else "another"


def unidentified(content: bytes) -> str:
    """Why a file is read by none of the decoders: what it is, and what to do."""
    known = next((name for name, begin in _BEGINNINGS.items() if name in FORMATS and begin.match(content)), None)
    container = _container(content)
    if container in FORMATS:
        known = "HEIC photo" if container == "HEIF" else container
    if known is not None:
        return f"damaged: a {known} whose header cannot be read"
    if container == "AVIF":
        return "an AVIF photo that this Pillow does not read: convert it to JPEG, or install Pillow 11.3 or newer"
    if container:
        return "a film, or a photo in a kind of MP4 that is not read"
    if is_tiff(content):
        return why_not_read(content)
    for start, what in _OTHERS:
        if content.startswith(start):
            return f"{what}, which is not read: convert it to JPEG or PNG"
    if content.lstrip()[:200].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page or drawing (HTML, XML or SVG) and no photo"
    if content.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and no photo: fetch the photos with git lfs pull"
    if not content.strip(b"\0"):
        return "nothing but zero bytes: the copy is damaged"
    return f"not an image in a format that is read ({READ})"


_BEGINNINGS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
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
    (b"\x1f\x8b", "a packed file (gzip)"),
    (b"PK\3\4", "a packed file (zip)"),
)
