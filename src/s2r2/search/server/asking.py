"""What the server's questions have in common: parameters, the photos that they name, and steps done in threads."""

import functools
import re
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Annotated, Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, HTTPException, Query

from s2r2.search.filtering import Filter
from s2r2.search.server.served_index import LiveIndex, ServedIndex

Which = Annotated[int, Query(ge=0, le=1, description="0: the first index, 1: the one beside it.")]
Count = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
BoxText = Annotated[
    str | None, Query(max_length=120, description="left,top,width,height in parts of the sides: only this part.")
]
Fractions = tuple[float, float, float, float]
Result = TypeVar("Result")


def _text(description: str) -> Any:
    return Query(max_length=1024, description=f"Only photos {description}.")


def _day(description: str) -> Any:
    limits: dict[str, Any] = {"ge": date(1, 1, 2), "le": date(9999, 12, 30)}
    return Query(**limits, description=f"Only photos taken on this day or {description}, by the camera's clock.")


def _size(description: str) -> Any:
    return Query(ge=0, le=1e6, description=f"Only photos of so many megapixels or {description}.")


async def _asked_filter(
    folder: Annotated[str | None, _text("in this folder, and below it")] = None,
    label: Annotated[str | None, _text("with this label")] = None,
    camera: Annotated[str | None, _text("of this camera")] = None,
    taken_from: Annotated[date | None, _day("later")] = None,
    taken_to: Annotated[date | None, _day("earlier")] = None,
    megapixels_from: Annotated[float | None, _size("more")] = None,
    megapixels_to: Annotated[float | None, _size("fewer")] = None,
) -> Filter:
    return Filter(folder, label or None, camera or None, taken_from, taken_to, megapixels_from, megapixels_to)


Where = Annotated[Filter, Depends(_asked_filter)]

in_thread = functools.partial(run_sync, abandon_on_cancel=True)  # the end of the server waits for nobody


class Clock:
    """Where the time of an answer goes."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Result]) -> Result:
        """Do a step, and note its milliseconds."""
        began = time.perf_counter()
        result = work()
        self.spent[name] = round((time.perf_counter() - began) * 1e3, 2)
        return result


async def run(limiter: anyio.CapacityLimiter, clock: Clock, name: str, work: Callable[[], Result]) -> Result:
    """Do a step of an answer in a thread, when it is its turn."""
    return await in_thread(clock, name, work, limiter=limiter)


def index_shown(served: Sequence[LiveIndex], which: int) -> ServedIndex:
    """The first index, or the second one.

    Raises:
        HTTPException: There is no second one.
    """
    if which >= len(served):
        raise HTTPException(404, "there is no second index")
    return served[which].now


def find_photo(served: Sequence[LiveIndex], which: int, identity: str) -> tuple[ServedIndex, int]:
    """An index, and the row of the photo that has an id in it.

    Raises:
        HTTPException: There is no such photo, or no such index.
    """
    shown = index_shown(served, which)
    row = shown.index.row(identity) if re.fullmatch("[0-9a-f]{16}", identity) else None
    if row is None:
        raise HTTPException(404, "there is no such photo")
    return shown, row


def content_of(shown: ServedIndex, row: int) -> str:
    """Hash of a photo's file."""
    return str(shown.index.catalogue.table["content"][row].as_py())


def key_of(shown: ServedIndex, row: int) -> str:
    """A photo's key."""
    return str(shown.index.catalogue.table["key"][row].as_py())


def fractions(text: str | None) -> Fractions | None:
    """A box as left, top, width and height in parts of the image's sides.

    Raises:
        HTTPException: It is no such box.
    """
    if not text:
        return None
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise HTTPException(
            422, "box: give left,top,width,height in parts of the sides, as in 0.1,0.2,0.5,0.5"
        ) from None
    if not (0 <= left < 1 and 0 <= top < 1 and 0 < width <= 1 and 0 < height <= 1):
        raise HTTPException(422, "box: it must lie inside the image")
    return left, top, width, height
