"""Taking a photo from the browser: little enough, in time, and an image."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, TypeVar

import numpy as np
from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding.decoder import Part, max_pixels_allowed

Model = TypeVar("Model", bound=BaseModel)
MAX_BYTES = 24 << 20
MAX_JSON_BYTES = 1 << 20
MAX_UPLOAD_PIXELS = 64_000_000
DECODE_SECONDS = 30.0
SMALL_BYTES = 256 << 10
"""So much of each upload is read at once; what is larger waits for its turn. Who sends nothing keeps nobody out."""
LARGE_AT_ONCE = 8
TURN_SECONDS = 60.0
"""So long a large upload waits for its turn."""
GRACE, BYTES_A_SECOND, SECONDS = 5.0, 64 << 10, 120.0
"""After the first seconds an upload must have come at this rate, and in this time."""


class Sent(NamedTuple):
    """What a request may carry.

    Attributes:
        name: What it is called in messages.
        kinds: Types that it may be of; one that ends in a slash stands for all that begin so.
        most: Bytes that it may have.
        example: Of its type.
    """

    name: str
    kinds: tuple[str, ...]
    most: int
    example: str


IMAGE = Sent("image", ("image/", "application/octet-stream"), MAX_BYTES, "image/jpeg")
JSON = Sent("query", ("application/json",), MAX_JSON_BYTES, "application/json")


class Uploads:
    """Reads uploads, the large ones a few at a time so that memory stays bounded whatever is sent."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def received(self, request: Request, sent: Sent = IMAGE) -> AsyncIterator[bytes]:
        """The body of a request, held in memory until the block ends.

        Raises:
            HTTPException: 415 not of the right type, 411 of no stated length, 413 too large, 408 too slow,
                503 no turn came, 400 empty or broken off.
        """
        length = _checked_length(request, sent)
        async with AsyncExitStack() as turn:
            content = bytearray()
            spent, clock = 0.0, asyncio.get_running_loop().time
            pieces = request.stream()
            try:
                while True:
                    began = clock()
                    async with asyncio.timeout(min(SECONDS, GRACE + len(content) / BYTES_A_SECOND) - spent):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    spent += clock() - began
                    if len(content) <= SMALL_BYTES < len(content) + len(piece):
                        await self._wait_for(turn, sent)
                    content += piece
            except ClientDisconnect:
                raise HTTPException(400, f"the {sent.name} did not arrive completely") from None
            except TimeoutError:
                raise HTTPException(408, f"the {sent.name} came too slowly", {"connection": "close"}) from None
            if len(content) != length:
                raise HTTPException(400, f"the {sent.name} did not arrive completely")
            whole = bytes(content)
            content.clear()
            yield whole

    async def _wait_for(self, turn: AsyncExitStack, sent: Sent) -> None:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await turn.enter_async_context(self._large)
        except TimeoutError:
            busy = f"too many large uploads at once: send the {sent.name} again later"
            raise HTTPException(503, busy, {"retry-after": "10", "connection": "close"}) from None

    async def received_as(self, kind: type[Model], request: Request) -> Model:
        """The JSON that a request carries.

        Raises:
            HTTPException: As for :meth:`received`, and 422 it is something else than asked for.
        """
        async with self.received(request, JSON) as content:
            try:
                return kind.model_validate_json(content)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                raise HTTPException(422, f"{place}: {first['msg']}".removeprefix(": ")) from None


def _checked_length(request: Request, sent: Sent) -> int:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if not any(kind == allowed or (allowed.endswith("/") and kind.startswith(allowed)) for allowed in sent.kinds):
        raise HTTPException(415, f"send the {sent.name} itself, with its type, such as {sent.example}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, f"send the {sent.name} without content encoding")
    if "transfer-encoding" in request.headers:  # in pieces that may be as small as a byte, which cost time to join
        raise HTTPException(411, f"send the {sent.name} as a whole, with its content-length", {"connection": "close"})
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdecimal():
        raise HTTPException(400, "content-length is not a number")
    if len(stated) > 15 or int(stated) > sent.most:
        raise HTTPException(413, f"the {sent.name} is larger than {sent.most >> 20} MB")
    if int(stated) == 0:
        raise HTTPException(400, f"the {sent.name} is empty (0 bytes)")
    return int(stated)


def max_upload_pixels() -> int:
    """Most pixels that an upload may have."""
    return min(MAX_UPLOAD_PIXELS, max_pixels_allowed())


def decode_upload(content: bytes, side: int, part: Part | None) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8 of an upload, or of a part of it, decoded in a process that may be lost.

    Args:
        content: What was sent.
        side: Short side to which it is reduced.
        part: Left, top, width and height in parts of its sides.

    Raises:
        HTTPException: 422 it is no readable image, has too many pixels or takes too long.
    """
    try:
        return decode_expendable(
            content, short_side=side, part=part, max_pixels=max_upload_pixels(), seconds=DECODE_SECONDS
        )
    except UnreadableImage as error:
        raise HTTPException(422, f"this cannot be read as an image: {error.reason}") from None
