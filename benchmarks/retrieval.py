"""Retrieval metrics and the linear probe beside their peers: CPU time, memory, and whether the figures agree.

    python benchmarks/retrieval.py                   all of it (about 5 minutes)
    python benchmarks/retrieval.py --large           also 1,000 queries against a gallery of 1,000,000

mAP of 10,000 queries against 10,000, leave-one-out, D = 128, 1,250 groups of 8: s2r2, pytorch-metric-learning's
AccuracyCalculator with k=None, torchmetrics' RetrievalMAP (500 queries, scaled up: estimated). Then logistic regression
on 10,000 x 512 features of 100 classes beside scikit-learn's: with its own tolerance, and to the minimum that ours
reaches. Every case is a process of its own with one thread; memory is what resident memory rose above what the process
held before.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
QUERIES, GROUP, WIDTH = 10_000, 8, 128


def embeddings(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count // GROUP), GROUP)
    centres = generator.standard_normal((count // GROUP, WIDTH), np.float32)
    rows = centres[groups] + 1.8 * generator.standard_normal((count, WIDTH), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), groups


def features(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated positive features such as a network's: 100 classes, 512 wide."""
    fixed = np.random.default_rng(9)
    centres, mixing = fixed.standard_normal((100, 512)), fixed.standard_normal((512, 512)) * np.logspace(0, -1.5, 512)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 100, count)
    rows = (0.15 * centres[labels] + generator.standard_normal((count, 512))) @ mixing.T
    return np.maximum(rows + 1, 0).astype(np.float32), labels


def ours() -> Callable[[], dict[str, float]]:
    from s2r2.evaluation import retrieval_metrics

    rows, groups = embeddings(QUERIES)
    retrieval_metrics(rows[:64], groups[:64])  # compiles what is compiled once

    def run() -> dict[str, float]:
        result = retrieval_metrics(rows, groups, threads=1)
        return {"mAP": result.mean_average_precision, "R@1": float(result.recall[1].mean())}

    return run


def pml() -> Callable[[], dict[str, float]]:
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rows, groups = (torch.from_numpy(a) for a in embeddings(QUERIES))
    search = CustomKNN(CosineSimilarity(), batch_size=512)
    include = ("mean_average_precision", "precision_at_1")
    calculator = AccuracyCalculator(include=include, k=None, knn_func=search, device=torch.device("cpu"))

    def run() -> dict[str, float]:
        found = calculator.get_accuracy(rows, groups, rows, groups, True)
        return {"mAP": found["mean_average_precision"], "R@1": found["precision_at_1"]}

    return run


def torchmetrics() -> Callable[[], dict[str, float]]:
    import torch
    from torchmetrics.retrieval import RetrievalMAP

    rows, groups = (torch.from_numpy(a) for a in embeddings(QUERIES))
    count = 500

    def run() -> dict[str, float]:
        scores = rows[:count] @ rows.T + 2  # it drops positives whose score is not above 0
        relevant = groups[:count, None] == groups[None]
        others = torch.ones_like(relevant)
        others[torch.arange(count), torch.arange(count)] = False
        metric = RetrievalMAP()
        metric.update(scores[others], relevant[others], torch.arange(count)[:, None].expand_as(relevant)[others])
        return {"mAP": metric.compute().item()}

    return run


def large() -> Callable[[], dict[str, float]]:
    from s2r2.evaluation import retrieval_metrics

    gallery, groups = embeddings(1_000_000)
    queries, wanted = gallery[::1000].copy(), groups[::1000].copy()

    def run() -> dict[str, float]:
        own = np.arange(0, 1_000_000, 1000)
        result = retrieval_metrics(queries, wanted, gallery, groups, exclude=own, threads=1)
        return {"mAP": result.mean_average_precision}

    return run


def probe(strength: float) -> Callable[[], dict[str, float]]:
    from s2r2.evaluation import fit_linear_probe

    (x, y), (test, wanted) = features(10_000, 0), features(5_000, 1)
    fit_linear_probe(x[:200], y[:200], strengths=0.01, classes=100)

    def run() -> dict[str, float]:
        return {"accuracy": float((fit_linear_probe(x, y, strengths=strength).predict(test) == wanted).mean())}

    return run


