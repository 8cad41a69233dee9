"""What an encoder is worth on labelled images, image by image, so that two encoders can be compared in pairs."""

from typing import Any

import numpy as np
import torch

from s2r2.encoder import Encoder, store_side
from s2r2.evaluation import fit_linear_probe, health, knn_scores, retrieval_metrics
from s2r2.evaluation.metrics.neighbours import usual_neighbours
from s2r2.evaluation.protocols.base import Task, build_task
from s2r2.evaluation.protocols.linear_probe import STRENGTHS
from s2r2.images import PixelStore, open_source
from s2r2.study.spec import TaskSpec


def judge_task(encoder: Encoder, spec: TaskSpec, held_out: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores of every judged image by the backbone's features.

    Args:
        encoder: The encoder.
        spec: Where the labelled images are.
        held_out: Share of the training labels that is judged in the place of the test images; 0: the test images.
        seed: Of that split, and of the probe's.

    Returns:
        ``map`` ``(N,)`` average precision of each query, NaN for one without relevant images; ``knn`` and
        ``linear``: ``(N,)`` whether each judged image is right, or with several labels an image ``(N, C)`` scores;
        ``targets`` ``(N,)`` or ``(N, C)``; ``effective_rank`` ``()``.
    """
    side = store_side(encoder.image_size)
    teaching = PixelStore.build(open_source(spec.train), side, progress=False)
    teaching_rows = encoder.embed(teaching)
    if held_out:
        task, train_rows, test_rows = _held_out_task(teaching, teaching_rows, held_out, seed)
    else:
        judged = PixelStore.build(open_source(spec.test), side, progress=False)
        task, train_rows, test_rows = _task(teaching, judged), teaching_rows, encoder.embed(judged)
    return _scores(task, train_rows, test_rows, seed, encoder.device)


def _task(teaching: PixelStore, judged: PixelStore) -> Task:
    task = build_task(teaching, judged, ks=(1,))
    assert task is not None, "the study's tasks were checked to have labels"
    return task


def _held_out_task(store: PixelStore, rows: np.ndarray, share: float, seed: int) -> tuple[Task, np.ndarray, np.ndarray]:
    """A task within the training images: a part of them teaches, the rest is judged."""
    whole = _task(store, store)
    order = np.random.default_rng(seed).permutation(len(store))
    judged, teaching = np.sort(order[: round(len(store) * share)]), np.sort(order[round(len(store) * share) :])
    assert whole.train is not None
    task = Task(whole.names, whole.train[teaching], whole.test[judged], whole.ks)
    return task, rows[teaching], rows[judged]


def _scores(task: Task, train: np.ndarray, test: np.ndarray, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    assert task.train is not None
    teaching, judged, classes = task.teaching, task.judged, len(task.names)
    targets = task.test[judged]
    neighbours = usual_neighbours(int(teaching.sum()))[0]
    votes = knn_scores(train[teaching], task.train[teaching], test[judged], ks=(neighbours,), classes=classes)[
        neighbours
    ]
    probe = fit_linear_probe(
        train[teaching], task.train[teaching], strengths=STRENGTHS[:5], classes=classes, seed=seed, device=device
    )
    outputs = {"knn": votes, "linear": probe.scores(test[judged])}
    return {
        "map": retrieval_metrics(test, task.test, unknown=-1, ks=task.ks).average_precision.astype(np.float32),
        **{
            name: scores.astype(np.float32) if task.several else scores.argmax(1) == targets
            for name, scores in outputs.items()
        },
        "targets": targets,
        "effective_rank": np.array(health(test[judged]).effective_rank),
    }


def check_tasks(tasks: dict[str, dict[str, Any]], side: int) -> None:
    """Decode the images of all tasks, and refuse those without labels.

    Raises:
        S2R2Error: There are no such images, or no labels in common.
    """
    from s2r2.errors import S2R2Error

    for name, parts in tasks.items():
        stores = [PixelStore.build(open_source(parts[part]), side, progress=False) for part in ("train", "test")]
        task = build_task(stores[0], stores[1], ks=(1,))
        if task is None or task.train is None or not task.teaching.any() or not task.judged.any():
            raise S2R2Error(f"task {name}: {parts['train']} and {parts['test']} need labels to judge by")
