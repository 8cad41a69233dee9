"""Taking photos away: a selection as a list of paths, as CSV, or as a zip of the files."""

import csv
import io
import os
import secrets
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import Receive, Scope, Send

from s2r2.errors import S2R2Error
from s2r2.images import UnreadableImage
from s2r2.images.remote import server_of
from s2r2.search.hit import DESCRIPTION, Hit
from s2r2.search.original_file import original_file
from s2r2.search.ranking_output import csv_cells
from s2r2.search.server.answers import Selected
from s2r2.search.server.reference import json_body
from s2r2.search.server.served_index import LiveIndex, ServedIndex
from s2r2.search.server.uploads import Uploads
from s2r2.system.terminal import visible

MOST_PHOTOS = 10_000
"""In one selection."""
KEPT = 32
"""Selections that are remembered, the latest ones; each is some hundred kilobytes at most."""
ZIPS_AT_ONCE = 8
MOST_BYTES = 256 << 20
"""Of one file in a zip. One file of each zip is in memory at a time."""
NOT_INCLUDED = "not included.txt"
_PIECE = 256 << 10
_RESERVED = str.maketrans(dict.fromkeys('<>:"|?*\\', "_"))
Place = tuple[ServedIndex, int]


class Selection(BaseModel):
    """Photos by id, in the order in which they are listed."""

    model_config = ConfigDict(extra="forbid")
    photos: Annotated[
        list[Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]], Field(min_length=1, max_length=MOST_PHOTOS)
    ]


class Lines(Response):
    """Plain text."""

    media_type = "text/plain"


class Csv(Response):
    """A table."""

    media_type = "text/csv"


