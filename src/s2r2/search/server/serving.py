"""Starting the search page's server."""

import contextlib
import ctypes
import ipaddress
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.search.server.guard import LOOPBACK


def serve(
    folder: str | Path,
    *,
    compare: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_hosts: Sequence[str] = (),
    open_browser: bool = False,
) -> None:
    """Serve the search page until Ctrl-C.

    Args:
        folder: Of the index.
        compare: Of a second index, shown beside it.
        host: Address to listen on; anything but loopback lets others on the network see the photos, and is warned of.
        port: To listen on; 0 takes a free one.
        allow_hosts: More names under which the page may be opened, such as that of a reverse proxy.
        open_browser: Open the page in the browser.

    Raises:
        S2R2Error: There is no index, FastAPI and uvicorn are not installed, or the port is taken.
    """
    try:
        import uvicorn

        from s2r2.search.server.app import create_app
    except ImportError as error:
        raise S2R2Error(f"the search page needs {error.name}: pip install 's2r2[web]'") from error
    folders = [folder] if compare is None else [folder, compare]
    app = create_app(folders, hosts=allowed_hosts(host, allow_hosts))
    listening = _listen(host, port)
    address = f"http://{_url_host(host)}:{listening.getsockname()[1]}/"
    if not _is_loopback(host):
        print(
            f"WARNING   everybody who can reach {host} can see and search these photos; there is no password and no "
            "encryption. Use --host 127.0.0.1 unless you want that.",
            file=sys.stderr,
        )
    print(f"serving   {address}   (Ctrl-C ends it)", flush=True)
    if open_browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    _return_memory()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
        timeout_keep_alive=15, timeout_graceful_shutdown=3, h11_max_incomplete_event_size=16 << 10, http="h11",
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()


def _return_memory() -> None:
    """Have glibc give the memory of decoded photos back to the system rather than keep it for each thread.

    Its defaults let a server that decodes in many threads grow for a long time, without anything being leaked.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library: its own ways will do
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-8, 2)  # M_ARENA_MAX: heaps that threads share
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: larger pieces are returned at once; setting it keeps it from rising


def allowed_hosts(host: str, more: Sequence[str] = ()) -> list[str]:
    """Names under which the page may be asked for when it listens on ``host``."""
    names = {*LOOPBACK, *(name.lower() for name in more)}
    if not _is_loopback(host):
        own = socket.gethostname().lower()
        names |= {own, f"{own}.local"}
        names |= _addresses() if host in ("0.0.0.0", "::", "") else {host.lower()}
    return sorted(names | {f"[{name}]" for name in names if ":" in name and not name.startswith("[")})


def _addresses() -> set[str]:
    """Addresses of this machine."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= {str(entry[4][0]).split("%")[0] for entry in socket.getaddrinfo(socket.gethostname(), None)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; nothing is sent
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return found


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small answers at once only on sockets that say they are TCP; 40 ms each otherwise
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)  # who reads the printed address may connect at once, and waits until all is loaded
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise S2R2Error(f"cannot listen on {host}:{port} ({reason}): choose another --port or --host") from error
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
