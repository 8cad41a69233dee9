"""The search page's server under load, and under hostile requests.

    python benchmarks/serving.py                64 clients for 60 s, then 10,000 hostile requests; 100,000 photos
    python benchmarks/serving.py --only load    one of the two

Clients, server and index are on this machine and share its cores. Of 20 requests of a client 8 are searches for a photo
of the index, 8 thumbnails, 2 pages of photos, 1 the description, and 1 sends a photo of 640 x 427 pixels, which is
decoded, embedded by a ResNet-18 and searched for; each client sends the next when it has the last answer. A hostile
request is one of: traversal, unknown ids, bad questions, nonsense and truncated images, too large ones (stated, or
unstated in chunks), bombs, wrong types, foreign hosts and origins, long headers, broken HTTP. Exits with 1 if anything
is answered by 5xx, lets a file out, or ends the server.
"""

import argparse
import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "serving.json"
PHOTOS, CLIENTS, HOSTILE_CLIENTS = 100_000, 64, 16
CYCLE = ("similar", "thumbnail") * 8 + ("photos", "photos", "about", "upload")
SECRET = b"a line that no answer may hold"


class Connection:
    """One kept-alive connection, as cheap as can be: the clients share the cores with the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send bytes, return status and body; status 0 where the server hangs up without an answer."""
        for attempt in range(2):
            fresh = self.writer is None
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                self.writer.write(request)
                await self.writer.drain()
                return await self._answer()
            except (OSError, asyncio.IncompleteReadError):
                self.close()
                if fresh or attempt:  # a kept connection may have been closed before this request came
                    return 0, b""
        return 0, b""

    async def _answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        if re.search(rb"(?i)connection: *close", head):
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    fields = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body and "transfer-encoding" not in fields:
        fields.setdefault("content-length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def memory(process: int) -> dict[str, float]:
    """MiB of a process's own memory, and of files that it maps."""
    text = Path(f"/proc/{process}/status").read_text()
    fields = {"own": "RssAnon", "mapped": "RssFile"}
    return {name: int(re.search(rf"{field}:\s+(\d+)", text)[1]) / 1024 for name, field in fields.items()}  # type: ignore[index]


@contextmanager
def server(store: Path, stderr: IO[str] | None = None) -> Iterator[tuple[int, int]]:
    """A server of an index: its port and its process; what it complains of goes to ``stderr``."""
    command = [sys.executable, "-m", "s2r2", "serve", str(store), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        address = re.search(r":(\d+)/ ", process.stdout.readline())
        assert address is not None
        yield int(address[1]), process.pid
    finally:
        process.terminate()
        process.wait()


async def load(port: int, process: int, seconds: float, ids: list[str], photo: bytes) -> dict[str, Any]:
    """Ask from all clients at once until the time is over."""
    statuses: Counter[int] = Counter()
    took: dict[str, list[float]] = defaultdict(list)
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        generator = np.random.default_rng(number)
        connection = Connection(port)
        turn = number
        while time.perf_counter() < end:
            kind, identity = CYCLE[turn % len(CYCLE)], ids[generator.integers(len(ids))]
            turn += 1
            target = {
                "similar": f"/api/similar/{identity}?k=60",
                "thumbnail": f"/thumbnail/{identity}",
                "about": "/api/about",
                "photos": f"/api/photos?limit=120&offset={generator.integers(PHOTOS)}",
                "upload": "/api/similar?k=60",
            }[kind]
            sent = (
                request("POST", target, photo, content_type="image/jpeg")
                if kind == "upload"
                else request("GET", target)
            )
            start = time.perf_counter()
            status, _ = await connection.ask(sent)
            took[kind].append((time.perf_counter() - start) * 1e3)
            statuses[status] += 1
        connection.close()

    async def watch() -> list[dict[str, float]]:
        seen = []
        while time.perf_counter() < end - 0.5:
            seen.append(memory(process))
            await asyncio.sleep(seconds / 12)
        return seen

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    everything = np.concatenate([np.array(times) for times in took.values()])
    return {
        "statuses": dict(statuses), "requests_per_second": len(everything) / seconds, "memory": await watching,
        "ms": {kind: [len(t), *np.percentile(t, (50, 95)).round(1).tolist()] for kind, t in sorted(took.items())},
        "p95_ms": float(np.percentile(everything, 95)),
    }  # fmt: skip


def png(width: int, height: int, content: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def hostile_kinds(store: Path, photo: bytes, ids: list[str]) -> list[Callable[[np.random.Generator], bytes]]:
    """Makers of hostile requests to a server of photos with these ids."""
    secret = store.parent / "secret.txt"
    secret.write_bytes(SECRET)
    ups = ("../", "..%2f", "%2e%2e/", "..%5c", "....//", "%252e%252e%252f", "..%c0%af", "/")
    files = ("etc/passwd", "secret.txt", "index.json", str(secret)[1:], "serving.py", "lock")
    roots = ("/", "/page/", "/thumbnail/", "/photo/", "/api/photos/", "/api/similar/")
    image, compressed = {"content_type": "image/png"}, zlib.compress(bytes(2_000_000))
    bombs = [png(30_000, 30_000, compressed), png(2_000_000_000, 1, compressed), png(8_000, 7_999, compressed)]

    def pick(generator: np.random.Generator, choices: Any) -> Any:
        return choices[generator.integers(len(choices))]

    def traversal(g: np.random.Generator) -> bytes:
        return request("GET", pick(g, roots) + pick(g, ups) * int(g.integers(1, 9)) + pick(g, files))

    def unknown(g: np.random.Generator) -> bytes:
        identity = pick(g, (g.bytes(8).hex(), g.bytes(40).hex(), "%00" * 16, "-" + "1" * 15, "zz" * 8, "0" * 16))
        return request("GET", pick(g, roots[2:]) + identity)

    def question(g: np.random.Generator) -> bytes:
        name = pick(g, ("k", "index", "of", "box", "folder", "label", "offset", "limit", "threshold", "camera",
                        "taken_from", "taken_to", "megapixels_from"))  # fmt: skip
        value = pick(g, ("-1", "1e999", "nan", "9" * 400, "%00", "' OR 1=1 --", "x" * 5000, "0,0,nan,inf", "[]", "%ff"))
        place = pick(g, ("/api/photos", "/api/duplicates", "/api/similar/0000000000000000"))
        return request("GET", f"{place}?{name}={value.replace(' ', '+')}")

    def nonsense(g: np.random.Generator) -> bytes:
        return request("POST", "/api/similar", g.bytes(int(g.integers(1, 20_000))), **image)

    def truncated(g: np.random.Generator) -> bytes:
        broken = bytearray(photo[: g.integers(100, len(photo))])
        for place in g.integers(0, len(broken), 20):
            broken[place] = g.integers(256)
        return request("POST", "/api/similar", bytes(broken), content_type="image/jpeg")

    def too_large(g: np.random.Generator) -> bytes:
        length = pick(g, (str(25 << 20), "9" * 30, "-5", "0x10", "1e9"))
        return request("POST", "/api/similar", b"x" * 1000, content_length=length, **image)

    def endless(g: np.random.Generator) -> bytes:
        if g.random() < 0.95:  # mostly malformed chunks; now and then 25 MB of well-formed ones
            return request("POST", "/api/similar", b"zz\r\nnot a chunk\r\n", transfer_encoding="chunked", **image)
        chunk = b"80000\r\n" + bytes(0x80000) + b"\r\n"
        return request("POST", "/api/similar", chunk * 50 + b"0\r\n\r\n", transfer_encoding="chunked", **image)

    def bomb(g: np.random.Generator) -> bytes:
        return request("POST", "/api/similar", pick(g, bombs), **image)

    def wrong_type(g: np.random.Generator) -> bytes:
        kind = pick(g, ("text/html", "application/json", "multipart/form-data", "image/svg+xml", "", "image/" * 50))
        return request("POST", "/api/similar", b"<svg onload='alert(1)'/>", content_type=kind)

    def foreign(g: np.random.Generator) -> bytes:
        if g.random() < 0.5:
            return request("GET", "/api/photos", host=pick(g, ("evil.example", "localhost.evil.example", "", "[::2]")))
        return request("POST", "/api/similar", photo, origin="http://evil.example", content_type="image/jpeg")

    def long_header(g: np.random.Generator) -> bytes:
        return request("GET", "/api/about", x_long="y" * int(g.integers(1000, 80_000)))

    def broken(g: np.random.Generator) -> bytes:
        good = b"host: 127.0.0.1\r\n\r\n"
        lines = (
            g.bytes(200) + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"TRACE / HTTP/1.1\r\n" + good,
            b"GET / HTTP/1.1\r\nhost: a\r\n" + good, b"GET /\x00 HTTP/1.1\r\n" + good, b"\x16\x03\x01\x02\x00\r\n\r\n",
            request("GET", "/" + "a" * 5000), request("PUT", "/api/photos"),
        )  # fmt: skip
        return pick(g, lines)

    def selection(g: np.random.Generator) -> bytes:
        if g.random() < 0.5:
            name = pick(g, (*(up * 4 + pick(g, files) for up in ups), "0" * 16, g.bytes(8).hex(), "%00", "x" * 3000))
            return request("GET", f"/api/selections/{name}/{pick(g, ('paths.txt', 'photos.csv', 'photos.zip', ''))}")
        some = [pick(g, ids) for _ in range(int(g.integers(1, 200)))]
        photos = pick(g, (some, [*some, "../../secret.txt"], ["0" * 16] * 10_001, [], {"0": some[0]}, [str(secret)], 7))
        body = pick(g, (json.dumps({"photos": photos}), "[" * 100_000, '{"photos": ["' + "0" * 900_000, "null"))
        return request(
            "POST", pick(g, ("/api/selections", "/api/search")), body.encode(), content_type="application/json"
        )

    def mark(g: np.random.Generator) -> bytes:
        value = pick(g, ("right", "wrong", "none", "%0aright", "x" * 3000))
        query, result = pick(g, (pick(g, ids), "0" * 16, "..%2f..%2fmarks.csv")), pick(g, (pick(g, ids), "-1"))
        return request("POST", f"/api/marks/{query}?photo={result}&mark={value}&box={g.random():.4f},0,0.1,0.1")

    return [
        traversal, unknown, question, nonsense, truncated, too_large, endless, bomb, wrong_type, foreign, long_header,
        broken, selection, mark,
    ]  # fmt: skip


async def attack(port: int, count: int, kinds: list[Callable[[np.random.Generator], bytes]]) -> dict[str, Any]:
    """Send hostile requests; count what comes back."""
    answers: dict[str, Counter[int]] = defaultdict(Counter)
    leaks: list[str] = []
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            generator = np.random.default_rng([7, number])
            kind = kinds[number % len(kinds)]
            connection = Connection(port)
            try:
                async with asyncio.timeout(120):
                    status, body = await connection.ask(kind(generator))
            except TimeoutError:
                status, body = 599, b""
            connection.close()
            answers[kind.__name__][status] += 1
            if SECRET in body or b"root:" in body or b"Traceback" in body:
                leaks.append(kind.__name__)

    await asyncio.gather(*(client() for _ in range(HOSTILE_CLIENTS)))
    return {"answers": {name: dict(sorted(found.items())) for name, found in answers.items()}, "leaks": leaks}


async def still_well(port: int, photo: bytes) -> bool:
    """Whether an honest request is answered."""
    status, body = await Connection(port).ask(request("POST", "/api/similar?k=5", photo, content_type="image/jpeg"))
    return status == 200 and len(json.loads(body)["hits"]) == 5


async def some_ids(port: int, photos: int = PHOTOS) -> list[str]:
    connection, ids = Connection(port), []
    for offset in range(0, photos, max(1, photos // 20)):
        _, body = await connection.ask(request("GET", f"/api/photos?limit=500&offset={offset}"))
        ids += [photo["id"] for photo in json.loads(body)["photos"]]
    connection.close()
    return ids


def prepare(store: Path) -> None:
    from synthetic_index import make_index, thumbnails, write_vectors

    write_vectors(store.parent / "vectors.npy", PHOTOS, 0)
    vectors = np.load(store.parent / "vectors.npy", mmap_mode="r")
    make_index(store, vectors, approximate_from=1 << 40, pictures=thumbnails())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("load", "hostile"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    from synthetic_index import a_photo

    photo, result, wrong = a_photo(), {}, False
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "index"
        prepare(store)
        with server(store) as (port, process):
            ids = asyncio.run(some_ids(port))
            assert asyncio.run(still_well(port, photo))
            if arguments.only != "hostile":
                asyncio.run(load(port, process, 5, ids, photo))  # warm: thumbnails kept, threads started
                result["load"] = found = asyncio.run(load(port, process, arguments.seconds, ids, photo))
                wrong |= any(status != 200 for status in found["statuses"])
                print(f"{CLIENTS} clients for {arguments.seconds:.0f} s, {PHOTOS:,} photos: "
                      f"{found['requests_per_second']:.0f} requests/s, p95 {found['p95_ms']:.0f} ms, "
                      f"statuses {found['statuses']}")  # fmt: skip
                for kind, (count, middle, high) in found["ms"].items():
                    print(f"  {kind:10s} {count:7,}   p50 {middle:7.1f} ms   p95 {high:7.1f} ms")
                print("  MiB of the server's own memory:", *(f"{seen['own']:.0f}" for seen in found["memory"]))
            if arguments.only != "load":
                before = memory(process)["own"]
                found = asyncio.run(attack(port, arguments.requests, hostile_kinds(store, photo, ids)))
                found |= {"own_mib": [before, memory(process)["own"]], "well": asyncio.run(still_well(port, photo))}
                result["hostile"] = found
                worst = max(status for counts in found["answers"].values() for status in counts)
                wrong |= worst >= 500 or bool(found["leaks"]) or not found["well"]
                print(f"{arguments.requests:,} hostile requests: highest status {worst}, leaks {found['leaks']}, "
                      f"well: {found['well']}, own MiB {before:.0f} -> {found['own_mib'][1]:.0f}")  # fmt: skip
                for name, counts in found["answers"].items():
                    print(f"  {name:12s}", ", ".join(f"{status or 'hung up'}: {n:,}" for status, n in counts.items()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result | {"cores": os.cpu_count()}, indent=1))
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
