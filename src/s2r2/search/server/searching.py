"""Rankings: for a photo of the index, for an image that is sent, and for several of both at once."""

import asyncio
import os
from collections.abc import Sequence
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from s2r2.search.filtering import Filter
from s2r2.search.server.answers import Ranking, Vector
from s2r2.search.server.asking import (
    BoxText,
    Clock,
    Count,
    Fractions,
    Where,
    Which,
    content_of,
    find_photo,
    fractions,
    index_shown,
    run,
)
from s2r2.search.server.reference import IMAGE_BODY, json_body
from s2r2.search.server.served_index import Background, LiveIndex, ServedIndex
from s2r2.search.server.uploads import Uploads, decode_upload
from s2r2.search.several_photos import MOST_PHOTOS, check_count

_SEARCHES_AT_ONCE = 2
_MOST_DIMENSIONS = 8192
Number = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]


class Seed(BaseModel):
    """One photo of a query: a photo of the index, or the vector of an image that was sent to ``/api/vector``.

    Attributes:
        photo: Its id.
        of: 1: it is of the second index.
        box: ``left,top,width,height`` in parts of its sides: search for this part of it.
        vector: In place of a photo: as many numbers as the index has dimensions.
        keep: The photo may be in the answer, as one that words have found.
    """

    model_config = ConfigDict(extra="forbid")
    photo: Annotated[str, StringConstraints(max_length=16)] | None = None
    of: Annotated[int, Field(ge=0, le=1)] = 0
    box: Annotated[str, StringConstraints(max_length=120)] | None = None
    vector: Annotated[list[Number], Field(max_length=_MOST_DIMENSIONS)] | None = None
    keep: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> "Seed":
        if (self.photo is None) == (self.vector is None):
            raise ValueError("give either photo or vector")
        return self


class SeveralPhotos(BaseModel):
    """Photos to be like, and photos to be less like."""

    model_config = ConfigDict(extra="forbid")
    more: Annotated[list[Seed], Field(min_length=1, max_length=MOST_PHOTOS)]
    less: Annotated[list[Seed], Field(max_length=MOST_PHOTOS)] = []


class Embedder:
    """Vectors of photos. Each step has a queue of its own: who waits for a large photo keeps no plain search waiting.

    Args:
        served: The indexes that are shown.
    """

    def __init__(self, served: Sequence[LiveIndex]) -> None:
        self._served = served
        self._decoding = anyio.CapacityLimiter(max(2, os.cpu_count() or 1))
        self._embedding = Background()
        self._uploads = Uploads()

    async def of_photo(
        self, target: ServedIndex, identity: str, of: int, part: Fractions | None, clock: Clock
    ) -> tuple[np.ndarray, int | None]:
        """The vector in the target index of a photo of this or the other index, and its row there, if it has one.

        Raises:
            HTTPException: There is no such photo, or no such index.
        """
        source, row = find_photo(self._served, of, identity)
        own = target.index.row(identity)
        if own is not None and content_of(target, own) != content_of(source, row):
            own = None
        if part is None and own is not None:
            return np.asarray(target.index.vectors[own]), own
        picture = await run(self._decoding, clock, "decode", lambda: source.index.picture(row, target.side, part))
        return await self._embed(target, picture, clock), own

    async def of_upload(self, target: ServedIndex, request: Request, box: str | None, clock: Clock) -> np.ndarray:
        """The vector of the image that a request carries.

        Raises:
            HTTPException: It carries none, or not in time.
        """
        part = fractions(box)
        async with self._uploads.received(request) as content:
            picture = await run(self._decoding, clock, "decode", lambda: decode_upload(content, target.side, part))
        return await self._embed(target, picture, clock)

    async def of_query(
        self, target: ServedIndex, query: SeveralPhotos, clock: Clock
    ) -> tuple[list[np.ndarray], list[int]]:
        """The vectors of several photos, and the rows of those that are in the target index.

        Raises:
            HTTPException: There is no such photo, or a vector is none of this index.
            S2R2Error: There are too many.
        """
        check_count(len(query.more), len(query.less))
        vectors, rows = [], []
        for seed in (*query.more, *query.less):
            if seed.vector is not None:
                vectors.append(_checked(seed.vector, target.index.about.dimensions))
                continue
            vector, own = await self.of_photo(target, seed.photo or "", seed.of, fractions(seed.box), clock)
            vectors.append(vector)
            rows += [] if own is None or seed.keep else [own]
        return vectors, rows

    async def query_of(self, request: Request) -> SeveralPhotos:
        """The query that a request carries as JSON.

        Raises:
            HTTPException: It carries none, or not in time.
        """
        return await self._uploads.received_as(SeveralPhotos, request)

    async def _embed(self, target: ServedIndex, picture: np.ndarray, clock: Clock) -> np.ndarray:
        return await asyncio.wrap_future(self._embedding.submit(lambda: clock("embed", lambda: target.embed(picture))))


