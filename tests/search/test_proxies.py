"""Forwarded headers: of a named proxy they stand for what the browser said, of anybody else for nothing."""

import asyncio
import json

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from s2r2.errors import S2R2Error
from s2r2.search.server.allowed_hosts import allowed_hosts
from s2r2.search.server.proxies import ForwardedHeaders, parse_proxies
from s2r2.search.server.security import SecurityMiddleware

ORIGIN = {"origin": "https://photos.home"}
BELIEVED = {"x-forwarded-host": "photos.home", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    said = {"client": scope["client"][0], "scheme": scope["scheme"], "host": dict(scope["headers"])[b"host"].decode()}
    await JSONResponse(said)(scope, receive, send)


APP = ForwardedHeaders(
    SecurityMiddleware(echo, allowed_hosts("127.0.0.1", ["photos.home"])), parse_proxies(["10.1.0.0/16", "[::1]"])
)


def asked(client: str, headers: dict[str, str], host: str = "localhost:8765") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(APP, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as session:
            return await session.post("/api/similar", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("client", ["10.1.2.3", "::1", "::ffff:10.1.2.3"])
def test_a_named_proxy_is_believed(client: str) -> None:
    answer = asked(client, BELIEVED | ORIGIN)
    assert answer.json() == {"client": "192.0.2.7", "scheme": "https", "host": "photos.home"}
    several = {"x-forwarded-host": "evil.example, photos.home"}  # the first is the browser's, the last the proxy's
    assert asked(client, BELIEVED | ORIGIN | several).json()["host"] == "photos.home"


@pytest.mark.parametrize("client", ["10.2.0.1", "127.0.0.1", "::2", "testclient", ""])
def test_nobody_else_is(client: str) -> None:
    answer = asked(client, BELIEVED)
    assert json.loads(answer.text) == {"client": client, "scheme": "http", "host": "localhost:8765"}
    assert asked(client, {"x-forwarded-host": "photos.home"}, host="evil.example").status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BELIEVED | {"x-forwarded-host": "evil.example"}, 400),
        (BELIEVED | {"x-forwarded-host": ""}, 400),
        (BELIEVED | {"origin": "https://evil.example"}, 403),
        (BELIEVED | {"origin": "http://photos.home"}, 403),  # another page: the browser asks by HTTPS
        (BELIEVED | {"origin": "http://photos.home", "x-forwarded-proto": "http"}, 200),
        (BELIEVED | {"x-forwarded-proto": "javascript"}, 200),  # not taken
    ],
)
def test_what_it_says_is_checked_as_what_a_browser_says(headers: dict[str, str], status: int) -> None:
    assert asked("10.1.2.3", headers).status_code == status


def test_the_address_of_ipv6_is_a_name_of_this_machine() -> None:
    for host in ("[::1]", "[::1]:8765", "[0:0:0:0:0:0:0:1]:8765"):
        assert asked("::2", {}, host=host).status_code == 200
    assert asked("::2", {}, host="[::2]").status_code == 400


@pytest.mark.parametrize("address", ["nginx", "", "10.1.2.3/33", "10.1.2.3:80", "10.1.2.3/8", "*"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(S2R2Error, match=r"`proxies`: .* is no address"):
        parse_proxies(["127.0.0.1", address])
