"""What a large run would cost in each room, reckoned from figures measured for one unit; the table of docs/scaling.md.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --images 1e9 --gpus 256 --views-per-gpu 5000

Nothing is measured here. Measured elsewhere: decoding and views (benchmarks/views.py, docs/training.md), the loss
(benchmarks/ranking_loss.py), encoder on a GPU (benchmarks/gpu.py), rows of a manifest (benchmarks/manifest.py).
Assumed: photos and network.
"""

import argparse

DECODE = 5e-3  # core seconds, a JPEG of 640 x 480: docs/training.md
VIEW = 269e-6  # core seconds, 341 x 256 to 224: benchmarks/views.py
PAIR = 88.5e-3 / 32_768**2  # seconds a query and candidate on an H200, N = 32,768: benchmarks/ranking_loss.py
ROW_BYTES, ROW_SECONDS = 39, 6.5e-6  # a row of a manifest in its files, and read once: benchmarks/manifest.py
WIDTH, PARAMETERS = 128, 23.5e6  # embedding; ResNet-50
JPEG_BYTES, SIDE = 110e3, (256, 341)  # assumed
NETWORK = 12.5e9  # bytes a second into a machine (100 Gbit/s), assumed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=100e6)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--gpus-a-machine", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4096, help="images in a step, over all GPUs")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument(
        "--views-per-gpu", type=float, default=4844, help="ResNet-50 at 224, forward and backward; of an H200"
    )
    a = parser.parse_args()
    machines = a.gpus / a.gpus_a_machine
    views = a.batch * a.views
    step = views / (a.gpus * a.views_per_gpu)
    steps = a.images / a.batch
    cores = (a.batch * DECODE + views * VIEW) / machines / step
    gathered = views * WIDTH * 4
    gradients = 2 * PARAMETERS * 4
    rows = [
        ("step", f"{a.batch:,} images x {a.views} = {views:,} views, {views // a.gpus:,} a GPU"),
        ("encoder", f"{step:.2f} s a step, {steps:,.0f} steps and {steps * step / 3600:.1f} h an epoch (H200)"),
        ("photos on disk", f"{a.images * JPEG_BYTES / 1e12:.0f} TB as JPEG"),
        ("pixel store", f"{a.images * SIDE[0] * SIDE[1] * 3 / 1e12:.0f} TB: not made, photos are decoded anew"),
        ("decoding", f"{a.batch * DECODE:.1f} core s a step"),
        ("views", f"{views * VIEW:.1f} core s a step; with decoding {cores:.0f} busy cores a machine"),
        ("opening the manifest", f"{a.images * ROW_SECONDS / 60:.0f} min at the first start, in one process a machine"),
        ("names and labels", f"{a.images * ROW_BYTES / 1e9:.1f} GB a machine, in files that all its processes map"),
        ("order of an epoch", "computed, kept nowhere"),
        ("embeddings gathered", f"{2 * gathered / 1e6:.0f} MB into each GPU a step, there and back: "
         f"{2e3 * gathered * a.gpus_a_machine / NETWORK:.0f} ms"),
        ("gradients", f"{gradients / 1e6:.0f} MB a step: {1e3 * gradients / NETWORK:.0f} ms, while backward goes on"),
        ("loss", f"{views // a.gpus:,} x {views:,} pairs a GPU: {1e3 * views / a.gpus * views * PAIR:.1f} ms, "
         f"launches not counted"),
        ("checkpoint", f"{3 * PARAMETERS * 4 / 1e6:.0f} MB (weights and AdamW), by one process"),
    ]  # fmt: skip
    print(f"| {a.images / 1e6:,.0f} million images, {a.gpus} GPUs | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