def scikit_learn(strength: float, tolerance: float = 1e-4) -> Callable[[], dict[str, float]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (test, wanted) = features(10_000, 0), features(5_000, 1)
    if tolerance < 1e-4:  # float32 gradients do not get there
        x, test = x.astype(np.float64), test.astype(np.float64)

    def run() -> dict[str, float]:
        model = LogisticRegression(C=strength, max_iter=5000, tol=tolerance)
        fitted = make_pipeline(StandardScaler(), model).fit(x, y)
        return {"accuracy": float((fitted.predict(test) == wanted).mean())}

    return run


def probe_search() -> Callable[[], dict[str, float]]:
    from s2r2.evaluation import fit_linear_probe

    (x, y), (test, wanted) = features(10_000, 0), features(5_000, 1)

    def run() -> dict[str, float]:
        return {"accuracy": float((fit_linear_probe(x, y).predict(test) == wanted).mean())}

    return run


def scikit_learn_search() -> Callable[[], dict[str, float]]:
    """The same choice of six strengths on a held-out fifth, to the same minimum."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from s2r2.evaluation.protocols.linear_probe import STRENGTHS

    (x, y), (test, wanted) = features(10_000, 0), features(5_000, 1)
    x, test = x.astype(np.float64), test.astype(np.float64)

    def run() -> dict[str, float]:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-7))
        split = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
        search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=split).fit(x, y)
        return {"accuracy": float((search.predict(test) == wanted).mean())}

    return run


CASES: dict[str, Callable[[], Callable[[], dict[str, float]]]] = {
    "s2r2": ours, "pytorch-metric-learning": pml, "torchmetrics": torchmetrics, "s2r2, gallery of 1,000,000": large,
    "s2r2 probe, C = 0.01": lambda: probe(0.01),
    "scikit-learn, C = 0.01": lambda: scikit_learn(0.01),
    "scikit-learn, C = 0.01, to the minimum": lambda: scikit_learn(0.01, 1e-7),
    "s2r2 probe, C = 1": lambda: probe(1.0),
    "scikit-learn, C = 1": lambda: scikit_learn(1.0),
    "scikit-learn, C = 1, to the minimum": lambda: scikit_learn(1.0, 1e-7),
    "s2r2 probe, six strengths": probe_search,
    "scikit-learn, six strengths, to the minimum": scikit_learn_search,
}  # fmt: skip


def resident(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def run_case(name: str) -> dict[str, float]:
    run = CASES[name]()
    before, start = resident("VmRSS"), time.process_time()
    figures = run()
    seconds = time.process_time() - start
    peak = resident("VmHWM")
    return {"cpu_s": seconds, "extra_gib": (peak - before) / 2**20, "peak_gib": peak / 2**20, **figures}


def in_process(name: str) -> dict[str, float]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--case", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **one_thread})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also the gallery of 1,000,000")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments.case)))
        return
    names = [name for name in CASES if arguments.large or "gallery" not in name]
    results = {name: in_process(name) for name in names}
    table = Table(title="CPU seconds of one thread, memory above the start and at most, figures")
    for column in ("case", "CPU s", "times ours", "extra GiB", "peak GiB", "figures"):
        table.add_column(column, justify="left" if column in ("case", "figures") else "right")
    for name, result in results.items():
        seconds = result["cpu_s"] * (QUERIES / 500 if name == "torchmetrics" else 1)
        peer_of = f"s2r2 probe, {name.split(', ')[1]}" if "probe" in name or "scikit" in name else "s2r2"
        base = results[peer_of]["cpu_s"]
        figures = ", ".join(f"{k} {v:.6f}" for k, v in result.items() if k in ("mAP", "R@1", "accuracy"))
        table.add_row(
            name, f"{seconds:.2f}" + (" (est.)" if name == "torchmetrics" else ""), f"{seconds / base:.1f}",
            f"{result['extra_gib']:.2f}", f"{result['peak_gib']:.2f}", figures,
        )  # fmt: skip
    Console(width=130).print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
