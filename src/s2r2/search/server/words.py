"""Photos that words find, for a query of several photos."""

from collections.abc import Sequence
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, Query

from s2r2.search.server.answers import PhotosForWords
from s2r2.search.server.asking import Clock, Where, Which, index_shown, run
from s2r2.search.server.served_index import LiveIndex
from s2r2.search.words.model import MOST_CHARACTERS

Words = Annotated[str, Query(min_length=1, max_length=MOST_CHARACTERS)]


def add_words(app: FastAPI, served: Sequence[LiveIndex]) -> None:
    """Answer which photos fit words; the ranking goes on from these by ``/api/search``."""
    limiter = anyio.CapacityLimiter(1)  # the first to ask loads the model, which the others wait for

    @app.get("/api/words", response_model=PhotosForWords)
    async def words(text: Words, where: Where, index: Which = 0) -> dict[str, Any]:
        """The photos of one index that fit words best."""
        target, clock = index_shown(served, index), Clock()
        mask = where.mask(target.index.catalogue)
        rows = await run(limiter, clock, "words", lambda: target.index.words.seeds(text, mask))
        return {"photos": [target.describe(int(row)) for row in rows], "milliseconds": clock.spent}
