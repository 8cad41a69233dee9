"""Starting the search page's server."""

import contextlib
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.allocator import return_freed_memory
from s2r2.system.extras import require_extra
from s2r2.system.terminal import say
from s2r2.system.wording import worded

if TYPE_CHECKING:
    import uvicorn

GRACE = 2
"""Seconds in which questions under way may still be answered when the server is ended."""


def serve(
    folder: str | Path,
    *,
    compare: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_hosts: Sequence[str] = (),
    root_path: str = "",
    open_browser: bool = False,
    backend: str | None = None,
    read_only: bool = False,
    originals: bool = True,
    proxies: Sequence[str] = (),
    docs: bool = False,
) -> None:
    """Serve the search page until Ctrl-C.

    Args:
        folder: Of the index.
        compare: Of a second index, shown beside it.
        host: Address to listen on; anything but loopback lets others on the network see the photos, and is warned of.
        port: To listen on; 0 takes a free one.
        allow_hosts: More names under which the page may be opened, such as that of a reverse proxy; with a port, as in
            ``photos.home:8443``, that port only.
        root_path: Path under which a reverse proxy shows the page, as in ``/photos``.
        open_browser: Open the page in the browser.
        backend: Name of the search backend; by default the one for which each index is made.
        read_only: Write nothing: marks are shown, but not kept.
        originals: Offer the files of selected photos as a zip, with their metadata.
        proxies: Addresses of reverse proxies whose forwarded headers are believed, or networks that they are in.
        docs: Answer ``/docs`` and ``/openapi.json``: the reference of the JSON API.

    Raises:
        S2R2Error: There is no index, its marks cannot be read, FastAPI and uvicorn are not installed, the port is
            taken, or a name or path cannot be one.
    """
    require_extra("serve", "the search page")
    import uvicorn

    from s2r2.search.server import connection_limits
    from s2r2.search.server.allowed_hosts import allowed_hosts, is_loopback
    from s2r2.search.server.app import create_app

    folders = [folder] if compare is None else [folder, compare]
    hosts = allowed_hosts(host, allow_hosts)
    app = create_app(
        folders, hosts=hosts, root=root_path, backend=backend, read_only=read_only, originals=originals,
        proxies=proxies, docs=docs,
    )  # fmt: skip
    listening = _listen(host, port)
    address = f"http://{_url_host(host)}:{listening.getsockname()[1]}/"
    if not is_loopback(listening.getsockname()[0]):
        say(
            worded(
                f"WARNING   anyone who can reach {host} can see and search these photos; there is no password and no "
                "encryption. Use `host='127.0.0.1'` unless you want that."
            ),
            error=True,
        )
    say(f"serving   {address}   (Ctrl-C ends it)")
    if open_browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    return_freed_memory()
    connection_limits.Connection.most = connection_limits.connections_allowed()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
        timeout_keep_alive=connection_limits.KEEP_SECONDS, timeout_graceful_shutdown=GRACE,
        backlog=connection_limits.Connection.most // 2,
        h11_max_incomplete_event_size=16 << 10, http=connection_limits.Connection,
        loop="asyncio",
    )  # fmt: skip
    try:
        _run(uvicorn.Server(config), listening)
    finally:
        listening.close()


def _run(server: "uvicorn.Server", listening: socket.socket) -> None:
    """Run a server until it is interrupted, and then, whatever it is doing, for a few seconds more.

    It runs in a thread that need not end, and so do the threads that it starts: a decoder or a disk that hangs, or a
    long search for duplicates, keeps nobody from ending it.
    """
    from s2r2.search.server.connection_limits import limit_log_rate

    errors: list[BaseException] = []

    def work() -> None:
        try:
            server.run(sockets=[listening])
        except BaseException as error:
            errors.append(error)

    limit_log_rate()
    thread = threading.Thread(target=work, daemon=True, name="s2r2-serve")
    thread.start()
    try:
        with _interrupted_by_sigterm():
            while thread.is_alive():
                thread.join(1.0)
    except KeyboardInterrupt:
        limit_log_rate(silent=True)  # of requests that are broken off
        server.should_exit = True
        thread.join(2 * GRACE + 1)
        say("ended")
        return
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ArgumentError(f"`port={port}`: a port is a number from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]") or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small answers at once only on sockets that say they are TCP; 40 ms each otherwise
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"`host={host!r}`: no such address ({reason}); give one of this machine's") from error
    try:
        if os.name != "nt":  # there it would share the port with another program
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address[0] == "::":  # all addresses, those of IPv4 too
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(1024)  # who reads the printed address may connect at once, and waits until all is loaded
    except OSError as error:
        listening.close()
        raise S2R2Error(
            f"cannot listen on {_url_host(host)}:{port} ({error.strerror or error}): choose another `port` or `host`"
        ) from error
    return listening


def _url_host(host: str) -> str:
    host = host.strip("[]")
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
