"""The whole road in one go: train on photos without labels, evaluate, index, search.

Runs the same commands that you would type, and shows each before it runs. ``make demo`` calls it.
"""

import argparse
import shutil
from pathlib import Path

from s2r2.cli import main as s2r2
from s2r2.search import ImageIndex

MINUTES = "10"  # for photos of one's own


def run(*arguments: str | Path) -> None:
    words = [str(argument) for argument in arguments]
    print(f"\n$ s2r2 {' '.join(words)}", flush=True)
    s2r2(words)


def demo(data: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if data == "digits":
        recipe = ["--backbone", "test_resnet", "--image-size", "32", "--recipe", "documents", "--temperature", "0.3"]
        run("train", "digits:train", *recipe, "--epochs", "12", "--out", folder / "run")
        run("evaluate", folder / "run", "--train", "digits:train", "--test", "digits:test")
        indexed = "digits:test"
    else:
        run("train", data, "--minutes", MINUTES, "--out", folder / "run")
        indexed = data
    run("index", folder / "run", indexed, "--index", folder / "index")
    index = ImageIndex.open(folder / "index")
    query = index.hit(0, len(index) // 2, 1.0).key
    run("search", folder / "index", query, "-k", "10", "--picture", folder / "search.png")
    print(f"\nreport    {folder / 'run' / 'report.html'}   open it in a browser")
    print(f"views     {folder / 'run' / 'views.png'}     what the encoder saw")
    print(f"search    {folder / 'search.png'}        a query and its ranking")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder of photos, a manifest, a .tar")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (emptied first)")
    options = parser.parse_args()
    demo(options.data, options.out)
