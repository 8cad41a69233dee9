"""Thumbnails of the photos of an index: small JPEGs in its rows, each with a checksum."""

import functools
import hashlib
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.layout import ROWS, DamagedIndex, IndexGone
from s2r2.search.storage.published import Published, read_published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows

_START, _JFIF = b"\xff\xd8", b"\xff\xe0"
_COMMENT = b"\xff\xfe\x00\x0a"  # JPEG's COM, of 2 + 8 bytes


class Thumbnails:
    """The thumbnails of an open index, which updates may replace at any time.

    Args:
        folder: Of the index.
        about: What was published when it was opened.
        catalogue: Of the same state.
    """

    def __init__(self, folder: Path, about: Published, catalogue: Catalogue) -> None:
        self._folder, self._about, self._catalogue = folder, about, catalogue

    @functools.cached_property
    def _rows(self) -> Rows:
        generation = self._folder / self._about.generation
        RowFiles(generation).check_for_reading()
        return Rows(generation / ROWS, version=self._about.version)

    def of(self, row: int) -> bytes:
        """The thumbnail of a photo.

        Raises:
            IndexGone: An update has changed or removed the photo, or was cut short, or the index was deleted.
            DamagedIndex: It is not what was written.
        """
        thumbnail = self._read(row)
        if thumbnail is not None and is_intact(thumbnail, self._catalogue.table["content"][row].as_py()):
            return thumbnail
        if read_published(self._folder) != self._about:
            raise IndexGone(f"an update of {self._folder} has changed or removed this photo: open it again")
        why = "its rows lack a photo" if thumbnail is None else "a thumbnail is not what was written"
        raise DamagedIndex(self._folder, why)

    def _read(self, row: int) -> bytes | None:
        identity, address = int(self._catalogue.ids[row]), int(self._catalogue.row_ids[row])
        try:
            found = self._rows.cell("thumbnail", identity, address)
        except (S2R2Error, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # LanceDB has no narrower class, and Rust's panics are no Exceptions
            raise why_gone(self._folder, self._about) from error
        return None if found is None else bytes(found)


def why_gone(folder: Path, about: Published) -> S2R2Error:
    """Why files of an open index are not there any more: replaced or deleted, or else damaged."""
    try:
        if read_published(folder) != about:
            return IndexGone(f"the index in {folder} was deleted or replaced: open it again")
        if RowFiles(folder / about.generation).cut_short():
            return IndexGone(f"an update of {folder} was cut short: run s2r2 index once more")
    except S2R2Error as error:
        return error
    return DamagedIndex(folder, "files of its rows are missing or damaged")


def seal(thumbnail: bytes, content: str) -> bytes:
    """A JPEG with a comment that says by a checksum that it is whole, and of which photo."""
    return thumbnail[:2] + _COMMENT + _thumbnail_check(thumbnail[2:], content) + thumbnail[2:]


def is_intact(thumbnail: bytes, content: str) -> bool:
    """Whether a thumbnail is what was written for the photo of that content; those of format 2 do not say."""
    start = 2 + len(_COMMENT)
    if thumbnail[:start] == _START + _COMMENT:
        return thumbnail[start : start + 8] == _thumbnail_check(thumbnail[start + 8 :], content)
    return thumbnail[:4] == _START + _JFIF


def _thumbnail_check(rest: bytes, content: str) -> bytes:
    return hashlib.blake2b(rest, digest_size=8, key=content.encode()[:64]).digest()
