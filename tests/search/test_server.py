"""The server: what it answers, and what it refuses."""

import asyncio
import contextlib
import http.client
import io
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image
from starlette.requests import Request
from starlette.types import ASGIApp

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.search.server import served_index, serving, uploads as uploads_module
from s2r2.search.server.allowed_hosts import allowed_hosts
from s2r2.search.server.app import create_app
from s2r2.search.server.mapping import RECORD
from s2r2.search.server.serving import serve


@pytest.fixture
def client(served: tuple[str, Path]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], timeout=60) as session:
        yield session


def jpeg(path: Path) -> bytes:
    return path.read_bytes()


def test_similar_photos_come_first(client: httpx.Client, served: tuple[str, Path]) -> None:
    about = client.get("/api/about").json()
    assert about["indexes"][0]["photos"] == 25
    assert [entry["name"] for entry in about["labels"]] == ["blue", "green", "red"]
    photo = client.get("/api/photos", params={"label": "green"}).json()["photos"][0]
    hits = client.get(f"/api/similar/{photo['id']}", params={"k": 5}).json()["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert photo["id"] not in [hit["id"] for hit in hits]
    assert hits[0]["labels"] == ["green"]
    other = client.get(f"/api/similar/{photo['id']}", params={"k": 5, "index": 1}).json()["hits"]
    assert len(other) == 5
    content = jpeg(served[1] / "photos" / "blue" / "2.jpg")
    sent = client.post("/api/similar", content=content, headers={"content-type": "image/jpeg"}).json()["hits"]
    assert sent[0]["key"] == "blue/2.jpg"
    options = {"box": "0,0,0.5,0.5", "folder": "red"}
    answer = client.post("/api/similar", params=options, content=content, headers={"content-type": "image/jpeg"})
    part = answer.json()["hits"]
    assert {hit["labels"][0] for hit in part} == {"red"}


def test_pictures_carry_no_metadata(client: httpx.Client) -> None:
    photo = client.get("/api/photos").json()["photos"][0]
    for address in (f"/thumbnail/{photo['id']}", f"/photo/{photo['id']}"):
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        image = Image.open(io.BytesIO(answer.content))
        assert not image.getexif()


def test_a_thumbnail_in_place_of_a_photo_is_said(client: httpx.Client, served: tuple[str, Path]) -> None:
    photo = client.get("/api/photos").json()["photos"][0]
    file = served[1] / "photos" / photo["key"]
    moved = file.rename(served[1] / "moved.jpg")
    try:
        assert client.get(f"/photo/{photo['id']}").headers["s2r2-picture"] == "thumbnail"
    finally:
        moved.rename(file)
    assert client.get(f"/photo/{photo['id']}").headers["s2r2-picture"] == "file"


def test_duplicates_and_map(client: httpx.Client) -> None:
    for address in ("/api/duplicates", "/api/map"):
        for _ in range(120):
            answer = client.get(address)
            if answer.status_code != 202:
                break
            time.sleep(0.5)
        assert answer.status_code == 200
        if address == "/api/map":
            records = np.frombuffer(answer.content, RECORD)
            names = client.get("/api/map/names").json()
            assert len(records) == 25
            assert {names["labels"][code] for code in records["label"]} == {"red", "green", "blue"}
            assert {names["folders"][code] for code in records["folder"]} == {"red", "green", "blue"}
            assert (records["date"] > 1e9).all()
            assert 0 <= records["place"].min() < records["place"].max() <= 1
        else:
            groups = [{photo["key"] for photo in group["photos"]} for group in answer.json()["groups"]]
            assert {"red/0.jpg", "red/again.jpg"} in groups
            first, rest = (client.get(f"/api/duplicates?{asked}").json() for asked in ("limit=1", "offset=1"))
            assert first["groups"] + rest["groups"] == answer.json()["groups"]
            assert first["total"] == rest["total"] == len(groups)


def test_a_large_upload_waits_only_so_long_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(uploads_module, "LARGE_AT_ONCE", 1)
    body = bytes(uploads_module.SMALL_BYTES + 1)
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", str(len(body)).encode())]

    def request() -> Request:
        sent = {"type": "http.request", "body": body, "more_body": False}
        return Request({"type": "http", "method": "POST", "headers": headers}, AsyncMock(return_value=sent))

    async def two_at_once() -> None:
        uploads = uploads_module.Uploads()
        async with uploads.received(request()) as first:
            assert first == body
            with pytest.raises(HTTPException, match="too many large uploads at once") as refused:
                await uploads.received(request()).__aenter__()
            assert refused.value.status_code == 503
        async with uploads.received(request()) as again:
            assert again == body

    asyncio.run(two_at_once())


def test_every_answer_restricts_the_browser(client: httpx.Client) -> None:
    for address in ("/", "/page/app.js", "/api/about", "/nothing"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]"])
def test_a_foreign_host_is_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/api/about", headers={"host": host}).status_code == 400


def test_a_foreign_page_is_refused(client: httpx.Client, served: tuple[str, Path]) -> None:
    content = jpeg(served[1] / "photos" / "blue" / "2.jpg")
    kind = {"content-type": "image/jpeg"}
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        assert client.post("/api/similar", content=content, headers={**kind, "origin": origin}).status_code == 403
    assert client.get("/api/photos", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/api/photos").status_code == 405


TRAVERSALS = (
    "/../secret.txt", "/page/../secret.txt", "/page/..%2f..%2fsecret.txt", "/page/%2e%2e/%2e%2e/secret.txt",
    "/thumbnail/..%2f..%2fsecret.txt", "/photo/../../secret.txt", "//etc/passwd", "/page//etc/passwd",
    "/photo/%00", "/thumbnail/ffffffffffffffff", "/photo/zzzzzzzzzzzzzzzz", "/api/photos/0000000000000000",
    "/api/similar/ffffffffffffffffffffffff", "/page/app.js%00.html", "/page/server.py", "/index.json",
)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_file_outside_the_index_is_reached(served: tuple[str, Path], path: str) -> None:
    where = urlsplit(served[0])
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)  # sends the path as it is
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status in (400, 404, 422)
    assert b"not for the page" not in content
    assert b"root:" not in content
    assert b"Traceback" not in content


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/jpeg", 400),
        (b"no image", "image/jpeg", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422),
        (b"x=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 415),
        (bomb(), "image/png", 422),
        (b"\0" * (25 << 20), "image/jpeg", 413),
    ],
)
def test_bad_uploads_are_refused(client: httpx.Client, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/api/similar", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]


QUESTIONS = (
    "k=1&k=2",
    "k=1&%6b=2",
    "k=1e999",
    "k=NaN",
    "k=99999999999999999999999",
    "box=nan,nan,nan,nan",
    "box=0,0,inf,1",
    "k=0",
    "k=501",
    "k=many",
    "index=7",
    "index=-1",
    "box=1,2",
    "box=nan,0,1,1",
    "box=0,0,2,2",
)


@pytest.mark.parametrize("query", [*QUESTIONS, "folder=" + "x" * 2000])
def test_bad_questions_are_refused(client: httpx.Client, query: str) -> None:
    photo = client.get("/api/photos").json()["photos"][0]
    answer = client.get(f"/api/similar/{photo['id']}?{query}")
    assert answer.status_code in (404, 422)
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("query", ["%ff=1", "a=%ff", "%ff&%ff", "folder=%ff", "folder=caf%C3%A9", "label=%ff", "%"])
def test_questions_that_are_no_text_are_answered(client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/photos?{query}").status_code < 500


def test_a_storm_of_nonsense_leaves_the_server_well(client: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    statuses = set()
    for number in range(200):
        junk = generator.integers(0, 256, generator.integers(1, 3000), dtype=np.uint8).tobytes()
        if number % 4 == 0:
            answer = client.post("/api/similar", content=junk, headers={"content-type": "image/png"})
        elif number % 4 == 1:
            answer = client.get("/api/photos", params={"folder": junk[:200].hex(), "offset": int(junk[0])})
        elif number % 4 == 2:
            answer = client.get("/" + junk[:300].hex())
        else:
            answer = client.get("/api/about", headers={"x-long": "y" * int(generator.integers(1, 12_000))})
        statuses.add(answer.status_code)
    assert max(statuses) < 500
    assert client.get("/api/about").status_code == 200


def test_a_broken_off_upload_is_no_error_of_the_server(client: httpx.Client, served: tuple[str, Path]) -> None:
    where = urlsplit(served[0])
    head = b"POST /api/similar HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/png\r\n"
    chunked = b"transfer-encoding: chunked\r\n"
    rests = (
        (b"content-length: 1000\r\n\r\nabc", b"de"),
        (chunked + b"\r\nzz\r\nno chunk\r\n", b""),
        (chunked + b"origin: http://evil.example\r\n\r\n", b"zz\r\nnonsense after the refusal\r\n"),
    )
    for rest, later in rests:
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            connection.sendall(head + rest)
            time.sleep(0.2)
            with contextlib.suppress(OSError):  # it may have hung up
                connection.sendall(later)
            time.sleep(0.2)
    time.sleep(0.3)
    assert client.get("/api/about").status_code == 200
    assert "Traceback" not in (served[1] / "server.log").read_text()


NAMES = [
    ("photos.home", "PHOTOS.home.:8443"), ("photos.home:8443", "photos.home:8443"), ("photos.home:443", "photos.home"),
    ("Bücher.example", "xn--bcher-kva.example:99"), ("my_box", "my_box"), ("2001:DB8:0::1", "[2001:db8::1]:80"),
    ("[2001:db8::1]", "[2001:db8:0:0::1]"), ("192.0.2.7", "192.0.2.7:8765"), ("fe80::1%eth0", "[fe80::1]"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "asked"), NAMES)
def test_a_name_is_allowed_however_it_is_written(given: str, asked: str) -> None:
    hosts = allowed_hosts("127.0.0.1", [given])
    assert hosts.serve(asked)
    assert all(map(hosts.serve, ("localhost:1", "[::1]", "127.0.0.1")))
    assert not hosts.serve("photos.home.evil.example")
    assert not allowed_hosts("127.0.0.1").serve(asked)


def test_it_goes_by_the_address_on_which_it_listens() -> None:
    assert allowed_hosts("192.0.2.7").serve("192.0.2.7:8765")
    assert allowed_hosts("::").serve("[::1]:8765")
    assert allowed_hosts("0.0.0.0").serve(socket.gethostname())
    assert not allowed_hosts("127.0.0.1").serve(f"{socket.gethostname()}.elsewhere")
    assert not allowed_hosts("127.0.0.1", ["photos.home:8443"]).serve("photos.home:8444")


NO_NAMES = (
    "ph*tos", "*", "*.home", "a,b", "a b", "http://photos.home", "photos.home/x", "a..b", "host:", "host:x",
    "host:70000", "", "-a", "[::1", "user@host", "a" * 64,
)  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_can_never_match_is_refused(name: str, served: tuple[str, Path]) -> None:
    with pytest.raises(S2R2Error, match="is not the name of a host") as error:
        serve(served[1] / "index", allow_hosts=[name], port=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["photos", "/pho tos", "/a/../b", "/api", "/photo/x", "/%2e", "/a?b", "//a"])
def test_a_path_that_no_proxy_shows_is_refused(path: str, served: tuple[str, Path]) -> None:
    with pytest.raises(S2R2Error, match="`root_path="):
        serve(served[1] / "index", root_path=path, port=0)


NOWHERE = [
    ("127.0.0.1", -1), ("127.0.0.1", 70_000), ("no.such.host.invalid", 0), ("a..b", 0), ("192.0.2.1", 0),
    ("x" * 300, 0), ("127.0.0.1:80", 0),
]  # fmt: skip


@pytest.mark.parametrize(("host", "port"), NOWHERE)
def test_where_nobody_can_listen_is_said(host: str, port: int, served: tuple[str, Path]) -> None:
    with pytest.raises(S2R2Error, match=r"`port|`host") as error:
        serve(served[1] / "index", host=host, port=port)
    assert "\n" not in str(error.value)


# what browsers and proxies send, and whether an upload is taken; the server was started with --allow-host photos.home
POSTS = [
    ({"host": "photos.home", "origin": "https://photos.home"}, 200),  # a proxy speaks TLS and keeps the name
    ({"host": "photos.home", "origin": "http://photos.home"}, 200),
    ({"host": "photos.home:8443", "origin": "https://photos.home:8443"}, 200),
    ({"host": "photos.home", "origin": "https://photos.home:8443"}, 200),  # it leaves out the port
    ({"host": "127.0.0.1:8765", "origin": "https://photos.home"}, 200),  # it asks under another name
    ({"host": "127.0.0.1:8765", "origin": "https://other.home", "sec-fetch-site": "same-origin"}, 200),
    ({"host": "localhost:8765", "origin": "http://localhost:8765"}, 200),
    ({"host": "localhost:8765"}, 200),  # no browser
    ({"host": "127.0.0.1:8765", "origin": "https://other.home"}, 403),
    ({"host": "localhost:8765", "origin": "http://localhost:1"}, 403),
    ({"host": "localhost:8765", "origin": "null"}, 403),
    ({"host": "localhost:8765", "origin": "http://localhost:8765", "sec-fetch-site": "cross-site"}, 403),
    ({"host": "photos.home", "origin": "https://photos.home", "sec-fetch-site": "same-site"}, 403),
    ({"host": "photos.home", "origin": "https://evil.example", "x-forwarded-host": "evil.example"}, 403),
    ({"host": "evil.example", "origin": "http://evil.example", "forwarded": "host=photos.home"}, 400),
]  # fmt: skip


def asked(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    """One question to an application in this process."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def app(served: tuple[str, Path]) -> ASGIApp:
    return create_app([served[1] / "index"], hosts=allowed_hosts("127.0.0.1", ["photos.home"]), root="/photos")


@pytest.mark.parametrize(("headers", "status"), POSTS)
def test_uploads_through_proxies(app: ASGIApp, served: tuple[str, Path], headers: dict[str, str], status: int) -> None:
    content = jpeg(served[1] / "photos" / "blue" / "2.jpg")
    answer = asked(app, "POST", "/api/similar", content=content, headers={**headers, "content-type": "image/jpeg"})
    assert answer.status_code == status, answer.text
    if status == 403:
        assert "--allow-host" in answer.json()["error"]


def test_a_path_of_a_proxy_may_be_left_or_not(app: ASGIApp) -> None:
    for prefix in ("", "/photos"):
        assert asked(app, "GET", f"{prefix}/api/about").json()["indexes"][0]["photos"] == 25
        assert asked(app, "GET", f"{prefix}/page/api.js").status_code == 200
    for path in ("/", "/photos", "/photos/"):
        page = asked(app, "GET", path)
        assert page.status_code == 200
        assert '="/photos/page/app.js"' in page.text
    for path in ("/photosapi/about", "/photos/photos/api/about", "/api/about/"):  # a redirect would name a wrong host
        assert asked(app, "GET", path).status_code == 404


@pytest.mark.parametrize("noticed", [True, False])
def test_an_index_that_is_deleted_and_made_again(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """Before the server looks again, and later: a line that says so, never a 500; then it is there again."""
    folder = tmp_path / "index"
    shutil.copytree(served[1] / "index", folder)
    monkeypatch.setattr(served_index, "_LOOK_AGAIN", 0.0 if noticed else 1e9)
    app = create_app([folder])
    photo = asked(app, "GET", "/api/photos").json()["photos"][0]["id"]
    paths = [
        f"/thumbnail/{photo}", f"/photo/{photo}", f"/api/similar/{photo}?box=0,0,0.5,0.5", "/api/about", "/api/map",
        f"/api/similar/{photo}", "/api/duplicates", "/api/photos", f"/api/photos/{photo}",
    ]  # fmt: skip
    shutil.rmtree(folder)
    content = jpeg(served[1] / "photos" / "blue" / "2.jpg")
    answers = [asked(app, "GET", path) for path in paths]
    answers.append(asked(app, "POST", "/api/similar", content=content, headers={"content-type": "image/jpeg"}))
    for path, answer in zip([*paths, "POST"], answers, strict=True):
        assert answer.status_code in ((503,) if noticed else (200, 202, 404, 503)), (path, answer.text)
        if answer.status_code == 503:
            assert "\n" not in answer.json()["error"]
            assert answer.headers["retry-after"]
    assert answers[0].status_code == 503
    assert not folder.exists()
    shutil.copytree(served[1] / "index", folder)
    monkeypatch.setattr(served_index, "_LOOK_AGAIN", 0.0)
    assert [asked(app, "GET", path).status_code for path in paths[:3]] == [200, 200, 200]


def test_head_is_get_without_the_content(client: httpx.Client) -> None:
    photo = client.get("/api/photos").json()["photos"][0]["id"]
    paths = (
        "/", "/page/app.js", "/api/about", "/api/photos", f"/api/photos/{photo}", f"/thumbnail/{photo}", "/x",
        f"/photo/{photo}", f"/api/similar/{photo}", "/api/similar/1?k=0", "/api/duplicates", "/api/map",
    )  # fmt: skip
    for path in paths:
        whole, head = client.get(path), client.head(path)
        assert head.status_code == whole.status_code or 202 in (head.status_code, whole.status_code), path
        assert head.content == b""
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.post("/api/about").status_code == 405
    assert "GET" in client.put("/api/about").headers["allow"]


def test_it_listens_on_loopback_and_warns_otherwise(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "_run", lambda *_: None)
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("0.0.0.0", True)):
        serve(served[1] / "index", host=host, port=0)
        assert ("WARNING" in capsys.readouterr().err) == warned, host


def test_what_cannot_be_served_is_said(tmp_path: Path, served: tuple[str, Path]) -> None:
    with pytest.raises(S2R2Error, match="no index in"):
        serve(tmp_path)
    port = urlsplit(served[0]).port
    assert port is not None
    with pytest.raises(S2R2Error, match="cannot listen on"):
        serve(served[1] / "index", port=port)
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path)])


def test_encoders_of_two_indexes_load_one_after_the_other() -> None:
    """Threads that import torch at the same time leave it half imported, and no later search would be answered."""
    meeting = threading.Barrier(2)
    met: list[int] = []

    class Index:
        thumbnail = staticmethod(bytes)

        @property
        def encoder(self) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                met.append(meeting.wait(0.2))

    background = served_index.Background()
    both = [served_index.ServedIndex(Index(), background) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(served_index.ServedIndex._load, both))
    assert not met
