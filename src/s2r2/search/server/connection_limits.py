"""Connections of clients that are slow, silent or many: each has deadlines, all of them a limit, the log too.

uvicorn has a timeout for connections between two requests; it has none for requests that stop half-way, nor for
answers that nobody reads, and of its limit of connections it complains in a line each.
"""

import asyncio
import contextlib
import logging
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""In which the first lines of a request must come."""
KEEP_SECONDS = 15
"""For which a connection is kept between two requests."""
UNREAD_SECONDS, UNREAD_BYTES = 30.0, 32 << 10
"""In so many seconds a client must have read so many bytes of an answer, or all that is left of it."""
MOST = 512
"""Connections at once. One more takes the place of the one that has been silent longest."""
_OTHER_FILES = 128


def connections_allowed() -> int:
    """How many connections at once: 512, or what the limit of open files leaves, which is raised if need be.

    Half as many again may be waiting to be taken.
    """
    wanted = MOST + MOST // 2 + _OTHER_FILES
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST if soft == resource.RLIM_INFINITY else max(8, min(MOST, (soft - _OTHER_FILES) // 3 * 2))


class Connection(H11Protocol):
    """An HTTP/1.1 connection with deadlines for what the client has to do."""

    most = MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room or can be made."""
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._begun: float | None = self._heard  # when the client began a request, or could have
        self._unread: tuple[float, int] | None = None  # since when so many bytes are waiting to be read
        self._timer = self.loop.call_later(1.0, self._look)
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the deadlines with the connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends, and notice whether it is a whole request by now."""
        super().data_received(data)
        self._heard = self.loop.time()
        if not self._between_requests:
            self._begun = None
        elif self._begun is None:
            self._begun = self._heard

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn to send or to read."""
        if self._between_requests:
            return True
        return (self.cycle.more_body and not self.flow.read_paused) or self.flow.write_paused

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; an answer to it that is being prepared, or was given, is the last word."""
        begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if begun:
            self.transport.close()
        else:
            self._end(b"400 Bad Request", b"this is no HTTP request")

    def _make_room(self) -> None:
        """Hang up on the client that has been silent longest; refuse this one if all others are being answered."""
        others = [other for other in self.connections if other is not self and not other.transport.is_closing()]
        if len(others) < self.most:
            return
        waiting = [other for other in others if isinstance(other, Connection) and other.waits_for_client]
        if waiting:
            min(waiting, key=lambda other: other._heard).transport.abort()
        else:
            self._end(b"503 Service Unavailable", b"too many questions at once: ask again later")

    def _look(self) -> None:
        """Once a second: whether the client is too slow."""
        self._timer = self.loop.call_later(1.0, self._look)
        now = self.loop.time()
        if self._reads_too_slowly(now):
            self.transport.abort()
        elif self._begun is not None and now - self._begun > HEAD_SECONDS and not self.transport.is_closing():
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self._end(b"408 Request Timeout", f"the request did not come within {HEAD_SECONDS:.0f} s".encode())
            else:  # nothing was asked, or it was answered and the rest of it comes too slowly
                self.transport.close()

    def _reads_too_slowly(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if size == 0:
            self._unread = None
        elif self._unread is None or size <= self._unread[1] - UNREAD_BYTES:
            self._unread = now, size
        return self._unread is not None and now - self._unread[0] > UNREAD_SECONDS

    def _end(self, status: bytes, reason: bytes) -> None:
        """Answer without asking the application, and hang up."""
        body = b'{"error":"%s"}' % reason
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, len(body), body)
        )
        self.transport.close()


class LogRateLimit(logging.Filter):
    """Lets a line, whatever it is about, into the log once a minute, and says how many were left out."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._seen: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        kind = (record.msg, record.exc_info[0] if record.exc_info else None)
        now = time.monotonic()
        since, left_out = self._seen.get(kind, (-self.seconds, 0))
        if now - since < self.seconds:
            self._seen[kind] = since, left_out + 1
            return False
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[kind] = now, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", None
        return True


def limit_log_rate(silent: bool = False) -> None:
    """Have hostile requests write a few lines into the log instead of a line each; or nothing, when all is ended."""
    for name in ("uvicorn.error", "asyncio", "s2r2.search"):
        logger = logging.getLogger(name)
        logger.disabled = silent
        if not any(isinstance(present, LogRateLimit) for present in logger.filters):
            logger.addFilter(LogRateLimit())
