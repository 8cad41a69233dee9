"""Ten shards of `s2r2 embed`, each killed once at a random moment and started again, beside an undisturbed run.

    python benchmarks/shard_kills.py                 100 small photos of noise; Linux
    python benchmarks/shard_kills.py --seed 1        other moments

Files must be the same, byte for byte, and an index from them must have the rows of `s2r2 index` with the encoder.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from power_cuts import photographs
from watched import Ended, forked, load_libraries, start, wait

ENCODER = "untrained:test_resnet"
SHARDS, PHOTOS = 10, 100


def embed(photos: Path, out: Path, shard: int) -> None:
    from s2r2.cli import main

    words = ["--out", str(out), "--shards", str(SHARDS), "--shard", str(shard), "--device", "cpu"]
    main(["embed", ENCODER, str(photos), *words])


def index(photos: Path, out: Path, vectors: Path | None) -> Any:
    """Make an index from vectors or with the encoder, in batches of one shard; its rows are returned."""
    from s2r2.encoder import load
    from s2r2.search import StoredVectors, update_index
    from s2r2.search.storage.rows import Rows

    made = load(ENCODER) if vectors is None else StoredVectors(vectors)
    about = update_index(made, str(photos), out, batch_size=PHOTOS // SHARDS, progress=False).about
    rows = Rows(out / about.generation / "lance")
    return [row for batch in rows.scan(rows.schema.names) for row in batch.to_pylist()]


def killed(photos: Path, out: Path, shard: int, after: float) -> str:
    """Kill a shard after so many seconds; what it had come to."""
    with tempfile.TemporaryDirectory() as place:
        process = start(lambda: embed(photos, out, shard), Path(place))
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
        code = wait(process, Path(place)).code
    there = list(out.glob(f"part-{shard:05d}*")) if out.exists() else []
    return "complete" if there else "nothing" if code == 0 else "killed"


def succeeded(ended: Ended) -> Ended:
    assert ended.code == 0, ended.said
    return ended


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    chance = random.Random(parser.parse_args().seed)
    load_libraries()
    place = Path(tempfile.mkdtemp())
    photos, calm, disturbed = place / "photos", place / "calm", place / "disturbed"
    photographs(photos, PHOTOS)
    (photos / "33.jpg").write_bytes(b"no photo")
    began = time.monotonic()
    for shard in range(SHARDS):
        succeeded(forked(lambda shard=shard: embed(photos, calm, shard)))  # type: ignore[misc]
    seconds = left = (time.monotonic() - began) / SHARDS
    ends = []
    for shard in range(SHARDS):
        ends.append(killed(photos, disturbed, shard, chance.uniform(0.2, 1) * left))
        left *= 0.6 if ends[-1] == "complete" else 1.0  # later ones are faster: files and pages are cached
    for shard in range(SHARDS):
        succeeded(forked(lambda shard=shard: embed(photos, disturbed, shard)))  # type: ignore[misc]
    same_files = contents(calm) == contents(disturbed)
    own = succeeded(forked(lambda: index(photos, place / "own", None))).value
    from_parts = succeeded(forked(lambda: index(photos, place / "from parts", disturbed))).value
    print(f"{SHARDS} shards of {seconds:.1f} s, killed: {ends.count('killed')} before they were complete, "
          f"{ends.count('complete')} after")  # fmt: skip
    print(f"{len(contents(disturbed))} files {'identical' if same_files else 'DIFFERENT'}, {len(from_parts)} rows "
          f"{'identical' if own == from_parts else 'DIFFERENT'}")  # fmt: skip
    shutil.rmtree(place)
    raise SystemExit(not (same_files and own == from_parts and len(own) == PHOTOS - 1 and "killed" in ends))


if __name__ == "__main__":
    main()
