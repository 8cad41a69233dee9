"""What an encoder is worth on labeled images, image by image, so that two encoders can be compared in pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, store_side
from s2r2.errors import S2R2Error
from s2r2.evaluation.distributed import embed_shared
from s2r2.evaluation.evaluating import nowhere_to_rank
from s2r2.evaluation.protocols.base import Space
from s2r2.evaluation.protocols.register import fitting_protocols, run_protocols
from s2r2.evaluation.task import UNKNOWN, Task, build_task
from s2r2.evaluation.warnings import cautions, withdraw
from s2r2.images import PixelStore, open_source
from s2r2.study.spec import TaskSpec

TARGETS = "targets"


@dataclass(frozen=True)
class TaskResult:
    """What the protocols found.

    Attributes:
        scores: By the name under which studies compare a figure, what its mean is taken of, see
            :class:`~s2r2.evaluation.task.Outcome`; NaN for a figure that means nothing; ``targets``, the labels
            ``(N,)`` or ``(N, C)`` of the images evaluated on; ``targets NAME``, those that the scores of a figure are
            for where they are others.
        record: Plain data: for each figure title, explanation and ``[value, low, high, count]``, exactly as
            ``s2r2 evaluate`` has them; what a reader must know; and hashes of the images.
    """

    scores: dict[str, np.ndarray]
    record: dict[str, Any]


def evaluate_task(
    encoder: Encoder, spec: TaskSpec, *, held_out: float = 0.0, protocols: Sequence[str] = (), seed: int = 0
) -> TaskResult:
    """Evaluate the features of an encoder by the usual protocols and some more, as ``s2r2 evaluate`` does.

    Args:
        encoder: The encoder.
        spec: Where the labeled images are.
        held_out: Share of the training labels to evaluate on in place of the test images; 0: the test images.
        protocols: More protocols, by name.
        seed: Of that split, and of all that is random in protocols and resamples.
    """
    train, test, task = _images(spec, store_side(encoder.image_size), held_out, seed)
    chosen = fitting_protocols(protocols, task)
    train_rows = embed_shared(encoder, train, "feature", Processes())
    test_rows = train_rows if test is train else embed_shared(encoder, test, "feature", Processes())
    if nowhere := nowhere_to_rank(train, train_rows) or nowhere_to_rank(test, test_rows):
        raise S2R2Error(nowhere)
    space = Space(train_rows, test_rows, train, test, encoder, device=str(encoder.device))
    outcomes = run_protocols(chosen, space, task)
    figures = {name: outcome.interval(draws=task.draws, seed=task.seed) for name, outcome in outcomes.items()}
    found = cautions(task, outcomes["map"].details, chosen)
    withdraw(figures, found, chosen, task)
    scores, record = {TARGETS: task.test[task.test_labeled]}, {}
    for protocol in chosen:
        columns = protocol.columns(task)
        for shared, name in protocol.compared(task).items():
            if name in outcomes:
                known = bool(np.isfinite(figures[name].value))
                scores[shared] = outcomes[name].resampled_values if known else np.full(len(scores[TARGETS]), np.nan)
                if known and (own := outcomes[name].targets) is not None and not np.array_equal(own, scores[TARGETS]):
                    scores[f"{TARGETS} {shared}"] = own
                record[shared] = {
                    "title": columns[name].title,
                    "explanation": columns[name].explanation,
                    "figure": figures[name].to_list(),
                }
    notes = [caution.text for caution in found]
    images = [train.fingerprint, test.fingerprint]
    return TaskResult(scores, {"figures": record, "notes": notes, "gallery_resampled": True, "images": images})


def targets_of(scores: Mapping[str, np.ndarray], task: str, name: str) -> np.ndarray:
    """The labels that a figure of a task is judged by."""
    labels, values = scores[f"{task}/{TARGETS}"], scores[f"{task}/{name}"]
    if labels.ndim == 1 and values.ndim == 2 and values.shape[1] != len(labels) == len(values):  # of earlier versions
        labels = labels[:, None] == np.arange(values.shape[1])
    return scores.get(f"{task}/{TARGETS} {name}", labels)


def check_tasks(tasks: dict[str, dict[str, Any]], side: int, protocols: Sequence[str], held_out: float = 0.0) -> None:
    """Decode the images of all tasks, and refuse those without labels, or without what a protocol needs.

    Raises:
        S2R2Error: There are no such images, no labels in common, a protocol cannot be run on them, or what the final
            stage evaluates on is what kNN and probe learn from.
    """
    for name, parts in tasks.items():
        train, test, task = _images(TaskSpec(**parts), side, 0.0, 0)
        if not held_out and train.fingerprint == test.fingerprint:
            raise S2R2Error(
                f"task {name}: {parts['train']} and {parts['test']} are the same images, so every figure would be too "
                "good: give held-out images as test, or a share of the training labels as held_out"
            )
        if not task.labeled or not task.has_train_labels or not task.test_labeled.any():
            raise S2R2Error(f"task {name}: {parts['train']} and {parts['test']} need labels to evaluate by")
        try:
            fitting_protocols(protocols, task)
        except S2R2Error as error:
            raise S2R2Error(f"task {name}: {error}") from error


def _images(spec: TaskSpec, side: int, held_out: float, seed: int) -> tuple[PixelStore, PixelStore, Task]:
    """Training images, test images, and their labels."""
    train = PixelStore.build(open_source(spec.train), side, progress=False)
    if held_out:
        return train, train, _held_out_task(train, held_out, seed)
    test = PixelStore.build(open_source(spec.test), side, progress=False)
    return train, test, build_task(train, test, seed=seed)


def _held_out_task(store: PixelStore, share: float, seed: int) -> Task:
    """A task within the training images: a part of the labels to learn from, the rest to evaluate on."""
    whole = build_task(store, store, seed=seed)
    assert whole.train is not None
    order = np.random.default_rng(seed).permutation(len(store))
    count = round(len(store) * share)
    unknown = False if whole.several else UNKNOWN
    train, test = whole.train.copy(), whole.test.copy()
    train[order[:count]] = unknown
    test[order[count:]] = unknown
    return Task(whole.names, train, test, seed=seed, folds=whole.folds)
