"""What a pool and its worker processes say to each other; :mod:`s2r2.images.decoding.worker` says in which order."""

from typing import NamedTuple

import numpy as np

from s2r2.images.decoding.decoder import Part
from s2r2.images.decoding.facts import PhotoFacts

HEADER = np.dtype(
    [
        *(("status", "u1"), ("height", "<u4"), ("width", "<u4"), ("content", "<u4"), ("pixels", "<u4")),
        *(("bytes", "<u8"), ("facts", "<u4")),
    ]
)
DECODED, UNREADABLE, UNCHANGED, SIZE, ASKING, FACTS = range(6)
"""What an answer says: pixels follow; a reason follows; the file is as its checksum says; only the sides were asked; no
answer yet, may so many thousand pixels (``content``) be made?; only what the file says of the photo was asked."""

READY = b"+"


class Settings(NamedTuple):
    """What holds for all jobs of a request.

    Attributes:
        short_side: Images are reduced to this shorter side; None keeps their size.
        max_pixels: Larger images are refused.
        part: Only this part of each image.
        seconds: Computing time after which an image is given up, and its process with it.
        facts: What the file says of the photo is wanted beside its pixels.
    """

    short_side: int | None
    max_pixels: int
    part: Part | None = None
    seconds: float = 60.0
    facts: bool = False


class Job(NamedTuple):
    """A file to decode.

    Attributes:
        path: The file.
        offset: Where the image begins in it.
        size: Its bytes; -1 to the file's end.
        checksum: CRC-32 of the file as it is known; if that is still so, it is not decoded. -1 if unknown.
        kind: ``"pixels"``; ``"size"`` or ``"facts"`` to read the header only.
        content: The image itself in place of a file.
    """

    path: str
    offset: int = 0
    size: int = -1
    checksum: int = -1
    kind: str = "pixels"
    content: bytes | None = None


class Answer(NamedTuple):
    """What became of a job: one of the worker's statuses, pixels or a reason, and facts where they are wanted."""

    status: int
    height: int
    width: int
    content_checksum: int
    pixel_checksum: int
    payload: bytes | memoryview
    facts: PhotoFacts | None = None

    @property
    def reason(self) -> str:
        """Why the image cannot be read."""
        return bytes(self.payload).decode("utf-8", "replace") if self.status == UNREADABLE else ""
