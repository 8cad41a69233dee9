"""The files of photos as they are now: their sides, their pixels, and whether they are still what was indexed."""

import contextlib
from dataclasses import dataclass

from s2r2.errors import UnreadableImage
from s2r2.images import decode_expendable
from s2r2.images.decoding.pool import size_expendable
from s2r2.search.index import ImageIndex
from s2r2.search.photo_reader import hash_of_pixels


@dataclass(frozen=True)
class Original:
    """A photo's file.

    Attributes:
        row: Row of the photo in the index.
        there: Whether the file is there and what was indexed.
        width: Of the upright picture in pixels; 0 if the file is not there or cannot be read.
        height: Likewise.
        bytes: Of the file when it was indexed.
    """

    row: int
    there: bool
    width: int
    height: int
    bytes: int


def look_at(index: ImageIndex, row: int) -> Original:
    """Look at a photo's file; one that is gone or changed is no error."""
    content = index.original(row)
    width = height = 0
    if content is not None:
        with contextlib.suppress(UnreadableImage):  # by now: it was read when it was indexed
            width, height = size_expendable(content)
    return Original(row, content is not None, width, height, index.catalogue.table["bytes"][row].as_py())


def pixels_of(index: ImageIndex, row: int) -> str | None:
    """Hash of a photo's decoded pixels; None if its file is gone or changed, or cannot be read."""
    content = index.original(row)
    if content is None:
        return None
    try:
        return hash_of_pixels(decode_expendable(content))
    except UnreadableImage:
        return None
