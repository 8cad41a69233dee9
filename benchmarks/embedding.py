"""Photos to vectors by one process, by shards and by Ray; and an index made from millions of vectors.

    python benchmarks/embedding.py                                  both, with 5,000,000 vectors
    python benchmarks/embedding.py embed --photos 2000              the first alone
    python benchmarks/embedding.py index --vectors 1000000          the second alone
    python benchmarks/embedding.py index --folder /scratch          where its files are: about 3.5 kB a vector

Embedding: wall and CPU seconds of whole commands, from the shell and back, their own processes included. One process
has as many threads as there are cores; shards and Ray's workers have one each, as many of them as there are cores.

Indexing: the vectors are random, in ten parts; the photos are squares of 16 x 16 pixels in memory, so that what is
measured is the index and not the decoding. Peak memory is that of the process that makes the index.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from indexing import make_photos
from s2r2.images import ImageSource

EXAMPLE = Path(__file__).parent.parent / "examples" / "embed_with_ray.py"
MARK = "S2R2_EMBEDDING_BENCHMARK"
PARTS, DIMENSIONS = 10, 128


class Watched:
    """Commands of which CPU seconds are counted wherever in the tree of processes they are used."""

    def __init__(self) -> None:
        self.mark = f"{MARK}={os.getpid()}-{time.monotonic_ns()}"
        self._used: dict[str, float] = {}
        self._others: set[str] = set()

    def run(self, commands: Sequence[Sequence[str]], threads: int) -> tuple[float, float]:
        """Run commands at the same time; wall and CPU seconds."""
        name, value = self.mark.split("=")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), name: value}
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        began = time.perf_counter()
        running = [subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL) for c in commands]
        watcher.start()
        codes = [process.wait() for process in running]
        wall = time.perf_counter() - began
        ended.set()
        watcher.join()
        assert not any(codes), codes
        return wall, sum(self._used.values())

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            for name in os.listdir("/proc"):
                if name.isdigit() and name not in self._others:
                    self._look(name)

    def _look(self, name: str) -> None:
        try:
            if name not in self._used:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if self.mark.encode() not in file.read().split(b"\0"):
                        self._others.add(name)
                        return
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            self._used[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:  # it has ended, or is another user's
            return


def compare_ways(encoder: str, count: int) -> None:
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "photos").mkdir()
        make_photos(root / "photos", count)
        photos = str(root / "photos")
        command = [sys.executable, "-m", "s2r2", "embed", encoder, photos, "--device", "cpu", "--out"]
        shards = [[*command, str(root / "parts"), "--shards", str(cores), "--shard", str(n)] for n in range(cores)]
        ray = [sys.executable, str(EXAMPLE), encoder, photos, "--out", str(root / "ray"), "--workers", str(cores)]
        one = Watched().run([[*command, str(root / "one.parquet")]], cores)
        rows = [("one process", one), (f"{cores} shards at the same time", Watched().run(shards, 1))]
        try:
            rows.append((f"Ray, {cores} workers", Watched().run([ray], 1)))
        except AssertionError:
            print("Ray: pip install 's2r2[ray]'")
        print(f"\n{count:,} photos of 320 x 220, {encoder}, {cores} cores\n")
        print("| | wall s | photos/s | CPU s | CPU s beside one process |\n|---|---|---|---|---|")
        for name, (wall, cpu) in rows:
            print(f"| {name} | {wall:.1f} | {count / wall:.1f} | {cpu:.1f} | {cpu - one[1]:+.1f} |")


class Squares(ImageSource):
    """So many photos of one color each."""

    def __init__(self, count: int) -> None:
        super().__init__("squares", [f"{n % 1000:03d}/{n:08d}.png" for n in range(count)], None, identity="squares")

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        return np.full((16, 16, 3), (index & 255, index >> 8 & 255, index >> 16), np.uint8)

    def stamp(self, index: int) -> tuple[int | str, ...]:
        return (index,)


def write_parts(folder: Path, count: int) -> None:
    """Random vectors of all squares, as other programs may write them."""
    generator = np.random.default_rng(0)
    keys = Squares(count).keys
    for part in range(PARTS):
        start, end = part * count // PARTS, (part + 1) * count // PARTS
        with parquet.ParquetWriter(
            folder / f"{part}.parquet",
            pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), DIMENSIONS))]),
            use_dictionary=False,
        ) as writer:
            for at in range(start, end, 50_000):
                names = keys[at : min(at + 50_000, end)]
                vectors = generator.standard_normal((len(names), DIMENSIONS), np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSIONS)
                writer.write_table(pa.table({"key": names, "vector": column}))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make_index(folder: Path, count: int) -> dict[str, float]:
    from s2r2.search import StoredVectors, update_index

    source = Squares(count)
    names = peak()
    began, cpu = time.perf_counter(), time.process_time()
    vectors = StoredVectors(folder / "vectors")
    checked = time.perf_counter()
    made = update_index(vectors, source, folder / "index", backend="exact", progress=False)
    assert made.about.photos == count
    took = time.perf_counter() - began
    return {"checked": checked - began, "took": took, "cpu": time.process_time() - cpu, "names": names, "peak": peak()}


def query(folder: Path, count: int) -> dict[str, float]:
    from s2r2.search import ImageIndex

    key = Squares(count).keys[count // 2]
    began = time.perf_counter()
    index = ImageIndex.open(folder / "index")
    opened = time.perf_counter()
    assert len(index.search(key, 10)) == 10
    first = time.perf_counter()
    index.search(key, 10)
    second = time.perf_counter()
    return {"open": opened - began, "first": first - opened, "second": second - first, "peak": peak()}


def index_vectors(count: int, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch)
        (root / "vectors").mkdir()
        write_parts(root / "vectors", count)
        found = []
        for step in ("make-index", "query"):
            command = [sys.executable, __file__, step, "--vectors", str(count), "--folder", scratch]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        made, asked = found
        size = sum(path.stat().st_size for path in (root / "index").rglob("*") if path.is_file())
    print(f"\n{count:,} vectors of {DIMENSIONS}, {count * DIMENSIONS * 4 / 1e9:.2f} GB, indexed for exact search\n")
    print(f"checking the vectors {made['checked']:.0f} s, all {made['took']:.0f} s ({made['cpu']:.0f} CPU s, "
          f"{made['cpu'] / count * 1e6:.0f} us a row)")  # fmt: skip
    print(f"peak memory {made['peak']:.2f} GB, of which the list of names {made['names']:.2f} GB; the index takes "
          f"{size / 1e9:.2f} GB")  # fmt: skip
    print(f"another process: opening {asked['open']:.1f} s, first query {asked['first']:.1f} s, next "
          f"{asked['second']:.2f} s, peak memory with what is mapped {asked['peak']:.2f} GB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", default=["embed", "index"], help="embed, index")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--encoder", default="untrained:resnet18")
    parser.add_argument("--vectors", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    for step in arguments.steps:
        if step == "embed":
            compare_ways(arguments.encoder, arguments.photos)
        elif step == "index":
            index_vectors(arguments.vectors, arguments.folder)
        else:
            print(json.dumps({"make-index": make_index, "query": query}[step](arguments.folder, arguments.vectors)))


if __name__ == "__main__":
    main()
