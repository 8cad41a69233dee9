"""The protocols that turn one embedding space and labels into figures with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2r2.evaluation.metrics.bootstrap import DRAWS, Interval, bootstrap_interval, mean_average_precision_interval
from s2r2.evaluation.metrics.label_encoding import common_columns
from s2r2.evaluation.metrics.neighbours import knn_scores, usual_neighbours
from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.evaluation.protocols.linear_probe import STRENGTHS, fit_linear_probe
from s2r2.evaluation.result import Column, Row
from s2r2.images import Labels, PixelStore


@dataclass(frozen=True)
class Task:
    """Labels of training and test images under one numbering, and how to judge.

    Attributes:
        names: The label names.
        train: ``(M,)`` int64 with -1 for unknown, or ``(M, C)`` bool; None without training labels.
        test: The same for the test images.
        ks: Cut-offs of Recall@k.
        draws: Bootstrap resamples.
        seed: Of resamples and splits.
    """

    names: list[str]
    train: np.ndarray | None
    test: np.ndarray
    ks: tuple[int, ...] = (1, 5, 10)
    draws: int = DRAWS
    seed: int = 0

    @property
    def several(self) -> bool:
        """Whether images have several labels."""
        return self.test.ndim == 2

    @property
    def judged(self) -> np.ndarray:
        """``(N,)`` bool: test images with a label."""
        return np.asarray(self.test.any(1) if self.several else self.test >= 0)

    @property
    def teaching(self) -> np.ndarray:
        """``(M,)`` bool: training images with a label."""
        if self.train is None:
            return np.zeros(0, bool)
        return np.asarray(self.train.any(1) if self.several else self.train >= 0)

    def bits(self, labels: np.ndarray) -> np.ndarray:
        """Some of the labels as ``(N, C)`` bool."""
        return labels if labels.ndim == 2 else labels[:, None] == np.arange(len(self.names))


def build_task(
    train: PixelStore | None, test: PixelStore, *, ks: Sequence[int], draws: int = DRAWS, seed: int = 0
) -> Task | None:
    """The task that the labels of two stores pose; None without labels on the test images."""
    if test.labels is None:
        return None
    teaching = train.labels if train is not None else None
    first, second = (None, test.labels) if teaching is None else common_columns(teaching, test.labels)
    single = second.single is not None and (first is None or first.single is not None)
    return Task(
        second.names,
        None if first is None else _plain(first, single),
        _plain(second, single),
        tuple(ks),
        draws,
        seed,
    )


def _plain(labels: Labels, single: bool) -> np.ndarray:
    numbers = labels.single
    return numbers if single and numbers is not None else labels.targets


def judge(row: Row, train: np.ndarray | None, test: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Fill a row with every figure that the task allows; returns per-image values for the report."""
    result = retrieval_metrics(test, task.test, unknown=-1, ks=task.ks, graded=task.several)
    row.figures["map"] = bootstrap_interval(result.average_precision, draws=task.draws, seed=task.seed)
    row.figures["map@r"] = bootstrap_interval(result.average_precision_at_r, draws=task.draws, seed=task.seed)
    row.figures["r-precision"] = bootstrap_interval(result.r_precision, draws=task.draws, seed=task.seed)
    if result.ndcg is not None:
        row.figures["ndcg"] = bootstrap_interval(result.ndcg, draws=task.draws, seed=task.seed)
    for k, hits in result.recall.items():
        row.figures[f"recall@{k}"] = bootstrap_interval(hits, draws=task.draws, seed=task.seed)
    counts = result.summary()
    row.details["retrieval"] = {
        key: counts[key] for key in ("queries", "without_relevant", "unlabelled_queries", "tie_span")
    }
    wrong = (result.gallery - 1 - result.relevant)[np.isfinite(result.average_precision)]
    row.details["retrieval"]["most_wrong"] = int(wrong.max(initial=0))
    _judge_neighbours(row, train, test, task)
    if task.train is not None and train is not None and task.teaching.any():
        _judge_probe(row, train, test, task)
    return {"average_precision": result.average_precision}


def columns_for(task: Task | None, neighbours: Sequence[int], views: int, view_images: int) -> dict[str, Column]:
    """The columns of a table, with their explanations."""
    columns: dict[str, Column] = {}
    if task is not None:
        same = "has a label in common with it" if task.several else "is of its class"
        columns["map"] = Column(
            "mAP",
            f"Retrieval. Each test image in turn is the query and all others are ranked by similarity; AP is high "
            f"when every image that {same} comes before the others. The mean over all queries.",
        )
        columns["map@r"] = Column(
            "mAP@R",
            "The same, looking only at the first R places, R being the number of images to be found.",
            main=False,
        )
        columns["r-precision"] = Column("R-Prec.", "Share of right images among those first R places.", main=False)
        if task.several:
            columns["ndcg"] = Column(
                "nDCG",
                "Graded retrieval: an image counts by the overlap of its labels with the query's (shared labels "
                "divided by all labels of the two). 100 when the ranking follows that overlap.",
            )
        for k in task.ks:
            first = "the first image found" if k == 1 else f"at least one of the first {k} found"
            columns[f"recall@{k}"] = Column(f"R@{k}", f"Share of queries for which {first} is a right one.")
        for k in neighbours:
            if task.several:
                text = f"Labels guessed by a vote of the {k} nearest labelled images; mean AP over labels."
            else:
                text = f"Share of test images whose class the vote of the {k} nearest labelled images finds."
            columns[f"knn@{k}"] = Column(f"kNN {k}", text, main=k == min(neighbours))
        if task.several:
            columns["probe"] = Column(
                "probe", "A linear classifier for each label, trained on the fixed features; mean AP over labels."
            )
        else:
            columns["probe"] = Column(
                "linear", "Share of test images that a linear classifier, trained on the fixed features, gets right."
            )
    columns["view_ap"] = Column(
        "view AP",
        f"The task that the encoder was trained for: {views} random views of each of {view_images} photos; each view "
        "must find the other views of its photo. AP, averaged over views.",
    )
    return columns


def _judge_neighbours(row: Row, train: np.ndarray | None, test: np.ndarray, task: Task) -> None:
    judged = task.judged
    if train is None or task.train is None or not task.teaching.any():
        if judged.sum() < 2:
            return  # no other image could vote
        ks = usual_neighbours(int(judged.sum()))
        shares = knn_scores(test[judged], task.test[judged], ks=ks, classes=len(task.names))
    else:
        ks = usual_neighbours(int(task.teaching.sum()))
        shares = knn_scores(train, task.train, test[judged], unknown=-1, ks=ks, classes=len(task.names))
    for k, share in shares.items():
        row.figures[f"knn@{k}"] = _interval(share, task)


def _judge_probe(row: Row, train: np.ndarray, test: np.ndarray, task: Task) -> None:
    assert task.train is not None
    teaching = task.teaching
    probe = fit_linear_probe(
        train[teaching], task.train[teaching], strengths=STRENGTHS, classes=len(task.names), seed=task.seed
    )
    row.figures["probe"] = _interval(probe.scores(test[task.judged]), task)
    row.details["probe"] = {"strength": probe.strength, "validation": {str(k): v for k, v in probe.validation.items()}}


def _interval(scores: np.ndarray, task: Task) -> Interval:
    """Accuracy (single-label) or mAP (multi-label) of scores ``(N, C)`` of the judged test images."""
    wanted = task.test[task.judged]
    if task.several:
        return mean_average_precision_interval(scores, wanted, draws=task.draws, seed=task.seed)
    return bootstrap_interval(scores.argmax(1) == wanted, draws=task.draws, seed=task.seed)
