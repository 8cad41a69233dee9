"""Under which names the server may be asked, and whether a request comes from its own page."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import idna

from s2r2.errors import ArgumentError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_WITH_PORT = re.compile(r"(?:\[([0-9a-f:.]+)(?:%[^\]]*)?\]|([^\s:/\\\[\]@?#]+))(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


class Host(NamedTuple):
    """A name or address as a browser would send it, and its port, None where none is said.

    Names are in lower case, without a dot at the end, those of other scripts in their ASCII form; IPv6 addresses are
    in their shortest form, without brackets.
    """

    name: str
    port: int | None = None


def parse_host(text: str) -> Host | None:
    """What ``photos.home``, ``photos.home:8443``, ``[::1]:80`` or ``::1`` names; None if it cannot name a host."""
    text = text.strip().lower()
    try:
        return Host(ipaddress.IPv6Address(text.partition("%")[0]).compressed)
    except ValueError:
        pass
    match = _WITH_PORT.fullmatch(text)
    if match is None or int(match[3] or 0) > 65535:
        return None
    name = match[1] or match[2].removesuffix(".")
    try:
        name = ipaddress.ip_address(name).compressed
    except ValueError:
        if match[1]:
            return None
        try:
            name = name if name.isascii() else idna.encode(name, uts46=True).decode()
        except idna.IDNAError:
            return None
        if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
            return None
    return Host(name, int(match[3]) if match[3] else None)


class AllowedHosts:
    """The names of this server.

    Args:
        own: Names and addresses of this machine, asked at any port.
        more: Names given by the user, such as a reverse proxy's; with a port, that port only.
    """

    def __init__(self, own: Sequence[str], more: Sequence[Host] = ()) -> None:
        self._own = {host.name for name in own if (host := parse_host(name)) is not None}
        self._more = tuple(more)

    def serve(self, host: str) -> bool:
        """Whether a request with this ``Host`` header is answered."""
        asked = parse_host(host)
        return asked is not None and (asked.name in self._own or self._added(asked))

    def own_page(self, origin: str, host: str, scheme: str | None = None) -> bool:
        """Whether ``Origin`` is the page that ``Host`` serves, or one at a name that the user gave.

        Args:
            origin: What the browser says.
            host: Likewise.
            scheme: In which the browser asked, if a named proxy said it; else it is not compared, since a proxy may
                speak HTTPS to the browser and HTTP to this server.
        """
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        page, asked = parse_host(parts.netloc), parse_host(host)
        if page is None or asked is None or parts.scheme not in _PORTS:
            return False
        if scheme not in (None, parts.scheme):
            return False
        page = Host(page.name, page.port or _PORTS[parts.scheme])
        ports = _PORTS.values() if asked.port is None else (asked.port,)
        return (page.name == asked.name and page.port in ports) or self._added(page)

    def _added(self, asked: Host) -> bool:
        ports = (None, asked.port) if asked.port else (None, *_PORTS.values())
        return any(given.name == asked.name and given.port in ports for given in self._more)


def allowed_hosts(listening: str, allow: Sequence[str] = ()) -> AllowedHosts:
    """The names of a server that listens on an address.

    Args:
        listening: The address that the server listens on.
        allow: More names.

    Raises:
        S2R2Error: One of ``allow`` can be the name of no host.
    """
    own = {*LOOPBACK, listening}
    if not is_loopback(listening):
        name = socket.gethostname()
        own |= {name, f"{name}.local", *_addresses(listening)}
    more = []
    for text in allow:
        host = parse_host(text)
        if host is None:
            raise ArgumentError(
                f"`allow_hosts`: {text!r} is not the name of a host: give it as in the browser's address bar, such as "
                "photos.home or photos.home:8443, each name by itself"
            )
        more.append(host)
    return AllowedHosts(sorted(own), more)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


def _addresses(listening: str) -> set[str]:
    """Addresses of this machine, if it listens on all of them."""
    if listening.strip("[]") not in ("0.0.0.0", "::", ""):
        return set()
    found: set[str] = set()
    with contextlib.suppress(OSError, UnicodeError):
        found |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # reserved for documentation; nothing is sent
            found.add(probe.getsockname()[0])
    return found
