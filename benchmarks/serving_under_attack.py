"""The search page's server among large uploads, slow clients and hostile requests: plain searches go on.

    python benchmarks/serving_under_attack.py                64 clients for two minutes
    python benchmarks/serving_under_attack.py --seconds 20   shorter

Clients, server and index (20,000 photos) are on this machine and share its cores. 24 clients send photos of 40
megapixels, one after the other, each a plain or a progressive JPEG; 24 are slow, and keep 16 connections each: requests
half sent, sent byte by byte, without their body, answers not read; 12 are hostile as in serving.py; one downloads
10,000 photos as a zip again and again; 4 search as a page does, and their answers are timed. Exits with 1 if an answer
is a 5xx, the server and its processes hold 2 GB at any time, a plain search takes more than 2 s, or the log has more
than 64 KB.
"""

import argparse
import asyncio
import contextlib
import http.client
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2r2.search.server.selections import MOST_PHOTOS
from serving import SECRET, Connection, hostile_kinds, request, server, some_ids, still_well

RESULTS = Path(__file__).parent / "results" / "serving_under_attack.json"
PHOTOS, LARGE, SLOW, HOSTILE, PLAIN = 20_000, 24, 24, 12, 4
CONNECTIONS_EACH = 16
MEMORY, SECONDS, LOG = 2 << 30, 2.0, 64 << 10


@dataclass
class Seen:
    """What came of the clients' requests."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    searches: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    zip_bytes: int = 0
    leaks: int = 0

    def wrong(self, log: int, seconds: float = SECONDS) -> list[str]:
        """What was promised and not kept, of a log of so many bytes and plain searches in so many seconds."""
        worst = max((status for counts in self.statuses.values() for status in counts), default=0)
        slowest = max(self.searches, default=float("inf"))
        return [
            what
            for what, is_wrong in {
                f"status {worst}": worst >= 500,
                f"{max(self.memory) >> 20} MiB": max(self.memory) >= MEMORY,
                f"a plain search took {slowest:.1f} s": slowest > seconds,
                f"{log:,} bytes of log": log > LOG,
                "a secret was let out": self.leaks > 0,
                "no large upload was answered": not self.statuses["large"][200],
            }.items()
            if is_wrong
        ]


def large_photos(columns: int = 7300, rows: int = 5480) -> list[bytes]:
    """A photo of 40 megapixels as a plain and as a progressive JPEG."""
    from sklearn.datasets import load_sample_images

    image = Image.fromarray(load_sample_images().images[1]).resize((columns, rows), Image.Resampling.BICUBIC)
    found = []
    for progressive in (False, True):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92, progressive=progressive)
        found.append(buffer.getvalue())
    return found


def tree_memory(process: int) -> int:
    """Bytes that a process and its descendants hold; what they share is counted once."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                children[int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])].append(int(entry.name))
    waiting, total = [process], 0
    while waiting:
        one = waiting.pop()
        waiting += children[one]
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def plain_searches(port: int, ids: list[str], seconds: float, seed: int) -> list[tuple[int, float]]:
    """Search in a process of its own, so that nothing but the server keeps it waiting: statuses and seconds."""
    program = [sys.executable, __file__, "--search", str(port), str(seconds), str(seed)]
    found = subprocess.run(program, input=json.dumps(ids), capture_output=True, text=True, check=True)
    return [(status, took) for status, took in json.loads(found.stdout)]


def search_here(port: int, seconds: float, seed: int) -> None:
    """The program of that process."""
    ids, generator, found = json.load(sys.stdin), np.random.default_rng(seed), []
    end = time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("GET", f"/api/similar/{ids[generator.integers(len(ids))]}?k=60")
        answer = connection.getresponse()
        answer.read()
        found.append((answer.status, time.monotonic() - began))
        time.sleep(0.1)
    print(json.dumps(found))


