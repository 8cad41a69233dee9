"""Marks of the page: what people say of results is shown again, and kept if the server may write."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import anyio
import numpy as np
from fastapi import FastAPI, HTTPException

from s2r2.errors import S2R2Error
from s2r2.search.server.answers import Marked, Marks
from s2r2.search.server.asking import BoxText, Fractions, Which, find_photo, fractions, in_thread, index_shown, key_of
from s2r2.search.server.served_index import LiveIndex
from s2r2.search.storage.marks import Asked, MarkBook, TooManyMarks
from s2r2.search.storage.rows import photo_id

_LOG = logging.getLogger("s2r2.search")
_VALUES = {"right": True, "wrong": False, "none": None}


def add_marks(app: FastAPI, served: Sequence[LiveIndex], book: MarkBook, *, writable: bool) -> None:
    """Answer which results of a query are marked, and take marks.

    They are kept in the first index, by the photos' keys, and so hold for both indexes where two are shown.
    """
    limiter = anyio.CapacityLimiter(1)

    def asked(identity: str, of: int, box: str | None) -> Asked:
        shown, row = find_photo(served, of, identity)
        return Asked(key_of(shown, row), _part(fractions(box)))

    @app.get("/api/marks/{identity}", response_model=Marks)
    async def marks(identity: str, of: Which = 0, box: BoxText = None) -> dict[str, Any]:
        """The photos that are marked for a query, by id; those that have left the index are not among them."""
        query = asked(identity, of, box)
        noted = await in_thread(_read, book, query, limiter=limiter)
        ids = np.array([photo_id(key) for key in noted], np.int64)
        there = np.zeros(len(ids), bool)
        for which in range(len(served)):
            there |= index_shown(served, which).index.catalogue.rows_of(ids) >= 0
        pairs = zip(ids[there].tolist(), np.array(list(noted.values()), bool)[there].tolist(), strict=True)
        return {"marks": {f"{number:016x}": "right" if right else "wrong" for number, right in pairs}}

    @app.post("/api/marks/{identity}", response_model=Marked)
    async def mark(
        identity: str,
        photo: str,
        mark: Literal["right", "wrong", "none"],
        index: Which = 0,
        of: Which = 0,
        box: BoxText = None,
    ) -> dict[str, Any]:
        """Keep a mark, or take it back."""
        if not writable:
            raise HTTPException(403, "marks are not kept here: the server was started by s2r2 serve --read-only")
        query = asked(identity, of, box)
        shown, row = find_photo(served, index, photo)
        await in_thread(_write, book, query, key_of(shown, row), _VALUES[mark], limiter=limiter)
        return {"mark": mark}


def _part(box: Fractions | None) -> str:
    return "" if box is None else ",".join(f"{value:.4f}" for value in box)


def _read(book: MarkBook, query: Asked) -> dict[str, bool]:
    try:
        return book.of(query)
    except S2R2Error as error:
        raise _refused(error) from error


def _write(book: MarkBook, query: Asked, photo: str, right: bool | None) -> None:
    try:
        book.set(query, photo, right)
    except TooManyMarks as error:
        raise HTTPException(429, str(error), {"retry-after": "1"}) from error
    except S2R2Error as error:
        raise _refused(error) from error


def _refused(error: S2R2Error) -> HTTPException:
    """The page is not told where the index lies; the terminal is."""
    _LOG.error("marks: %s", error)
    return HTTPException(503, "marks cannot be kept in this index; the terminal of s2r2 serve says why")
