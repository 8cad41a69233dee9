"""The whole road in one go: train on photos without labels, evaluate, index, search.

Runs the same commands that you would type, and shows each before it runs. ``make demo`` calls it.
"""

import argparse
import shutil
from pathlib import Path

from s2r2.cli import main as s2r2
from s2r2.images import open_source
from s2r2.search import ImageIndex

VIEWS_IN_ALL = 300_000  # of full size, for photos of one's own: about ten minutes on two cores
FULL_VIEWS = 3  # what two full and six small views of a photo cost


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
        count = len(open_source(data))
        epochs = max(1, min(100, VIEWS_IN_ALL // (FULL_VIEWS * count)))
        recipe = ["--backbone", "lcnet_050", "--image-size", "64", "--batch-size", str(max(2, min(64, count // 2)))]
        run("train", data, *recipe, "--epochs", str(epochs), "--out", folder / "run")
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