async def attack(
    port: int, process: int, seconds: float, ids: list[str], store: Path, photo: bytes, large: list[bytes],
    clients: tuple[int, int, int, int] = (LARGE, SLOW, HOSTILE, PLAIN), each: int = CONNECTIONS_EACH,
) -> Seen:  # fmt: skip
    """Ask from all clients at once until the time is over.

    Args:
        port: Of the server.
        process: Of the server.
        seconds: For which it goes on.
        ids: Of photos in the index.
        store: The index.
        photo: A small photo, which hostile requests damage.
        large: Large ones.
        clients: How many send large photos, are slow, are hostile, and search.
        each: Connections of a slow client.
    """
    seen, end, numbers = Seen(), time.monotonic() + seconds, itertools.count()
    kinds = hostile_kinds(store, photo, ids)

    async def send_large(number: int) -> None:
        connection = Connection(port)
        sent = request("POST", "/api/similar?k=20", large[number % len(large)], content_type="image/jpeg")
        while time.monotonic() < end:
            status, _ = await connection.ask(sent)
            seen.statuses["large"][status] += 1
        connection.close()

    async def be_hostile(_: int) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            kind = kinds[number % len(kinds)]
            connection = Connection(port)
            status, body = await connection.ask(kind(np.random.default_rng([7, number])))
            connection.close()
            seen.statuses["hostile"][status] += 1
            seen.leaks += SECRET in body

    async def be_slow(number: int) -> None:
        head = request("POST", "/api/similar", content_length="9000000", content_type="image/png")
        unread = request("GET", "/page/app.js") * 200

        async def one(turn: int) -> None:
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    first = (b"GET /api/about HT", b"", head, unread)[turn % 4]
                    writer.write(first)
                    until = min(end, time.monotonic() + 30)
                    while (
                        time.monotonic() < until and not writer.is_closing() and (turn % 4 == 3 or not reader.at_eof())
                    ):
                        await asyncio.sleep(1 + turn % 7 / 7)
                        if turn % 8 < 4 and turn % 4 != 3:
                            writer.write(b"x")
                    writer.close()
                    seen.statuses["slow"][0] += 1

        await asyncio.gather(*(one(number * each + turn) for turn in range(each)))

    async def search(number: int) -> None:
        asked = asyncio.to_thread(plain_searches, port, ids, end - time.monotonic(), number)
        for status, took in await asked:
            seen.searches.append(took)
            seen.statuses["plain"][status] += 1

    def download(chosen: bytes) -> None:
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                connection.request("POST", "/api/selections", chosen, {"content-type": "application/json"})
                name = json.loads(connection.getresponse().read())["selection"]
                connection.request("GET", f"/api/selections/{name}/photos.zip")
                answer = connection.getresponse()
                seen.statuses["zip"][answer.status] += 1
                while time.monotonic() < end and (piece := answer.read(1 << 20)):
                    seen.zip_bytes += len(piece)

    async def zips(_: int) -> None:
        await asyncio.to_thread(download, json.dumps({"photos": ids[:MOST_PHOTOS]}).encode())

    async def watch() -> None:
        while time.monotonic() < end:
            seen.memory.append(await asyncio.to_thread(tree_memory, process))
            await asyncio.sleep(0.5)

    tasks = [
        asyncio.create_task(kind(number))
        for kind, count in zip((send_large, be_slow, be_hostile, search, zips), (*clients, 1), strict=True)
        for number in range(count)
    ]
    tasks.append(asyncio.create_task(watch()))
    done, late = await asyncio.wait(tasks, timeout=seconds + 120)
    for task in late:
        task.cancel()
    for task in done:
        task.result()
    return seen


def main() -> None:
    """Make an index, serve it, attack it, and judge."""
    if sys.argv[1:2] == ["--search"]:
        search_here(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    seconds = parser.parse_args().seconds
    from synthetic_index import a_photo, make_index, thumbnails, write_vectors

    photo = a_photo()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "index"
        write_vectors(Path(scratch) / "vectors.npy", PHOTOS, 0)
        vectors = np.load(Path(scratch) / "vectors.npy", mmap_mode="r")
        (Path(scratch) / "photo.jpg").write_bytes(photo)
        make_index(store, vectors, approximate_from=1 << 40, pictures=thumbnails(), photo=Path(scratch) / "photo.jpg")
        with open(Path(scratch) / "log", "w") as log, server(store, stderr=log) as (port, process):
            ids = asyncio.run(some_ids(port, PHOTOS))
            assert asyncio.run(still_well(port, photo))
            seen = asyncio.run(attack(port, process, seconds, ids, store, photo, large_photos()))
            well = asyncio.run(still_well(port, photo))
            wrong = seen.wrong(os.path.getsize(log.name)) + ([] if well else ["it does not answer any more"])
    times = np.array(seen.searches)
    result: dict[str, Any] = {
        "seconds": seconds, "cores": os.cpu_count(), "statuses": {k: dict(v) for k, v in seen.statuses.items()},
        "plain_ms": [round(1e3 * float(v)) for v in (*np.percentile(times, (50, 95)), times.max())],
        "peak_mib": max(seen.memory) >> 20, "zip_mib": seen.zip_bytes >> 20, "wrong": wrong,
    }  # fmt: skip
    for kind, counts in result["statuses"].items():
        print(f"{kind:8s}", ", ".join(f"{status or 'hung up'}: {n:,}" for status, n in sorted(counts.items())))
    middle, high, most = result["plain_ms"]
    print(f"plain searches: p50 {middle} ms, p95 {high} ms, slowest {most} ms; peak {result['peak_mib']} MiB")
    print(f"{result['zip_mib']} MiB of zips were sent")
    print("wrong:", "; ".join(wrong) or "nothing")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1))
    sys.exit(int(bool(wrong)))


if __name__ == "__main__":
    main()
