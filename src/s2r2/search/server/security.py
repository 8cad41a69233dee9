"""What stands before every request: who may ask, how much may be sent, what the browser may do with the answer.

A page of any other site can send requests to a server on the same machine, and a hostile name server can make that
look like its own host (DNS rebinding). So the Host is checked before anything else, no other origin is served, and the
answers forbid the browser to run or embed anything from elsewhere. What a proxy adds to a request is believed only
where the proxy is named (:mod:`s2r2.search.server.proxies`), and none of it is needed.
"""

import re
from collections import Counter
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2r2.errors import ArgumentError
from s2r2.search.server.allowed_hosts import AllowedHosts

MAX_TARGET = 4096
ROOMS = ("api", "docs", "openapi.json", "page", "photo", "thumbnail")
"""What addresses of this server begin with."""

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


class SecurityMiddleware:
    """Stands before an application that answers GET and POST.

    Args:
        app: What answers.
        hosts: Names under which this server may be asked.
        root: Path under which a proxy shows it, as in ``/photos``, or empty; it may be left on the requests or not.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, root: str = "") -> None:
        self.app = app
        self.hosts = hosts
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # there are no web sockets here
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"

        async def send_restricted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            elif head:
                message = {**message, "body": b""}
            await send(message)

        app = self.app
        if (refusal := _refusal(scope, self.hosts)) is not None:
            status, reason = refusal
            app = JSONResponse({"error": reason}, status, {"allow": "GET, HEAD, POST"} if status == 405 else None)
        elif head:  # answered as GET is, without the content
            scope = {**scope, "method": "GET"}
        await app(_below(scope, self.root), receive, send_restricted)


def checked_root(path: str) -> str:
    """A path under which a proxy shows the server, without a slash at its end.

    Raises:
        S2R2Error: It is no such path.
    """
    root = path.rstrip("/")
    if root and not re.fullmatch(r"(/[\w.~-]+)+", root, re.ASCII):
        raise ArgumentError(f"`root_path={path!r}`: give the path that the proxy uses, such as /photos")
    if {".", ".."} & set(root.split("/")):
        raise ArgumentError(f"`root_path={path!r}`: give a path without . and ..")
    if root.split("/")[1:2] and root.split("/")[1] in ROOMS:
        raise ArgumentError(f"`root_path={path!r}`: the page's own addresses begin like this; choose another")
    return root


def _below(scope: Scope, root: str) -> Scope:
    """A request as it is without the proxy's path."""
    path: str = scope["path"]
    if not root or not (path == root or path.startswith(root + "/")):
        return scope
    return {**scope, "path": path[len(root) :] or "/", "raw_path": scope["raw_path"][len(root) :] or b"/"}


def _refusal(scope: Scope, hosts: AllowedHosts) -> tuple[int, str] | None:
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not hosts.serve(host):
        shown = host[:100]
        return 400, f"this server does not go by the name {shown!r}: add it with s2r2 serve --allow-host"
    query = (scope.get("query_string") or b"").decode("latin-1")  # as bytes, parse_qsl fails where %ff is in it
    if len(scope.get("raw_path") or b"") + len(query) > MAX_TARGET:
        return 414, "the address is too long"
    if scope["method"] not in ("GET", "HEAD", "POST"):
        return 405, "only GET, HEAD and POST are answered"
    twice = [name for name, count in Counter(name for name, _ in parse_qsl(query, True)).items() if count > 1]
    if twice:
        return 422, f"{twice[0][:100]}: it is given more than once"
    scheme = scope["scheme"] if "forwarded" in scope.get("state", {}) else None
    return _foreign(scope["method"], headers, host, hosts, scheme)


def _foreign(
    method: str, headers: Headers, host: str, hosts: AllowedHosts, scheme: str | None
) -> tuple[int, str] | None:
    """Refuse what another site's page asks for. Browsers say it themselves, or name the page's origin in a POST."""
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    origin = headers.get("origin")
    if site in ("same-origin", "none") or (site is not None and method != "POST" and mode == "navigate"):
        return None
    if site is None and (method != "POST" or origin is None or hosts.own_page(origin, host, scheme)):
        return None
    return 403, (
        "another site's page may not ask; if this is the page itself behind a proxy, add its name with "
        "s2r2 serve --allow-host"
    )
