"""The file of a photo as it was when it was indexed, or none."""

import os

from s2r2.images import UnreadableImage
from s2r2.images.places import FilePlace, RemotePlace
from s2r2.images.remote import is_remote
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.rows import content_hash


def original_file(catalogue: Catalogue, row: int) -> bytes:
    """The content of the file that was indexed, or of the member of a tar.

    Args:
        catalogue: Of the index.
        row: Of the photo.

    Raises:
        UnreadableImage: It is gone, changed since, or now reached through a link; or there never was a file.
        S2R2Error: The store that it is in cannot be reached.
    """
    cell = {name: catalogue.table[name][row].as_py() for name in ("file", "offset", "bytes", "content")}
    file = os.fsdecode(cell["file"])
    if not file:
        raise UnreadableImage("it is no file of its own")
    if is_remote(file):
        content = RemotePlace(file, cell["offset"], cell["bytes"] if cell["offset"] else -1).read()
        if content_hash(content) != cell["content"]:
            raise UnreadableImage("it has changed since it was indexed")
        return content
    if os.path.realpath(file) != file:
        raise UnreadableImage("it is gone, or now reached through a link")
    whole = cell["offset"] == 0 and os.path.isfile(file)  # a tar's members begin later
    other_size = whole and os.path.getsize(file) != cell["bytes"]
    if other_size or content_hash(content := FilePlace(file, cell["offset"], cell["bytes"]).read()) != cell["content"]:
        raise UnreadableImage("it has changed since it was indexed")
    return content
