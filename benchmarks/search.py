"""Searching beside faiss: latency, recall, size, build time, memory; and where the time of an image query goes.

    python benchmarks/search.py                 100,000 vectors of 512, and image queries to the page's server
    python benchmarks/search.py --large         instead 1,000,000 vectors, search backends alone (7 GB of disk)

Vectors are synthetic, clustered as those of photos are (benchmarks/synthetic_index.py); queries are others of the same
kind, never in the index. One thread each, but for the builds of --large, which take all cores. faiss's approximate
indexes get the cheapest setting that reaches a recall@10 of 0.97 on 200 other queries; s2r2 chooses its own for the
same recall, on photos of the index, and the time for that is part of its build. Latencies are wall times of single
queries for 10 neighbors, the methods taking turns query by query in one process; ratios are medians of each query's.
What an index costs in building and in memory is measured in a process of its own. s2r2's whole index, without --large,
also holds the rows (here with empty thumbnails; faiss has no place for them) and the encoder, 45 MB.

With --large the run ends after --minutes (12): what has not finished by then is left out, and named.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "search.json"
K, QUERIES, WARM_UP, RECALL = 10, 200, 10, 0.97
METHODS = ("s2r2 exact", "faiss Flat", "s2r2 approximate", "faiss IVF", "faiss HNSW")
LARGE = ("s2r2 backend", "faiss IVF", "faiss HNSW")
Search = Callable[[np.ndarray], np.ndarray]


def resident(field: str) -> float:
    """GiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def bytes_in(place: Path) -> int:
    return sum(path.stat().st_size for path in [place, *place.rglob("*")] if path.is_file())


def build(method: str, folder: Path) -> dict[str, Any]:
    """Build one index from the vectors on disk."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if method == "s2r2 backend":
        return build_backend(folder / method, vectors)
    if method.startswith("s2r2"):
        return build_own(folder, vectors, approximate="approximate" in method)
    import faiss

    count, width = vectors.shape
    start = time.perf_counter()
    if method == "faiss Flat":
        made = faiss.IndexFlatIP(width)
    elif method == "faiss HNSW":
        made = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
    else:
        made = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, round(count**0.5), faiss.METRIC_INNER_PRODUCT)
        chosen = np.random.default_rng(0).choice(count, min(count, 64 * made.nlist), replace=False)
        made.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    for at in range(0, count, 50_000):
        made.add(np.ascontiguousarray(vectors[at : at + 50_000]))
    seconds = time.perf_counter() - start
    faiss.write_index(made, str(folder / method))
    return {"build_s": seconds, "bytes": bytes_in(folder / method)}


def build_backend(place: Path, vectors: np.ndarray) -> dict[str, Any]:
    """What an update of a large index makes of its vectors."""
    from s2r2.search.backends.faiss_ivf import FaissSearch

    place.mkdir()
    start = time.perf_counter()
    settings = FaissSearch.build(vectors, place)
    if settings is None:
        raise SystemExit("s2r2 found no setting that reaches its recall")
    seconds = time.perf_counter() - start
    (place / "settings.json").write_text(json.dumps(settings))
    return {"build_s": seconds, "bytes": bytes_in(place), "setting": int(settings["probes"])}


def build_own(folder: Path, vectors: np.ndarray, *, approximate: bool) -> dict[str, Any]:
    from synthetic_index import make_index

    place = folder / ("s2r2 approximate" if approximate else "s2r2 exact")
    took = make_index(place, vectors, approximate_from=1 if approximate else 1 << 40, pictures=[b""])
    indexes = list(place.glob("*/search-*"))
    return {
        "build_s": sum(took.values()), "parts_s": took, "bytes": bytes_in(place),
        "matrix_bytes": sum(bytes_in(path) for path in place.rglob("vectors-*.npy")),
        "approximate_bytes": sum(map(bytes_in, indexes)),
    }  # fmt: skip


def opened(method: str, folder: Path) -> Search:
    """A search for the rows of the 10 nearest of one vector ``(D,)``."""
    if method == "s2r2 backend":
        from s2r2.search.backends.faiss_ivf import FaissSearch

        vectors, place = np.load(folder / "vectors.npy", mmap_mode="r"), folder / method
        backend = FaissSearch(vectors, place, json.loads((place / "settings.json").read_text()))
        return lambda query: backend.search(query, K)[0]
    if method.startswith("s2r2"):
        from s2r2.search import ImageIndex

        index = ImageIndex.open(folder / method)
        if method == "s2r2 approximate" and index.backend_name == "exact":
            raise SystemExit("s2r2 found no setting that reaches its recall")
        keys = index.catalogue.table["key"].to_pylist()
        number = np.array([int(key.split("/")[1][:7]) for key in keys])  # LanceDB may reorder rows
        return lambda query: number[index.nearest(query, K)[0]]
    import faiss

    made = faiss.read_index(str(folder / method))
    return with_setting(made, method, json.loads((folder / f"{method}.json").read_text()))


def with_setting(made: Any, method: str, setting: int) -> Search:
    """Searches of a faiss index with so much effort."""
    if method == "faiss IVF":
        made.nprobe = setting
    if method == "faiss HNSW":
        made.hnsw.efSearch = setting
    return lambda query: made.search(query[None], K)[1][0]


def choose(method: str, folder: Path) -> int:
    """The cheapest setting of a faiss index that reaches the recall on queries that the table does not use."""
    import faiss

    queries, truth = np.load(folder / "tuning.npy"), np.load(folder / "tuning_truth.npy")
    made = faiss.read_index(str(folder / method))
    for setting in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512):
        if method == "faiss Flat" or recall(with_setting(made, method, setting), queries, truth)[0] >= RECALL:
            break
    (folder / f"{method}.json").write_text(json.dumps(setting))
    return setting


def recall(search: Search, queries: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean recall@10, and that of each query."""
    each = np.array([np.isin(truth[n], search(query)).mean() for n, query in enumerate(queries)])
    return float(each.mean()), each


