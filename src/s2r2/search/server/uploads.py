"""Taking a photo from the browser: little enough, in time, and an image."""

import asyncio

import numpy as np
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding import Part

MAX_BYTES = 24 << 20
MAX_UPLOAD_PIXELS = 64_000_000
SECONDS = 30.0
DECODING_SECONDS = 10.0
_AT_ONCE = 8


class Uploads:
    """Reads uploads, a few at a time so that memory stays bounded whatever is sent."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            HTTPException: 415 not an image by its type, 413 too large, 408 too slow, 400 empty or broken off.
        """
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise HTTPException(415, "send the image itself, with its type, such as image/jpeg")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "send the image without content encoding")
        stated = request.headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdecimal():
            raise HTTPException(400, "content-length is not a number")
        if len(stated) > 15 or int(stated) > MAX_BYTES:
            raise HTTPException(413, f"the image is larger than {MAX_BYTES >> 20} MB")
        try:
            async with asyncio.timeout(SECONDS):
                content = bytearray()
                async for piece in request.stream():
                    content += piece
                    if len(content) > MAX_BYTES:
                        raise HTTPException(413, f"the image is larger than {MAX_BYTES >> 20} MB")
        except ClientDisconnect:  # also what uvicorn makes of malformed chunks, which it has answered itself
            raise HTTPException(400, "the image did not arrive completely") from None
        except TimeoutError:
            raise HTTPException(408, f"the image did not arrive within {SECONDS:.0f} s") from None
        if not content:
            raise HTTPException(400, "no image was sent")
        return bytes(content)


def decode_upload(content: bytes, side: int, part: Part | None = None) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8 of an upload, or of a part of it, reduced to a short side.

    Raises:
        HTTPException: 422 it is no readable image, has too many pixels, or takes too long.
    """
    try:
        return decode_expendable(
            content, short_side=side, max_pixels=MAX_UPLOAD_PIXELS, part=part, seconds=DECODING_SECONDS
        )
    except UnreadableImage as error:
        raise HTTPException(422, f"this cannot be read as an image: {error.reason}") from None
