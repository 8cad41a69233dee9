"""Clients that are slow, silent or many, and the end of the server: deadlines, limits, and a log that stays small."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

import preloaded
from s2r2.search.server import connection_limits
from s2r2.search.server.connection_limits import Connection, LogRateLimit, connections_allowed

Address = tuple[str, int]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application: reads what is sent, waits where ``/slow`` is asked for, sends 50 MB where ``/large`` is."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(3)
    body = bytes(50_000_000 if scope["path"] == "/large" else 2)
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Address]]:
    """Starts a server of that application with limits as small as the test wants them."""
    ends: list[Callable[[], None]] = []

    def start(application: ASGIApp = answer, most: int = 100, **limits: float) -> Address:
        for name, value in limits.items():
            monkeypatch.setattr(connection_limits, name.upper(), value)
        monkeypatch.setattr(Connection, "most", most)
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application, http=Connection, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(10)

        ends.append(end)
        address: Address = listening.getsockname()
        return address

    yield start
    for end in ends:
        end()


def read_all(client: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    client.settimeout(15)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            found += piece
    return found


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def test_half_a_request_has_a_deadline_however_it_drips(limited: Callable[..., Address]) -> None:
    address = limited(head_seconds=1.0)
    with socket.create_connection(address) as half, socket.create_connection(address) as silent:
        half.sendall(WHOLE[:20])
        with socket.create_connection(address) as later:  # a whole request, then half of the next
            later.sendall(WHOLE)
            assert later.recv(1000).startswith(b"HTTP/1.1 200")
            later.sendall(WHOLE[:10])
            began = time.monotonic()
            for client in (half, later):
                answer = read_all(client)
                assert b"HTTP/1.1 408" in answer
                assert "did not come within" in json.loads(answer.split(b"\r\n\r\n")[1])["error"]
            assert read_all(silent) == b""
            assert time.monotonic() - began < 4
    with socket.create_connection(address) as dripping:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in WHOLE[:26] * 5:
                dripping.sendall(bytes([byte]))
                time.sleep(0.1)
                if not is_open(dripping):
                    break
        assert time.monotonic() - began < 4


@pytest.mark.slow
def test_the_body_of_a_refused_request_has_a_deadline(limited: Callable[..., Address]) -> None:
    """An answer was given before all was sent: the rest is not awaited for ever."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 415, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    address = limited(refuse, head_seconds=1.0)
    with socket.create_connection(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 8:
                client.sendall(b"x")
                time.sleep(0.2)
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_given_up(limited: Callable[..., Address]) -> None:
    address = limited(unread_seconds=1.0)
    with socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(4)
        assert len(read_all(client)) < 50_000_000
    with socket.create_connection(address) as client:  # who reads, if slowly, gets all
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        found = 0
        while piece := client.recv(1 << 20):
            found += len(piece)
            time.sleep(0.02)
        assert found > 50_000_000


def test_the_most_silent_connection_makes_room(limited: Callable[..., Address]) -> None:
    address = limited(most=5)
    silent = [socket.create_connection(address) for _ in range(5)]
    for client in silent:
        client.sendall(WHOLE[:5])
        time.sleep(0.02)
    with socket.create_connection(address) as honest:
        honest.sendall(WHOLE)
        assert honest.recv(1000).startswith(b"HTTP/1.1 200")
    assert [is_open(client) for client in silent] == [False, True, True, True, True]
    for client in silent:
        client.close()


@pytest.mark.slow
def test_where_all_are_being_answered_one_more_is_refused_at_once(limited: Callable[..., Address]) -> None:
    address = limited(most=3)
    busy = [socket.create_connection(address) for _ in range(3)]
    for client in busy:
        client.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
    time.sleep(0.3)
    with socket.create_connection(address) as more:
        answer = read_all(more)
        assert answer.startswith(b"HTTP/1.1 503")
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]
    for client in busy:
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()


