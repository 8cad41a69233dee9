"""Protocols that take longer, run when asked for: low-shot, VOC07 SVM, fine-tuning."""

from collections.abc import Sequence

import numpy as np

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.evaluation.few_labels import SHOTS, SUBSETS, low_shot
from s2r2.evaluation.fine_tuning import SHARES, fine_tune
from s2r2.evaluation.protocols import Task
from s2r2.evaluation.result import Column, Row
from s2r2.evaluation.voc07 import voc07_svm
from s2r2.images import PixelStore

PROTOCOLS = ("low-shot", "svm", "fine-tuning")

FURTHER_COLUMNS = {
    **{
        f"low-shot@{n}": Column(
            f"{n}-shot",
            f"A linear classifier trained on only {n} labelled image{'s' if n > 1 else ''} of each class; "
            f"the mean over {SUBSETS} draws of those images.",
            main=False,
        )
        for n in SHOTS
    },
    "svm": Column(
        "SVM",
        "VOC07 protocol: a linear support vector machine for each label on the fixed features; mean AP over labels.",
        main=False,
    ),
    **{
        f"fine-tuning@{share:g}": Column(
            f"tuned {share:.0%}",
            f"The whole encoder trained further on {share:.0%} of the labelled images, all its weights free.",
            main=False,
        )
        for share in SHARES
    },
}


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise an S2R2Error that names the protocols there are when one of these is not among them."""
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise S2R2Error(f"protocol {unknown[0]!r} is not known: use {', '.join(PROTOCOLS)}")


def judge_further(row: Row, train: np.ndarray | None, test: np.ndarray, task: Task, protocols: Sequence[str]) -> None:
    """Fill a row with low-shot accuracy and VOC07 SVM, where asked for and possible.

    Low-shot needs one label for each image, and ``n`` labelled images of every class; other ``n`` are left out. The SVM
    is not trained on raw pixels.
    """
    if train is None or task.train is None or not task.teaching.any():
        return
    if "low-shot" in protocols and not task.several:
        fewest = int(np.unique(task.train[task.teaching], return_counts=True)[1].min())
        for shots in (n for n in SHOTS if n <= fewest):
            found = low_shot(
                train, task.train, test, task.test, shots=shots, subsets=SUBSETS, seed=task.seed, draws=task.draws
            )
            row.figures[f"low-shot@{shots}"] = found.interval
            row.details[f"low-shot@{shots}"] = found.accuracies
    if "svm" in protocols and row.output != "pixels":  # hours of solver time for a baseline that nobody reads
        teaching, judged = task.teaching, task.judged
        machine = voc07_svm(
            train[teaching],
            _bits(task.train[teaching], task),
            test[judged],
            _bits(task.test[judged], task),
            seed=task.seed,
            draws=task.draws,
        )
        row.figures["svm"] = machine.interval
        row.details["svm"] = {
            name: {"average_precision": float(ap), "cost": float(cost)}
            for name, ap, cost in zip(task.names, machine.average_precision, machine.costs, strict=True)
        }


def judge_fine_tuning(
    row: Row, encoder: Encoder, train: PixelStore, test: PixelStore, task: Task, protocols: Sequence[str]
) -> None:
    """Fill a row with the figures of the encoder trained further on 1, 10 and 100 % of the labels."""
    if "fine-tuning" not in protocols or task.train is None or not task.teaching.any():
        return
    for share in SHARES:
        row.figures[f"fine-tuning@{share:g}"] = fine_tune(encoder, train, test, task, share=share)


def _bits(labels: np.ndarray, task: Task) -> np.ndarray:
    return labels if labels.ndim == 2 else labels[:, None] == np.arange(len(task.names))