class Zip(StreamingResponse):
    """An archive that is made as it is sent, while there are slots for one more."""

    media_type = "application/zip"

    def __init__(
        self, content: Iterator[bytes], slots: threading.Semaphore, headers: dict[str, str], status_code: int = 200
    ) -> None:
        super().__init__(content, status_code, headers)
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or refuse; a slot is free again at once when the client has all of it, or hangs up."""
        if not self._slots.acquire(blocking=False):
            raise HTTPException(503, "too many downloads at once", {"retry-after": "10"})
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slots.release()


def add_selections(app: FastAPI, served: Sequence[LiveIndex], *, originals: bool) -> None:
    """Take selections, and answer with what is in them.

    Args:
        app: The application.
        served: The indexes that are shown; a photo is looked for in all of them.
        originals: Whether the files themselves are given away, with their metadata.
    """
    kept: OrderedDict[str, list[str]] = OrderedDict()
    uploads, zips = Uploads(), threading.Semaphore(ZIPS_AT_ONCE)

    def chosen(name: str) -> list[str]:
        if name not in kept:
            raise HTTPException(404, "this selection is no longer there: select the photos again")
        return kept[name]

    @app.post("/api/selections", response_model=Selected, openapi_extra=json_body(Selection))
    async def select(request: Request) -> dict[str, Any]:
        """Remember a selection for a while; its name is part of the addresses below."""
        photos = list(dict.fromkeys((await uploads.received_as(Selection, request)).photos))
        if not any(_found(served, photo) for photo in photos):
            raise HTTPException(404, "there are no such photos")
        name = secrets.token_hex(8)
        kept[name] = photos
        while len(kept) > KEPT:
            kept.popitem(last=False)
        return {"selection": name, "photos": len(photos)}

    @app.get("/api/selections/{name}/paths.txt", response_class=Lines)
    def paths(name: str) -> Response:
        """The photos' paths, a line each."""
        lines = (visible(shown.index.location(row)) for shown, row in _places(served, chosen(name)))
        return Response("".join(f"{line}\n" for line in lines), media_type="text/plain; charset=utf-8")

    @app.get("/api/selections/{name}/photos.csv", response_class=Csv)
    def table(name: str) -> Response:
        """What is known of each photo as CSV, with the columns of ``s2r2 search --csv``."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(DESCRIPTION)
        for shown, row in _places(served, chosen(name)):
            writer.writerow(csv_cells(Hit.of(shown.index.catalogue, row).description))
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=_named("photos.csv"))

    @app.get("/api/selections/{name}/photos.zip", response_class=Zip)
    def files(name: str) -> Response:
        """The files as a zip that is made as it is sent."""
        if not originals:
            raise HTTPException(
                403, "no files are given away here: the server was started by s2r2 serve --no-originals"
            )
        return Zip(zipped(served, chosen(name)), zips, _named("photos.zip"))


def _named(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _found(served: Sequence[LiveIndex], identity: str) -> Place | None:
    for shown in (live.now for live in served):
        row = shown.index.row(identity)
        if row is not None:
            return shown, row
    return None


def _places(served: Sequence[LiveIndex], photos: Sequence[str]) -> Iterator[Place]:
    for identity in photos:
        found = _found(served, identity)
        if found is not None:
            yield found


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._written += piece
        return len(piece)

    def taken(self) -> bytes:
        written, self._written = bytes(self._written), bytearray()
        return written


def zipped(served: Sequence[LiveIndex], photos: Sequence[str]) -> Iterator[bytes]:
    """A zip of the photos' files in pieces; one file is in memory at a time.

    Only what was indexed is read: a file that has changed since, or is now reached through a link, is not. What is
    missing is listed with its reason in ``not included.txt``.

    Args:
        served: Where the photos are.
        photos: Their ids.
    """
    sink, used, problems = _Sink(), {NOT_INCLUDED}, []
    unreachable: dict[str, str] = {}  # a store that did not answer once is not waited for again with every photo
    with zipfile.ZipFile(sink, "w") as archive:  # photos are compressed already
        for identity in photos:
            try:
                place = _found(served, identity)
                if place is None:
                    raise UnreadableImage("no longer in the index")
                name, content, modified = _file(*place, used, unreachable)
            except S2R2Error as error:
                problems.append(f"{_key(served, identity)}: {getattr(error, 'reason', error)}")
                continue
            information = zipfile.ZipInfo(name, modified)
            information.external_attr = 0o644 << 16
            information.file_size = len(content)
            with archive.open(information, "w") as member:
                for start in range(0, len(content), _PIECE):
                    member.write(content[start : start + _PIECE])
                    yield sink.taken()
        if problems:
            archive.writestr(NOT_INCLUDED, "".join(f"{line}\n" for line in problems))
    yield sink.taken()


def _file(
    shown: ServedIndex, row: int, used: set[str], unreachable: dict[str, str]
) -> tuple[str, bytes, tuple[int, int, int, int, int, int]]:
    """Name in the zip, content and time of a photo's file; stores that do not answer are noted."""
    table = shown.index.catalogue.table
    key, size, modified = (table[name][row].as_py() for name in ("key", "bytes", "modified"))
    if size > MOST_BYTES:
        raise UnreadableImage(f"larger than {MOST_BYTES >> 20} MB")
    store = server_of(os.fsdecode(table["file"][row].as_py()))
    if store in unreachable:
        raise S2R2Error(unreachable[store])
    try:
        content = original_file(shown.index.catalogue, row)
    except UnreadableImage:
        raise
    except S2R2Error as error:  # of the whole store
        unreachable[store] = str(error)
        raise
    of_a_zip = min(max(modified or 0.0, 315_619_200.0), 4_354_646_400.0)  # whose years are 1980 to 2107
    stamp = time.localtime(of_a_zip)[:6]
    return name_in_zip(key, used), content, stamp


def _key(served: Sequence[LiveIndex], identity: str) -> str:
    place = _found(served, identity)
    return identity if place is None else visible(place[0].index.catalogue.table["key"][place[1]].as_py())


def name_in_zip(key: str, used: set[str]) -> str:
    """A name for a file that no system unpacks elsewhere, or over another one.

    Args:
        key: The photo's key: folders and name.
        used: Names that are taken, in lower case; the new one is added.
    """
    parts = [visible(part).translate(_RESERVED).strip(" .") for part in key.split("/")]
    name = "/".join(part[-120:] for part in parts if part)[-400:].lstrip("/") or "photo"
    stem, dot, ending = name.rpartition(".") if "." in name.rpartition("/")[2] else (name, "", "")
    number, candidate = 1, name
    while candidate.lower() in used:
        number += 1
        candidate = f"{stem} ({number}){dot}{ending}"
    used.add(candidate.lower())
    return candidate
