"""Photos in object storage: a folder at an address, and a table."""

import re
from collections.abc import Sequence

from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.images.decoding.formats import READ
from s2r2.images.places import MAX_FILE_BYTES, Stamp
from s2r2.images.remote import files_below, is_remote, protocol
from s2r2.images.sources.joining import part_of
from s2r2.images.sources.kinds.manifest import open_table
from s2r2.images.sources.kinds.shards import open_shards
from s2r2.images.sources.labels import folder_labels
from s2r2.images.sources.names import is_helper, is_image, printable, raw_beside, unique, why_unread
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.remote_table import copied
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import FileSource, ImageSource

_TABLE = re.compile(r"(?P<address>[^?]+\.(csv|parquet)(\?[^:]*)?)(:(?P<part>[^/:?]+))?", re.IGNORECASE)


@register_source(
    "a folder or manifest at an address",
    "s3://bucket/photos/, or s3://bucket/photos.csv, whose relative paths are relative to the table",
    parts="those in its column split",
    priority=1,  # an address is no path: nobody need look for it on the disk; tars come first
)
def open_remote(data: Data) -> ImageSource | None:
    """All images below a folder of object storage, or those that a table there lists.

    A folder is listed once; images are read when they are needed, one request each. What is passed over, what is a
    problem, and what is a label are as in :func:`s2r2.images.sources.kinds.folder.open_folder`.

    Raises:
        S2R2Error: It cannot be listed or read, or there is no image.
    """
    if not is_remote(data.text):
        return None
    if table := _TABLE.fullmatch(data.text):
        path = copied(table["address"])
        return part_of(open_table(path, table["address"]), table["part"] or "")
    if protocol(data.text) in ("http", "https"):
        raise S2R2Error(
            f"{data.text} is no table (.csv, .parquet) and no .tar: folders on web servers cannot be listed, name "
            f"their photos in a table"
        )
    return _open_folder(data.text)


def _open_folder(address: str) -> ImageSource:
    found = files_below(address)
    if "" in found:
        raise S2R2Error(
            f"{address} is a file, but no table (.csv, .parquet) and no .tar: give the folder that it is in"
        )
    if not found:
        raise S2R2Error(f"there is nothing at {address}: check the name, in which capitals count")
    names = sorted(name for name in found if not any(map(is_helper, name.split("/"))))
    problems = [Skipped(printable(name), why) for name in names if (why := why_unread(name) or _why_not(name))]
    images = [name for name in names if is_image(name) and not _why_not(name)]
    twice = raw_beside(images)
    problems += [Skipped(printable(name), why) for name, why in twice.items()]
    images = [name for name in images if name not in twice]
    base = address.rstrip("/")
    if not images and (tars := [f"{base}/{name}" for name in names if "/" not in name and name.endswith(".tar")]):
        return open_shards(address, tars)
    if not images:
        hint = f" ({problems[0].key}: {problems[0].reason})" if problems else ""
        raise S2R2Error(f"no images in {printable(address)}{hint}: looked for {READ}")
    return _RemoteFolder(base, images, [found[name] for name in images], problems)


def _why_not(name: str) -> str:
    """Why a file cannot be asked for; empty for all others."""
    return "its name has :: in it, which means something else in an address" if "::" in name else ""


class _RemoteFolder(FileSource):
    """Images below an address, with their stamps as they were listed."""

    def __init__(
        self, address: str, images: Sequence[str], stamps: Sequence[Stamp], problems: Sequence[Skipped]
    ) -> None:
        keys = unique([printable(name) for name in images])
        paths = [f"{address}/{name}" for name in images]
        super().__init__(printable(address), keys, paths, folder_labels(keys), problems, identity=address)
        self._stamps = stamps

    def stamp(self, index: int) -> Stamp:
        """As the store listed it: nothing is asked for."""
        stamp = self._stamps[index]
        if isinstance(stamp[0], int) and stamp[0] > MAX_FILE_BYTES:
            raise UnreadableImage(f"a file of {stamp[0] / 1e9:.1f} GB")
        return stamp