def test_the_same_complaint_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("s2r2.test")
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logger.addFilter(LogRateLimit(60.0))
    for number in range(1000):
        logger.warning("no answer for %d", number)
    logger.warning("something else")
    now[0] = 61.0
    logger.warning("no answer for %d", 5)
    assert [record.getMessage() for record in caplog.records] == [
        "no answer for 0", "something else", "no answer for 5 (and 999 more like it)",
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_fewer_connections_where_fewer_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = [(1024, 4096), (1024, 1024), (256, 256), (64, resource.RLIM_INFINITY)]
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, to: set_to.append(to))
    found = []
    for limit in limits:
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: limit)
        found.append(connections_allowed())
    assert found == [512, 512, 84, 512]
    assert set_to == [(256, 256), (896, resource.RLIM_INFINITY)]


@pytest.fixture
def own_server(served: tuple[str, Path], tmp_path: Path) -> Iterator[tuple[preloaded.Process, Address, Path]]:
    """A server of one's own, which may open few files: its process, its address, its log."""
    program = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (768, 768)); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore it
        "from s2r2.cli import main; main(sys.argv[1:])"
    )
    with open(tmp_path / "log", "w") as log:
        process = preloaded.start("-c", program, "serve", served[1] / "index", "--port", "0", live=True, stderr=log)
    port = int(process.stdout.readline().split("/   ")[0].rsplit(":", 1)[1])
    yield process, ("127.0.0.1", port), tmp_path / "log"
    process.kill()
    process.wait()


@pytest.mark.slow
def test_half_sent_requests_stop_nothing_and_ctrl_c_ends_all(
    own_server: tuple[preloaded.Process, Address, Path], served: tuple[str, Path], tmp_path: Path
) -> None:
    """1,100 half-sent requests of all kinds; then slow uploads and Ctrl-C: one line, in a few seconds."""
    process, address, log = own_server
    site = f"http://127.0.0.1:{address[1]}"
    photo = httpx.get(f"{site}/api/photos", timeout=60).json()["photos"][0]["id"]
    halves = (
        b"GET /api/about HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"", b"G",
        b"POST /api/similar HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/png\r\ncontent-length: 1000000\r\n\r\nx",
    )  # fmt: skip
    slow = []
    for number in range(1100):
        with contextlib.suppress(OSError):
            client = socket.create_connection(address, timeout=5)
            client.sendall(halves[number % len(halves)])
            slow.append(client)
        if number % 100 == 99:
            began = time.monotonic()
            assert httpx.get(f"{site}/api/similar/{photo}", timeout=30).status_code == 200
            assert time.monotonic() - began < 15  # on cores that others keep busy; 30 ms on idle ones
    Image.effect_noise((3000, 2000), 80).save(tmp_path / "large.png")
    content = (tmp_path / "large.png").read_bytes()
    for _ in range(3):  # being decoded when the end comes
        client = socket.create_connection(address, timeout=5)
        client.sendall(halves[3].replace(b"1000000\r\n\r\nx", b"%d\r\n\r\n" % len(content)) + content)
        slow.append(client)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(30) == 0
    assert time.monotonic() - began < 20
    assert process.stdout.read() == "ended\n"
    assert log.stat().st_size < 2000, log.read_text()
    assert "Traceback" not in log.read_text()
    for client in slow:
        client.close()


@pytest.mark.slow
def test_plain_searches_go_on_among_large_uploads_slow_and_hostile_clients(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small form of benchmarks/serving_under_attack.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import serving
    import serving_under_attack as attacking

    photo = (served[1] / "photos" / "red" / "0.jpg").read_bytes()
    index = tmp_path / "index"
    shutil.copytree(served[1] / "index", index)
    with open(tmp_path / "log", "w") as log, serving.server(index, stderr=log) as (port, process):
        ids = asyncio.run(serving.some_ids(port, 25))
        assert asyncio.run(serving.still_well(port, photo))
        large = attacking.large_photos(3000, 2000)
        clients, few = (4, 4, 4, 1), 8
        seen = asyncio.run(attacking.attack(port, process, 5.0, ids, index, photo, large, clients, few))
        assert asyncio.run(serving.still_well(port, photo))
    assert seen.wrong((tmp_path / "log").stat().st_size, seconds=20.0) == []  # other tests share the cores
    assert seen.statuses["plain"][200] > 3
    assert "Traceback" not in (tmp_path / "log").read_text()