def query(method: str, folder: Path) -> dict[str, Any]:
    """Recall, and memory of a process that does nothing but search."""
    before = resident("VmRSS")
    search = opened(method, folder)
    found, _ = recall(search, np.load(folder / "queries.npy"), np.load(folder / "truth.npy"))
    return {
        "recall": found, "query_peak_gib": resident("VmHWM"), "before_gib": before,
        "query_anonymous_gib": resident("RssAnon"), "query_mapped_gib": resident("RssFile"),
    }  # fmt: skip


def latency(folder: Path, methods: list[str]) -> dict[str, Any]:
    """Milliseconds of each query, the methods taking turns."""
    queries = np.load(folder / "queries.npy")
    searches = {method: opened(method, folder) for method in methods}
    took: dict[str, list[float]] = {method: [] for method in methods}
    for number, vector in enumerate([*queries[:WARM_UP], *queries]):
        turn = number % len(methods)
        for method in [*methods[turn:], *methods[:turn]]:
            start = time.perf_counter()
            searches[method](vector)
            if number >= WARM_UP:
                took[method].append((time.perf_counter() - start) * 1e3)
    return took


def prepare(count: int, folder: Path) -> None:
    """Vectors, queries and the true neighbors of these, by another way than the methods go."""
    from synthetic_index import write_vectors

    write_vectors(folder / "vectors.npy", count, 0)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    for seed, name, truth in ((1, "queries", "truth"), (2, "tuning", "tuning_truth")):
        write_vectors(folder / f"{name}.npy", QUERIES, seed)
        queries = np.load(folder / f"{name}.npy")
        scores, rows = np.empty((QUERIES, 0), np.float32), np.empty((QUERIES, 0), np.int64)
        for at in range(0, count, 50_000):
            here = queries @ vectors[at : at + 50_000].T
            best = np.argpartition(-here, K, axis=1)[:, :K]
            scores = np.concatenate([scores, np.take_along_axis(here, best, 1)], axis=1)
            rows = np.concatenate([rows, best + at], axis=1)
        np.save(folder / f"{truth}.npy", np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], 1))


