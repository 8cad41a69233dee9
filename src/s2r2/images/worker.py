"""The program that decodes strangers' files: a process of its own, so that a crash or a hang costs one image.

It reads lines of JSON from its standard input, each a list of jobs ``[path, offset, size, checksum, kind]``, and
answers every job in order on its standard output. Answers come several to a message: the number of answers, a header
for each, then their pixels or reasons. Nothing is ever unpickled: what a hostile file might make of this process
cannot reach the one that started it.
"""

import contextlib
import json
import os
import signal
import sys
import time
import zlib
from typing import BinaryIO

import numpy as np

from s2r2.images.decoding import UnreadableImage, decode, decoded_size
from s2r2.images.sources import Slice, read_slice

HEADER = np.dtype(
    [("status", "u1"), ("height", "<u4"), ("width", "<u4"), ("content", "<u4"), ("pixels", "<u4"), ("bytes", "<u8")]
)
DECODED, UNREADABLE, UNCHANGED, SIZE = range(4)
"""What an answer says: pixels follow; a reason follows; the file is as its checksum says; only the sides were asked."""

READY = b"+"
MESSAGE_BYTES = 1 << 20
MESSAGE_SECONDS = 1.0


def main() -> None:
    """Serve until the standard input ends."""
    short_side, max_pixels, memory = json.loads(sys.argv[1])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _limit_memory(memory)
    answers.write(READY)
    with open(os.devnull, "r+b") as nowhere:  # C libraries write complaints, and must not write into the answers
        for descriptor in (0, 1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    with contextlib.suppress(BrokenPipeError):
        for line in requests:
            _serve(json.loads(line), answers, short_side, max_pixels)
    os._exit(0)


def _serve(jobs: list[list], answers: BinaryIO, short_side: int | None, max_pixels: int) -> None:
    headers: list[tuple[int, ...]] = []
    payloads: list[bytes | memoryview] = []
    waiting, began = 0, time.monotonic()
    for job in jobs:
        header, payload = _answer(job, short_side, max_pixels)
        headers.append((*header, len(payload)))
        payloads.append(payload)
        waiting += len(payload)
        if waiting >= MESSAGE_BYTES or time.monotonic() - began > MESSAGE_SECONDS:
            _send(answers, headers, payloads)
            headers, payloads, waiting, began = [], [], 0, time.monotonic()
    if headers:
        _send(answers, headers, payloads)


def _answer(job: list, short_side: int | None, max_pixels: int) -> tuple[tuple[int, ...], bytes | memoryview]:
    path, offset, size, checksum, kind = job
    content_checksum = 0
    try:
        content = read_slice(Slice(path, offset, size))
        if kind == "size":
            width, height = decoded_size(content, max_pixels=max_pixels, short_side=short_side)
            return (SIZE, height, width, 0, 0), b""
        content_checksum = zlib.crc32(content)
        if content_checksum == checksum:
            return (UNCHANGED, 0, 0, content_checksum, 0), b""
        pixels = decode(content, max_pixels=max_pixels, short_side=short_side)
    except UnreadableImage as error:
        return (UNREADABLE, 0, 0, content_checksum, 0), error.reason.encode("utf-8", "backslashreplace")
    flat = pixels.reshape(-1).data
    return (DECODED, *pixels.shape[:2], content_checksum, zlib.crc32(flat)), flat


def _send(answers: BinaryIO, headers: list[tuple[int, ...]], payloads: list[bytes | memoryview]) -> None:
    table = np.array(headers, HEADER)
    parts = [len(headers).to_bytes(4, "little"), table.tobytes()]
    small = sum(map(len, payloads)) < 2 * MESSAGE_BYTES
    for part in [b"".join([*parts, *payloads])] if small else [*parts, *payloads]:
        view = memoryview(part)
        while len(view):
            view = view[answers.write(view) :]


def _limit_memory(limit: int) -> None:
    """Let an absurd allocation fail in here instead of driving the machine out of memory."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
