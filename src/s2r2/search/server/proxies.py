"""What a reverse proxy says of the requests that it passes on: believed only of proxies that are named."""

import ipaddress
from collections.abc import Sequence
from typing import Any, TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from s2r2.errors import ArgumentError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = b"x-forwarded-host"


class ForwardedHeaders:
    """Stands before everything else, so that the request looks as the browser sent it.

    ``X-Forwarded-Proto`` and ``-For`` are left to uvicorn; of several hosts in ``X-Forwarded-Host`` the last one is the
    proxy's own word.

    Args:
        app: What answers.
        proxies: From :func:`parse_proxies`.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[Network]) -> None:
        self._app = app
        self._proxies = tuple(proxies)
        self._believing: Any = ProxyHeadersMiddleware(app, [str(network) for network in proxies])  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer."""
        client = _address(scope)
        if client is None or not any(client in network for network in self._proxies):
            await self._app(scope, receive, send)
            return
        said = [value for name, value in scope["headers"] if name == _HOST]
        headers = scope["headers"]
        if said:
            host = said[-1].rpartition(b",")[2].strip()
            headers = [(name, value) for name, value in headers if name != b"host"] + [(b"host", host)]
        state = {**scope.get("state", {}), "forwarded": True}
        scope = {**scope, "headers": headers, "client": (str(client), scope["client"][1]), "state": state}
        await self._believing(scope, receive, send)


def parse_proxies(addresses: Sequence[str]) -> list[Network]:
    """Addresses of proxies, or networks that they are in.

    Raises:
        ArgumentError: One is neither.
    """
    found = []
    for text in addresses:
        try:
            found.append(ipaddress.ip_network(text.strip("[]")))
        except ValueError:
            raise ArgumentError(
                f"`proxies`: {text!r} is no address: give the one from which the proxy asks, such as 127.0.0.1, ::1 or "
                "172.18.0.0/16"
            ) from None
    return found


def _address(scope: Scope) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Who asks; on a socket for IPv4 and IPv6 the former come as ``::ffff:127.0.0.1``."""
    if scope["type"] != "http" or not scope.get("client"):
        return None
    try:
        address = ipaddress.ip_address(scope["client"][0].partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
