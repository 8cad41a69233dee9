"""What adapting a pretrained encoder without labels changes, at equal time: the table of docs/adapting.md.

    python benchmarks/adapting.py                                  all cells, three seeds, one minute each
    python benchmarks/adapting.py --data grocery --forms head all --seeds 1 --minutes 0.5

Photos are those of S2R2_DATA. For each set: the encoder as it is (frozen; weights of benchmarks/real_weights.py),
adapted in the forms of ``--adapt``, and the same backbone trained from random weights, each for the same time. The last
form, lora-vit, starts from a vision transformer with random weights, as those weights are of a convolutional network:
it shows that the road works, not what LoRA is worth.

mAP, R@1 and kNN (a photo is classified by its ten nearest; where photos have one label) are of the photos that were
trained on, whose labels no form has seen. Differences pair by photo; their 95 % intervals are over photos, of values
averaged over the seeds. A study (``s2r2 compare``) compares methods from one start at equal steps, and has no row for
an encoder that is not trained: so this script makes the table, and not a study file.

Each cell is a process of its own. Cells are added to the JSON file as they come; an interrupted run continues with
those that are missing, and ``--data`` and ``--forms`` split the work. ``--cpu-time`` counts CPU seconds over
``--threads`` in place of the clock's, and torch computes with one thread: other programs then cost a cell little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "adapting.json"
DATA = {
    "grocery": "grocery_packages_train_s160.tar",
    "clothing": "clothing_cc0_s160.tar",
    "scenes": "intel_scenes_test.tar",
    "coco": "coco_small_s160.tar",
}
VIT = "untrained:vit_tiny_patch16_224"
FORMS = ("frozen", "head", "last-blocks", "all", "from scratch", "lora-vit")
FIGURES = {"map": "mAP", "recall@1": "R@1", "knn": "kNN"}


def run_cell(data: str, form: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell, in this process."""
    import torch

    from real_weights import NAME
    from s2r2.encoder import load, store_side
    from s2r2.images import PixelStore, open_source
    from s2r2.training import TrainConfig, train
    from s2r2.training.setup import cost

    torch.set_num_threads(1 if arguments.cpu_time else arguments.threads)
    start, began, row = VIT if form == "lora-vit" else f"timm:{NAME}", time.monotonic(), {}
    store = PixelStore.build(
        open_source(arguments.photos / DATA[data]), store_side(arguments.image_size), arguments.store, progress=False
    )
    if form == "frozen":
        encoder = load(start, image_size=arguments.image_size)
    else:
        begun = {"backbone": NAME} if form == "from scratch" else {"start": start, "adapt": form.removesuffix("-vit")}
        config = TrainConfig(
            **begun, minutes=arguments.minutes, image_size=arguments.image_size, recipe="photos", seed=seed,
            store=arguments.store, threads=arguments.threads, check_every=1 << 30,
        )  # fmt: skip
        clock = (lambda: time.process_time() / arguments.threads) if arguments.cpu_time else time.monotonic
        cost.time = SimpleNamespace(perf_counter=clock)  # what a run chooses by is measured by the same clock
        with tempfile.TemporaryDirectory() as folder:
            result = train(arguments.photos / DATA[data], config, out=Path(folder) / "run", clock=clock, quiet=True)
        encoder, row["steps"] = result.encoder, result.steps
    values = judge(encoder.embed(store), store.labels)
    return {**row, "seconds": time.monotonic() - began, "values": values}


def judge(rows: np.ndarray, labels: Any) -> dict[str, list[float]]:
    """For each figure the value of each photo that is a query: ``retrieval_metrics``, and kNN of 10 with one label."""
    from s2r2.evaluation.metrics.neighbors import nearest
    from s2r2.evaluation.metrics.retrieval import retrieval_metrics

    single = labels.single is not None
    labeled = labels.targets.any(1)
    rows, targets = rows[labeled], (labels.single if single else labels.targets)[labeled]
    found = retrieval_metrics(rows, targets)
    values = {"map": found.average_precision, "recall@1": found.recall[1]}
    if single:
        near = targets[nearest(rows, k=10)[0]]
        voted = np.array([np.bincount(votes).argmax() for votes in near])
        values["knn"] = (voted == targets).astype(float)
    return {name: [round(float(value), 5) for value in each] for name, each in values.items()}


def missing(arguments: argparse.Namespace, cells: list[dict[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Cells that have no row yet; the seed of a frozen encoder changes nothing."""
    there = {tuple(cell["cell"]) for cell in cells if cell["settings"] == settings_of(arguments)}
    for seed in range(arguments.seeds):
        for data in arguments.data:
            for form in arguments.forms:
                if (data, form, seed) not in there and not (form == "frozen" and seed):
                    yield data, form, seed


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What cells of one table have in common."""
    return {name: getattr(arguments, name) for name in ("minutes", "image_size", "cpu_time", "threads")}


def show(cells: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The table: figures averaged over the seeds, and their differences from the frozen encoder."""
    from s2r2.evaluation.metrics.bootstrap import bootstrap_interval

    cells = [cell for cell in cells if cell["settings"] == settings_of(arguments)]
    table = Table("photos", "trained", "seeds", *FIGURES.values(), *(f"change of {name}" for name in FIGURES.values()))
    for data in DATA:
        values = {
            form: [cell["values"] for cell in cells if cell["cell"][:2] == [data, form]] for form in FORMS
        }  # fmt: skip
        frozen = values["frozen"][0] if values["frozen"] else {}
        for form in [form for form in FORMS if values[form]]:
            now = {
                name: np.nanmean([seed[name] for seed in values[form]], 0)
                for name in FIGURES
                if name in values[form][0]
            }
            line = [f"{100 * float(np.nanmean(now[name])):.1f}" if name in now else "" for name in FIGURES]
            for name in FIGURES:
                compared = name in now and name in frozen and form not in ("frozen", "lora-vit")
                gap = bootstrap_interval(now[name] - np.array(frozen[name])) if compared else None
                line.append(
                    f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]" if gap is not None else ""
                )
            table.add_row(data, form, str(len(values[form])), *line)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="cores to use")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds")
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "adapting")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("DATA", "FORM", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.photos = Path(os.environ["S2R2_DATA"])
    if arguments.one:
        data, form, seed = arguments.one
        print(json.dumps(run_cell(data, form, int(seed), arguments)))
        return
    from real_weights import write_cache

    os.environ.update(write_cache(arguments.store / "weights"), OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")
    cells = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    for cell in missing(arguments, cells):
        load = os.getloadavg()[0]
        ended = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", *map(str, cell)], stdout=subprocess.PIPE, text=True
        )
        if ended.returncode:
            print(f"{cell}: failed", flush=True)
            continue
        row = json.loads(ended.stdout.splitlines()[-1])
        cells.append({"cell": list(cell), "settings": settings_of(arguments), "load": load, **row})
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(cells) + "\n", encoding="utf-8")
        means = {name: round(100 * float(np.nanmean(each)), 1) for name, each in row["values"].items()}
        print(*cell, {key: row[key] for key in ("steps", "seconds") if key in row}, means, flush=True)
    show(cells, arguments)


if __name__ == "__main__":
    main()