def image_queries(folder: Path) -> dict[str, Any]:
    """Send a photo to the server of the page, many times; its own clock says where the time goes."""
    import httpx

    from s2r2.search import ImageIndex
    from synthetic_index import a_photo

    assert ImageIndex.open(folder / "s2r2 exact").backend_name == "exact"
    command = [sys.executable, "-m", "s2r2", "serve", str(folder / "s2r2 exact"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+?(?=/ )", server.stdout.readline())
        assert address is not None
        content, parts, wall = a_photo(), [], []
        with httpx.Client(base_url=address[0], timeout=120) as client:
            for number in range(55):
                start = time.perf_counter()
                answer = client.post("/api/similar", content=content, headers={"content-type": "image/jpeg"})
                if number >= 5:
                    wall.append((time.perf_counter() - start) * 1e3)
                    parts.append(answer.raise_for_status().json()["milliseconds"])
    finally:
        server.terminate()
        server.wait()
    shares = [part["search"] / sum(part.values()) for part in parts]
    medians = {name: float(np.median([part[name] for part in parts])) for name in parts[0]}
    return {"milliseconds": medians, "wall": float(np.median(wall)), "search_share": float(np.median(shares))}


def in_process(case: str, folder: Path, *more: str, threads: int = 1, until: float = math.inf) -> dict[str, Any] | None:
    """Run a case in a process of its own; None if it has not ended by then, in seconds of the monotonic clock."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    few = {**{f"{name}_NUM_THREADS": str(threads) for name in names}, "LANCE_CPU_THREADS": str(threads)}
    command = [sys.executable, __file__, "--case", case, "--folder", str(folder), *more]
    left = None if until == math.inf else max(0.0, until - time.monotonic())
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **few}, timeout=left)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{case} failed")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_case(case: str, folder: Path, methods: list[str]) -> dict[str, Any]:
    kind, _, method = case.partition(" ")
    if kind == "prepare":
        prepare(int(method), folder)
        return {}
    if kind == "build":
        return build(method, folder) | {"build_peak_gib": resident("VmHWM"), "build_anonymous_gib": resident("RssAnon")}
    if kind == "choose":
        return {"setting": choose(method, folder)}
    if kind == "query":
        return query(method, folder)
    if kind == "latency":
        return latency(folder, methods)
    return image_queries(folder)


def compare(
    count: int, folder: Path, methods: tuple[str, ...], console: Console, threads: int = 1, until: float = math.inf
) -> dict[str, Any]:
    """All methods on ``count`` vectors, and their table."""
    folder.mkdir(exist_ok=True)
    reserved = 60 if until < math.inf else 0  # for the latencies
    if in_process(f"prepare {count}", folder, threads=threads, until=until - reserved) is None:
        raise SystemExit("the vectors were not ready in time: give more --minutes")
    results: dict[str, Any] = {}
    for method in methods:
        cases = [("build", threads), *([("choose", 1)] if method.startswith("faiss") else []), ("query", 1)]
        found: dict[str, Any] = {}
        for case, cores in cases:
            more = in_process(f"{case} {method}", folder, threads=cores, until=until - reserved)
            if more is None:
                console.print(f"{count:,} {method}: left out, as its {case} had not finished in time")
                break
            found |= more
        else:
            results[method] = found
            console.print(f"{count:,} {method}: {found}", highlight=False, soft_wrap=True)
    took = in_process("latency", folder, "--methods", *results, until=until)
    if took is None:
        raise SystemExit("the latencies were not measured in time: give more --minutes")
    for method, milliseconds in took.items():
        results[method]["milliseconds"] = milliseconds
    builds = "one thread" if threads == 1 else f"searched by one thread, built by {threads}"
    show(
        results, f"{count:,} vectors of 512, {builds}; memory of a process that only searches, and that builds", console
    )
    return results


def show(results: dict[str, Any], title: str, console: Console) -> None:
    """Print the table, and complete the results by its figures."""
    beside = next(method for method in ("faiss Flat", "faiss IVF", *results) if method in results)
    table = Table(title=title)
    ratio = f"x {beside.removeprefix('faiss ')}"
    for column in ("method", "p50 ms", "p95 ms", ratio, "recall@10", "GB", "build s", "GiB search", "GiB build"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, result in results.items():
        took = np.array(result["milliseconds"])
        result |= {"p50": float(np.median(took)), "p95": float(np.percentile(took, 95))}
        result["times_beside"] = float(np.median(took / np.array(results[beside]["milliseconds"])))
        table.add_row(
            method + (f" ({result['setting']})" if result.get("setting", 1) > 1 else ""),
            f"{result['p50']:.2f}", f"{result['p95']:.2f}", f"{result['times_beside']:.2f}", f"{result['recall']:.3f}",
            f"{result['bytes'] / 1e9:.2f}", f"{result['build_s']:.0f}",
            f"{result['query_peak_gib'] - result['before_gib']:.2f}", f"{result['build_peak_gib']:.2f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="search backends alone, on 1,000,000 vectors")
    parser.add_argument("--count", type=int, help="of vectors; 100,000, or 1,000,000 with --large")
    parser.add_argument("--minutes", type=float, default=12, help="after which --large ends")
    parser.add_argument("--scratch", type=Path, help="where to put the indexes; kept afterwards")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--methods", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments.case, arguments.folder, arguments.methods)))
        return
    console = Console(width=130)
    count = arguments.count or (1_000_000 if arguments.large else 100_000)
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(exist_ok=True)
        if arguments.large:
            results = {f"{count}": compare(count, scratch / "large", LARGE, console, os.cpu_count() or 1, until)}
        else:
            results = {f"{count}": compare(count, scratch / "small", METHODS, console)}
            found = in_process("image", scratch / "small")
            assert found is not None
            results["image query"] = found
            parts = ", ".join(f"{name} {spent:.1f} ms" for name, spent in found["milliseconds"].items())
            console.print(f"image query, ResNet-18, {count:,} photos: {parts}; {found['wall']:.1f} ms with HTTP; "
                          f"search is {found['search_share']:.1%}", highlight=False)  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps((json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | results, indent=1))


if __name__ == "__main__":
    main()
