"""What the server answers: the page, photos by id, and rankings."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from s2r2._version import __version__
from s2r2.errors import S2R2Error
from s2r2.images.decoding.pool import shared_pool
from s2r2.search.duplicates.planning import check_keep
from s2r2.search.server.allowed_hosts import LOOPBACK, AllowedHosts
from s2r2.search.server.answers import About, Copies, PhotoDetails, PhotoList, Problem
from s2r2.search.server.asking import (
    Count,
    Where,
    Which,
    find_photo,
    in_thread,
)
from s2r2.search.server.mapping import add_map
from s2r2.search.server.marking import add_marks
from s2r2.search.server.proxies import ForwardedHeaders, parse_proxies
from s2r2.search.server.reference import add_reference
from s2r2.search.server.searching import SeveralPhotos, add_searches
from s2r2.search.server.security import SecurityMiddleware, checked_root
from s2r2.search.server.selections import Selection, add_selections
from s2r2.search.server.served_index import LiveIndex
from s2r2.search.server.uploads import MAX_BYTES, max_upload_pixels
from s2r2.search.server.words import add_words
from s2r2.search.storage.layout import DamagedIndex, IndexGone
from s2r2.search.storage.marks import MarkBook, read_marks
from s2r2.system.wording import worded

PAGE = Path(__file__).resolve().parent.parent / "page"


class Jpeg(Response):
    """A picture."""

    media_type = "image/jpeg"


class ShellScript(Response):
    """What ``sh`` runs."""

    media_type = "application/x-sh"


_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_THUMBNAILS_AT_ONCE = 8
_LARGE_AT_ONCE = 2
_LOOPBACK_ONLY = AllowedHosts(LOOPBACK)
Offset = Annotated[int, Query(ge=0, le=1 << 40, description="How many to leave out at the beginning.")]
Threshold = Annotated[float | None, Query(ge=0, le=1)]
_LOG = logging.getLogger("s2r2.search")


def create_app(
    folders: Sequence[str | Path],
    *,
    hosts: AllowedHosts = _LOOPBACK_ONLY,
    root: str = "",
    backend: str | None = None,
    read_only: bool = False,
    originals: bool = True,
    proxies: Sequence[str] = (),
    docs: bool = False,
) -> ASGIApp:
    """The application that serves one index, or two side by side.

    Args:
        folders: Of the index; a second one to compare it with.
        hosts: Names under which it may be asked.
        root: Path under which a proxy shows it, as in ``/photos``.
        backend: Name of the search backend; by default the one for which each index is made.
        read_only: Write nothing: marks are shown, but not kept.
        originals: Offer the files of selected photos as a zip, with their metadata.
        proxies: Addresses of reverse proxies whose forwarded headers are believed.
        docs: Answer ``/docs`` and ``/openapi.json``: the reference of the JSON API.

    Raises:
        S2R2Error: There is no index in one of the folders, its marks cannot be read, ``root`` is no path, or a proxy
            no address.
    """
    root, trusted = checked_root(root), parse_proxies(proxies)
    served = [LiveIndex(folder, backend) for folder in folders]
    read_marks(folders[0])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for shown in served:
            shown.now.warm_up()
        yield
        shared_pool().close()

    app = FastAPI(
        title="s2r2", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        lifespan=lifespan, responses={"4XX": {"model": Problem}}, generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    _answer_errors(app)
    _add_page(app, root)
    _add_photos(app, served, read_only, originals)
    add_map(app, served)
    add_searches(app, served)
    add_words(app, served)
    add_selections(app, served, originals=originals)
    add_marks(app, served, MarkBook(folders[0]), writable=not read_only)
    if docs:
        add_reference(app, root, [SeveralPhotos, Selection])
    secured = SecurityMiddleware(app, hosts, root)
    return ForwardedHeaders(secured, trusted) if trusted else secured


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(S2R2Error)
    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": worded(str(error))}, 422)

    @app.exception_handler(IndexGone)
    @app.exception_handler(DamagedIndex)
    async def unavailable(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": worded(str(error))}, 503, {"retry-after": "2"})  # by then it was looked at again

    @app.exception_handler(StarletteHTTPException)
    async def stated(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        _LOG.error("%s failed", request.url.path, exc_info=error)
        return JSONResponse({"error": "the server could not answer; its terminal says why"}, 500)


def _add_page(app: FastAPI, root: str) -> None:
    """The files of the page are read once: no request reaches the file system for them."""
    files = {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in PAGE.iterdir() if path.suffix in _TYPES}
    content, kind = files["index.html"]
    # The page goes by its own address; where the path of a proxy is known, it need not end with a slash.
    files["index.html"] = content.replace(b'="page/', f'="{root}/page/'.encode()) if root else content, kind

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        content, kind = files["index.html"]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such page")
        content, kind = files[name]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _add_photos(app: FastAPI, served: list[LiveIndex], read_only: bool, originals: bool) -> None:
    limiter, large = anyio.CapacityLimiter(_THUMBNAILS_AT_ONCE), anyio.CapacityLimiter(_LARGE_AT_ONCE)

    @app.get("/api/about", response_model=About)
    async def about() -> dict[str, Any]:
        """What is served, and what filters can be set to."""
        first = served[0].now
        return {
            "indexes": [shown.now.about() for shown in served],
            "folders": first.folders(),
            "labels": first.labels(),
            "cameras": first.cameras(),
            **first.ranges(),
            "upload_bytes": MAX_BYTES,
            "upload_pixels": max_upload_pixels(),
            "keeps_marks": not read_only,
            "originals": originals,
        }

    @app.get("/api/photos", response_model=PhotoList)
    async def photos(where: Where, offset: Offset = 0, limit: Count = 120) -> dict[str, Any]:
        """The photos that pass the filters, in the order of their keys."""
        return await in_thread(served[0].now.photos, where, offset, limit, limiter=limiter)

    @app.get("/api/photos/{identity}", response_model=PhotoDetails)
    async def details(identity: str, index: Which = 0) -> dict[str, Any]:
        """All that is told of one photo."""
        shown, row = find_photo(served, index, identity)
        return shown.details(row)

    @app.get("/thumbnail/{identity}", response_class=Jpeg)
    async def thumbnail(identity: str, index: Which = 0) -> Response:
        """A photo of at most 192 pixels a side, without metadata."""
        shown, row = find_photo(served, index, identity)
        content = await in_thread(shown.thumbnail, row, limiter=limiter)
        headers = {"cache-control": "private, max-age=86400"}  # its address changes with its content
        return Response(content, media_type="image/jpeg", headers=headers)

    @app.get("/photo/{identity}", response_class=Jpeg)
    async def photo(identity: str, index: Which = 0) -> Response:
        """A photo of at most 1280 pixels a side, without metadata.

        The header `s2r2-picture` is `file`, or `thumbnail` where the file cannot be read now or has changed.
        """
        shown, row = find_photo(served, index, identity)
        content, is_file = await in_thread(shown.large, row, limiter=large)
        headers = {"cache-control": "private, max-age=600", "s2r2-picture": "file" if is_file else "thumbnail"}
        return Response(content, media_type="image/jpeg", headers=headers)

    @app.get("/api/duplicates", response_model=Copies)
    async def duplicates(threshold: Threshold = None, offset: Offset = 0, limit: Count = 500) -> Response:
        """Groups of copies among all photos; status 202 while they are being looked for: ask again."""
        shown = served[0].now
        found = await in_thread(shown.duplicates, threshold, limiter=limiter)
        if found is None:
            return JSONResponse({"working": True}, 202)
        groups = [shown.group(group) for group in found.groups[offset : offset + limit]]
        photos = sum(len(group.rows) for group in found.groups)
        answer = {"threshold": found.threshold, "total": len(found.groups), "photos": photos, "groups": groups}
        return JSONResponse(answer)

    @app.get("/api/duplicates/script", response_class=ShellScript)
    async def removing(keep: Annotated[str, Query(max_length=4096)], threshold: Threshold = None) -> Response:
        """A shell script that removes all copies but the one that is to be kept."""
        check_keep(keep)
        found = await in_thread(served[0].now.removing_script, threshold, keep, limiter=limiter)
        if found is None:
            return JSONResponse({"working": True}, 202)
        headers = {"content-disposition": 'attachment; filename="remove-copies.sh"'}
        return Response(found, media_type="application/x-sh", headers=headers)
