"""The map of all photos for the page: their places, and what they can be colored by."""

from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from s2r2.search.server.asking import in_thread
from s2r2.search.server.served_index import LiveIndex, ServedIndex

RECORD = np.dtype([("id", "<u8"), ("place", "<f4", 2), ("folder", "<u4"), ("label", "<u4"), ("date", "<f8")])
"""What is told of a photo: folder and label are numbers of names, the date (when it was taken, or else that of
its file) is in seconds since 1970, or NaN."""


def add_map(app: FastAPI, served: Sequence[LiveIndex]) -> None:
    """Answer where the photos of the first index lie, and what their folders and labels are called."""
    limiter = anyio.CapacityLimiter(2)

    @app.get("/api/map", include_in_schema=False)
    async def places() -> Response:
        """A record for each photo, one after the other."""
        found = await in_thread(_records, served[0].now, limiter=limiter)
        if found is None:
            return JSONResponse({"working": True}, 202)
        return Response(found, media_type="application/octet-stream")

    @app.get("/api/map/names", include_in_schema=False)
    async def names() -> dict[str, Any]:
        """Names of folders and labels, by their numbers on the map; labels of one photo are joined by ``;``."""
        catalogue = served[0].now.index.catalogue
        return {"folders": catalogue.folders[0], "labels": catalogue.labels[0]}


def _records(shown: ServedIndex) -> bytes | None:
    places = shown.map()
    if places is None:
        return None
    catalogue = shown.index.catalogue
    records = np.empty(len(places), RECORD)
    records["id"], records["place"] = catalogue.ids, places
    records["folder"], records["label"] = catalogue.folders[1], catalogue.labels[1]
    taken = catalogue.taken
    records["date"] = np.where(np.isnan(taken), catalogue.table["modified"].to_numpy(), taken)
    return records.tobytes()