def _checked(numbers: Sequence[float], dimensions: int) -> np.ndarray:
    vector = np.asarray(numbers, np.float64)
    length = np.linalg.norm(vector) if vector.size == dimensions else 0.0
    if not (np.isfinite(length) and length > 0):
        raise HTTPException(422, f"vector: give {dimensions} numbers that are not all 0, as /api/vector answers")
    return np.asarray(vector / length, np.float32)


def add_searches(app: FastAPI, served: Sequence[LiveIndex]) -> None:
    """Answer questions for rankings."""
    searching, embedder = anyio.CapacityLimiter(_SEARCHES_AT_ONCE), Embedder(served)

    async def ranked(
        target: ServedIndex, more: Sequence[np.ndarray], less: Sequence[np.ndarray], own: Sequence[int],
        k: int, where: Filter, clock: Clock,
    ) -> dict[str, Any]:  # fmt: skip
        hits = await run(searching, clock, "search", lambda: target.hits(more, less, k, where, own))
        return {"hits": hits, "milliseconds": clock.spent}

    @app.get("/api/similar/{identity}", response_model=Ranking)
    async def similar(
        identity: str, where: Where, k: Count = 60, index: Which = 0, of: Which = 0, box: BoxText = None
    ) -> dict[str, Any]:
        """Rank the photos of one index for a photo ``of`` the same or of the other one."""
        target, clock = index_shown(served, index), Clock()
        vector, own = await embedder.of_photo(target, identity, of, fractions(box), clock)
        return await ranked(target, [vector], [], [] if own is None else [own], k, where, clock)

    @app.post("/api/similar", response_model=Ranking, openapi_extra=IMAGE_BODY)
    async def similar_to_upload(
        request: Request, where: Where, k: Count = 60, index: Which = 0, box: BoxText = None
    ) -> dict[str, Any]:
        """Rank the photos of one index for an image that is sent."""
        target, clock = index_shown(served, index), Clock()
        vector = await embedder.of_upload(target, request, box, clock)
        return await ranked(target, [vector], [], [], k, where, clock)

    @app.post("/api/vector", response_model=Vector, openapi_extra=IMAGE_BODY)
    async def vector_of_upload(request: Request, index: Which = 0, box: BoxText = None) -> dict[str, Any]:
        """The vector of an image that is sent, for a query of several photos."""
        target, clock = index_shown(served, index), Clock()
        vector = await embedder.of_upload(target, request, box, clock)
        return {"vector": [round(value, 7) for value in vector.tolist()], "milliseconds": clock.spent}

    @app.post("/api/search", response_model=Ranking, openapi_extra=json_body(SeveralPhotos))
    async def search(request: Request, where: Where, k: Count = 60, index: Which = 0) -> dict[str, Any]:
        """Rank the photos of one index for several photos: more like these, less like those."""
        target, clock = index_shown(served, index), Clock()
        query = await embedder.query_of(request)
        vectors, own = await embedder.of_query(target, query, clock)
        count = len(query.more)
        return await ranked(target, vectors[:count], vectors[count:], own, k, where, clock)
