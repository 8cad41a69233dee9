"""The program that decodes strangers' files: a process of its own, so that a crash or a hang costs one image.

It reads requests from its standard input: a line of JSON ``[settings, jobs]``, a job being ``[path, offset, size,
checksum, kind, bytes]``, then the contents of those jobs that come with them. It answers every job in order on its
standard output. Answers come several to a message: the number of answers, a header for each, then their pixels or
reasons. Before it makes many pixels it asks, and waits for a line. Nothing is ever unpickled: what a hostile file might
make of this process cannot reach the one that started it.
"""

import contextlib
import json
import os
import signal
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.decoder import decode, decoded_size, photo_facts
from s2r2.images.decoding.facts import PhotoFacts
from s2r2.images.decoding.protocol import ASKING, DECODED, FACTS, HEADER, READY, SIZE, UNCHANGED, UNREADABLE, Settings
from s2r2.images.places import FilePlace
from s2r2.system.allocator import return_freed_memory
from s2r2.system.child_processes import end_with_parent

MESSAGE_BYTES = 1 << 20
MESSAGE_SECONDS = 1.0
UNASKED = 16_000_000
"""Pixels that a process may have in memory without asking."""


def main() -> None:
    """Serve until the standard input ends."""
    end_with_parent()  # also in the middle of an image
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _limit("RLIMIT_CORE", 0)
    return_freed_memory()
    with contextlib.suppress(ImportError, AttributeError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    answers.write(READY)
    with open(os.devnull, "r+b") as nowhere:  # C libraries write complaints, and must not write into the answers
        for descriptor in (0, 1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    with contextlib.suppress(BrokenPipeError):
        for line in requests:
            settings, jobs = json.loads(line)
            contents = [requests.read(job[-1]) if job[-1] >= 0 else None for job in jobs]
            _Request(requests, answers, Settings(*settings)).serve(jobs, contents)
    os._exit(0)


class _Request:
    def __init__(self, requests: BinaryIO, answers: BinaryIO, settings: Settings) -> None:
        self.requests, self.answers, self.settings = requests, answers, settings
        self.headers: list[tuple[int, ...]] = []
        self.payloads: list[bytes | memoryview] = []
        self.began = time.monotonic()
        # Pillow's 4 bytes a pixel, several times over while it is converted.
        _limit("RLIMIT_AS", max(4 << 30, 32 * settings.max_pixels))

    def serve(self, jobs: list[list[Any]], contents: list[bytes | None]) -> None:
        for job, content in zip(jobs, contents, strict=True):
            _limit("RLIMIT_CPU", int(time.process_time() + self.settings.seconds) + 1)
            facts: list[PhotoFacts] = []
            header, payload = self._answer(job, content, facts.append)
            told = json.dumps(facts[-1]).encode() if facts and header[0] in (DECODED, FACTS) else b""
            self.headers.append((*header, len(payload), len(told)))
            self.payloads += [payload, told]
            if sum(map(len, self.payloads)) >= MESSAGE_BYTES or time.monotonic() - self.began > MESSAGE_SECONDS:
                self._send()
        self._send()

    def _answer(
        self, job: list[Any], content: bytes | None, tell: Callable[[PhotoFacts], None]
    ) -> tuple[tuple[int, ...], bytes | memoryview]:
        path, offset, size, checksum, kind, _ = job
        content_checksum = 0
        limits = {"max_pixels": self.settings.max_pixels, "short_side": self.settings.short_side}
        try:
            content = FilePlace(path, offset, size).read() if content is None else content
            if kind == "size":
                width, height = decoded_size(content, **limits)
                return (SIZE, height, width, 0, 0), b""
            if kind == "facts":
                tell(photo_facts(content, max_pixels=self.settings.max_pixels))
                return (FACTS, 0, 0, 0, 0), b""
            content_checksum = zlib.crc32(content)
            if content_checksum == checksum:
                return (UNCHANGED, 0, 0, content_checksum, 0), b""
            told = tell if self.settings.facts else None
            pixels = decode(content, **limits, part=self.settings.part, ask=self._ask, tell=told)
        except UnreadableImage as error:
            return (UNREADABLE, 0, 0, content_checksum, 0), error.reason.encode("utf-8", "backslashreplace")
        flat = np.ascontiguousarray(pixels).reshape(-1).data
        return (DECODED, *pixels.shape[:2], content_checksum, zlib.crc32(flat)), flat

    def _ask(self, pixels: int) -> None:
        if pixels > UNASKED:
            self.headers.append((ASKING, 0, 0, pixels // 1000, 0, 0, 0))
            self._send()
            if not self.requests.readline():
                os._exit(0)

    def _send(self) -> None:
        """Send the answers that are there."""
        if not self.headers:
            return
        parts = [len(self.headers).to_bytes(4, "little"), np.array(self.headers, HEADER).tobytes(), *self.payloads]
        small = sum(map(len, self.payloads)) < 2 * MESSAGE_BYTES
        for part in [b"".join(parts)] if small else parts:
            view = memoryview(part)
            while len(view):
                view = view[self.answers.write(view) :]
        self.headers, self.payloads, self.began = [], [], time.monotonic()


def _limit(what: str, most: int) -> None:
    """Let an absurd allocation fail in here instead of driving the machine out of memory; and so with time."""
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError):
        import resource

        kind = getattr(resource, what)
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))
