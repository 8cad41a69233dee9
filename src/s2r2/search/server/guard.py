"""What stands before every request: who may ask, how much may be sent, what the browser may do with the answer.

A page of any other site can send requests to a server on the same machine, and a hostile name server can make that
look like its own host (DNS rebinding). So the Host is checked before anything else, no other origin is served, and the
answers forbid the browser to run or embed anything from elsewhere.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
MAX_TARGET = 4096

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def guarded(app: ASGIApp, hosts: list[str]) -> ASGIApp:
    """Put the checks before an application.

    Args:
        app: What answers.
        hosts: Names under which this server may be asked, without port.
    """
    checked: ASGIApp = TrustedHostMiddleware(_SameOrigin(app), allowed_hosts=hosts, www_redirect=False)
    return _Headers(checked)


class _Headers:
    """Adds the headers that restrict the browser to every answer, also to refusals."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no web sockets here
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class _SameOrigin:
    """Refuses what another site's page asks for, other methods than GET, HEAD and POST, and endless addresses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := _refusal(scope)) is not None:
            status, reason = refusal
            await JSONResponse({"error": reason}, status)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    headers = Headers(scope=scope)
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_TARGET:
        return 414, "the address is too long"
    if scope["method"] not in ("GET", "HEAD", "POST"):
        return 405, "only GET, HEAD and POST are answered"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return 403, "another site's page may not ask"
    if scope["method"] == "POST":
        if headers.get("sec-fetch-site") == "cross-site":
            return 403, "another site's page may not ask"
        origin = headers.get("origin")
        if origin is not None and not _same(origin, scope["scheme"], headers.get("host", "")):
            return 403, "another site's page may not ask"
    return None


def _same(origin: str, scheme: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme == scheme and parts.netloc.lower() == host.lower()
