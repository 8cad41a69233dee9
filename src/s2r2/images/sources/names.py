"""What images are called: one rule for names of files, of members of tars and of rows of tables, and for endings."""

import posixpath
import re
from collections.abc import Collection, Sequence

from s2r2.images.decoding.formats import EXTENSIONS, HEIC, NEEDS_HEIC, NEEDS_RAW, RAW

_SURROGATE = re.compile("[\ud800-\udfff]")

_HELPERS = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@tmp"),
    )
)

_PICTURES = (
    "avif avifs jxl jxr wdp hdp jp2 j2k jpf jpx jpm j2c jpc apng psd psb xcf svg svgz eps ico tga "
    "exr hdr pcx ppm pgm pbm pnm pfm dds qoi flif bpg fits fit dcm wmf emf"
)
_VIDEOS = "mp4 mov avi mkv webm m4v wmv mpg mpeg 3gp mts m2ts flv"
_ARCHIVES = "tar tgz tbz2 txz zip 7z rar gz bz2 xz zst"
_ARCHIVE = "an archive is not opened here: unpack it, or name a .tar as DATA of its own"
_UNREAD = (
    *((name, f"{name.upper()} is not read: convert it to JPEG, PNG or WebP") for name in _PICTURES.split()),
    *((name, f"{name.upper()} {NEEDS_HEIC}") for name in HEIC),
    *((name, f"{name.upper()}, raw data of a camera, {NEEDS_RAW}") for name in RAW),
    *((name, "a video: take pictures out of it with s2r2 frames") for name in _VIDEOS.split()),
    *((name, _ARCHIVE) for name in _ARCHIVES.split()),
)
_RAW = frozenset(f".{name}" for name in RAW)
_VIDEO_ENDINGS = frozenset(f".{name}" for name in _VIDEOS.split())
_SHOWN = frozenset((".jpg", ".jpeg", ".heic", ".heif", ".hif"))
_WHY_UNREAD = {f".{name}": reason for name, reason in _UNREAD}


def printable(text: str) -> str:
    """A name as text that can be written as UTF-8: bytes that are none become backslash escapes."""
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def ending(name: str) -> str:
    """The ending of a file's name in small letters, with its dot; blanks behind it do not count."""
    dot = name.rfind(".")
    return name[dot:].rstrip().lower() if dot > name.rfind("/") + 1 else ""


def is_image(name: str) -> bool:
    """Whether a file of this name is read: its ending says so."""
    return ending(name) in EXTENSIONS


def is_video(name: str) -> bool:
    """Whether a file is a video by its ending."""
    return ending(name) in _VIDEO_ENDINGS


def why_unread(name: str) -> str | None:
    """Why what people call a photo, a video or an archive is not read, and what to do; None for everything else."""
    return None if is_image(name) else _WHY_UNREAD.get(ending(name))


def raw_beside(names: Collection[str]) -> dict[str, str]:
    """Why raw photos are left out that a camera has written as JPEG or HEIC as well, in the same folder."""
    raws = [name for name in names if ending(name) in _RAW]
    shown = {name[: name.rfind(".")]: name for name in names if ending(name) in _SHOWN} if raws else {}
    pairs = ((name, shown.get(name[: name.rfind(".")])) for name in raws)
    return {
        name: f"the same photo as {printable(posixpath.basename(other))}, which is read"
        for name, other in pairs
        if other
    }


def is_helper(name: str) -> bool:
    """Whether a file or folder is one that systems and network drives make for themselves; hidden ones are, too."""
    return name.startswith(".") or name.lower() in _HELPERS


def inside(name: str) -> str:
    """A name as a place below a root that it cannot leave: ``./a``, ``/a``, ``b/../a``, ``x//a`` and ``../a``."""
    if name.startswith((".", "/")) or name.endswith("/") or "/." in name or "//" in name:
        return posixpath.normpath(f"/{name}").lstrip("/")
    return name


def unique(keys: Sequence[str]) -> Sequence[str]:
    """The same keys, the second of a name as ``NAME#2``, the third as ``NAME#3``, but never as one that is there."""
    taken = set(keys)
    if len(taken) == len(keys):
        return keys
    seen: set[str] = set()
    numbers: dict[str, int] = {}
    found = []
    for name in keys:
        key = name
        while key in seen or (key != name and key in taken):
            numbers[name] = numbers.get(name, 1) + 1
            key = f"{name}#{numbers[name]}"
        seen.add(key)
        found.append(key)
    return found
