"""The table: what raw pixels, an untrained and a trained encoder are worth on images that training never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.evaluation.bootstrap import Interval, bootstrap_interval
from s2r2.evaluation.linear_probe import fit_linear_probe
from s2r2.evaluation.neighbours import knn_predictions
from s2r2.evaluation.relevance import common_columns
from s2r2.evaluation.retrieval import retrieval_metrics
from s2r2.evaluation.views_task import view_retrieval
from s2r2.images import PixelStore
from s2r2.views import Recipe, render_centre

TITLES = {
    "map": "mAP",
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "knn": "kNN",
    "linear": "linear",
    "probe_map": "probe mAP",
    "view_ap": "view AP",
}
"""Columns in the order in which they are shown."""


@dataclass
class EvaluationTable:
    """Figures of several encoders on the same images.

    Attributes:
        rows: For each encoder its figures by name, each a mean with its interval.
        about: What was evaluated on what, as plain values.
    """

    rows: dict[str, dict[str, Interval]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Figures that at least one row has, in the order of :data:`TITLES`."""
        return [name for name in TITLES if any(name in figures for figures in self.rows.values())]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure is ``[mean, low, high]``."""
        rows = {name: {k: v.to_list() for k, v in figures.items()} for name, figures in self.rows.items()}
        return {"about": self.about, "rows": rows}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "EvaluationTable":
        """What :meth:`to_dict` described."""
        rows = {n: {k: Interval(*v) for k, v in figures.items()} for n, figures in content["rows"].items()}
        return cls(rows, content["about"])

    def print(self, console: Console) -> None:
        """Show the table; the interval's half width stands behind each figure."""
        table = Table(title=self.about.get("title"), title_justify="left", caption_justify="left")
        table.add_column("")
        for name in self.columns:
            table.add_column(TITLES[name], justify="right")
        for row, figures in self.rows.items():
            table.add_row(row, *(_cell(figures.get(name)) for name in self.columns))
        console.print(table)


Embed = Callable[[PixelStore], np.ndarray]


def evaluate(
    encoders: dict[str, Encoder],
    train: PixelStore,
    test: PixelStore,
    *,
    recipe: Recipe | None = None,
    ks: Sequence[int] = (1, 5, 10),
    progress: bool = True,
) -> EvaluationTable:
    """Evaluate raw pixels and encoders on a test set.

    Retrieval ranks the test images for each test image, itself left out; kNN (k = 20, T = 0.07) and the linear probe
    learn from the training images' labels and are judged on the test images. Features are the backbone's, and for
    encoders with a head its embeddings get a row for retrieval and kNN as well.

    Args:
        encoders: Encoders by the name of their row.
        train: Images whose labels kNN and the probe may use.
        test: Images to judge on.
        recipe: Adds S2R2's own task, the AP of held-out random views.
        ks: Cut-offs of recall.
        progress: Show progress bars.

    Raises:
        S2R2Error: The two parts have different label names.
    """
    table = EvaluationTable(about={"train": train.name, "train_images": len(train)})
    table.about |= {"test": test.name, "test_images": len(test)}
    train_labels, test_labels = _labels(train, test)
    if test_labels is not None:
        first = next(iter(encoders.values()), None)
        side = min(32, first.image_size) if first else 32
        raw_train, raw_test = raw_pixels(train, side), raw_pixels(test, side)
        centre = raw_train.mean(0)
        raw_train, raw_test = _unit(raw_train - centre), _unit(raw_test - centre)
        table.rows["raw pixels"] = _figures(raw_train, raw_test, train_labels, test_labels, ks)
        table.about["raw_side"] = side
    for name, encoder in encoders.items():
        figures: dict[str, Interval] = {}
        if test_labels is not None:
            ours, theirs = (encoder.embed(part, progress=progress) for part in (train, test))
            figures = _figures(ours, theirs, train_labels, test_labels, ks)
        if recipe is not None and encoder.head is not None:
            figures["view_ap"] = bootstrap_interval(view_retrieval(encoder, test, recipe).average_precision)
        table.rows[name] = figures
        if encoder.head is not None and test_labels is not None:
            ours, theirs = (encoder.embed(part, output="embedding", progress=progress) for part in (train, test))
            table.rows[f"{name}, after the head"] = _figures(ours, theirs, train_labels, test_labels, ks)
    if not table.columns:
        raise S2R2Error(f"{test.name} has no labels: give labelled images, or a run folder whose views can be ranked")
    return table


def raw_pixels(store: PixelStore, side: int) -> np.ndarray:
    """Each image as its centred square of ``side`` pixels, flattened: ``(N, 3 * side * side)`` in [0, 1]."""
    parts = []
    for start in range(0, len(store), 256):
        images = [store[i] for i in range(start, min(start + 256, len(store)))]
        parts.append(render_centre(images, side, mean=(0.0,) * 3, std=(1.0,) * 3).reshape(len(images), -1))
    return np.concatenate(parts)


def _figures(
    train: np.ndarray, test: np.ndarray, train_labels: np.ndarray | None, test_labels: np.ndarray, ks: Sequence[int]
) -> dict[str, Interval]:
    scores = retrieval_metrics(test, test_labels, ks=ks)
    figures = {"map": bootstrap_interval(scores.average_precision)}
    figures |= {f"recall@{k}": bootstrap_interval(hits) for k, hits in scores.recall.items()}
    if train_labels is None:
        return figures
    if test_labels.ndim == 1:
        known = test_labels >= 0
        votes = knn_predictions(train, train_labels, test[known])
        figures["knn"] = bootstrap_interval(votes == test_labels[known])
        labelled = train_labels >= 0
        probe = fit_linear_probe(train[labelled], train_labels[labelled])
        figures["linear"] = bootstrap_interval(probe.predict(test[known]) == test_labels[known])
    else:
        labelled = train_labels.any(1)
        probe = fit_linear_probe(train[labelled], train_labels[labelled])
        figures["probe_map"] = _multi_label_map(probe.scores(test), test_labels)
    return figures


def _multi_label_map(scores: np.ndarray, targets: np.ndarray) -> Interval:
    """Mean over labels of the AP of ranking the test images by each label's score; the interval is over labels."""
    from sklearn.metrics import average_precision_score

    used = targets.any(0)
    return bootstrap_interval(np.array(average_precision_score(targets[:, used], scores[:, used], average=None)))


def _labels(train: PixelStore, test: PixelStore) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Label numbers, or rows of bool where an image has several, with one numbering for both parts."""
    if test.labels is None:
        return None, None
    if train.labels is None:
        return None, test.labels.single if test.labels.single is not None else test.labels.targets
    ours, theirs = common_columns(train.labels, test.labels)
    if ours.single is not None and theirs.single is not None:
        return ours.single, theirs.single
    return ours.targets, theirs.targets


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _cell(figure: Interval | None) -> str:
    return "" if figure is None else f"{figure.value:.3f} ± {(figure.high - figure.low) / 2:.3f}"
