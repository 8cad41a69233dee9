"""Protocols that take longer, run when asked for: low-shot, VOC07 SVM, fine-tuning."""

import math
from collections.abc import Sequence

import numpy as np

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.evaluation.protocols.base import Task
from s2r2.evaluation.protocols.fine_tuning import SHARES, fine_tune
from s2r2.evaluation.protocols.low_shot import SHOTS, SUBSETS, low_shot, probe_subsets
from s2r2.evaluation.protocols.voc07 import trainable, voc07_svm
from s2r2.evaluation.result import Column, Row
from s2r2.images import PixelStore

PROTOCOLS = ("low-shot", "folds", "svm", "fine-tuning")

FURTHER_COLUMNS = {
    **{
        f"low-shot@{n}": Column(
            f"{n}-shot",
            f"A linear classifier trained on only {n} labelled image{'s' if n > 1 else ''} of each class; "
            f"the mean over {SUBSETS} draws of those images.",
            main=False,
            asked_for=True,
        )
        for n in SHOTS
    },
    "folds": Column(
        "folds",
        "A linear classifier trained on each of the data set's predefined folds of the training images; the mean over "
        "them.",
        main=False,
        asked_for=True,
    ),
    "svm": Column(
        "SVM",
        "VOC07 protocol: a linear support vector machine for each label on the fixed features; mean AP over labels.",
        main=False,
        asked_for=True,
    ),
    **{
        f"fine-tuning@{share:g}": Column(
            f"tuned {share:.0%}",
            f"The whole encoder trained further on {share:.0%} of the labelled images, all its weights free.",
            main=False,
            asked_for=True,
        )
        for share in SHARES
    },
}


def check_protocols(protocols: Sequence[str], train: PixelStore | None, task: Task | None) -> None:
    """Refuse protocols that do not exist, or that these images do not allow.

    Raises:
        S2R2Error: It says which, and what they need.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise S2R2Error(f"protocol {unknown[0]!r} is not known: use {', '.join(PROTOCOLS)}")
    if protocols and task is None:
        raise S2R2Error(f"protocol {protocols[0]} needs labelled test images: give such as --test")
    if protocols and task is not None and not task.teaching.any():
        raise S2R2Error(f"protocol {protocols[0]} needs labelled training images: give them as --train")
    several = [name for name in protocols if name in ("low-shot", "folds") and task is not None and task.several]
    if several:
        raise S2R2Error(f"protocol {several[0]} needs images with one label each; these have several: use svm")
    if "folds" in protocols and (train is None or not train.folds):
        raise S2R2Error("protocol folds needs training images with predefined folds, as stl10:train has them")


def judge_further(
    row: Row,
    train: np.ndarray | None,
    test: np.ndarray,
    task: Task,
    protocols: Sequence[str],
    folds: Sequence[np.ndarray] = (),
) -> None:
    """Fill a row with low-shot accuracy, that of predefined folds, and VOC07 SVM, where asked for and possible.

    Low-shot needs one label for each image, and ``n`` labelled images of every class; other ``n`` are left out. The SVM
    is not trained on raw pixels.
    """
    if train is None or task.train is None or not task.teaching.any():
        return
    if "low-shot" in protocols and not task.several:
        fewest = int(np.unique(task.train[task.teaching], return_counts=True)[1].min())
        for shots in (n for n in SHOTS if n <= fewest):
            found = low_shot(
                train,
                task.train,
                test,
                task.test,
                shots=shots,
                unknown=-1,
                subsets=SUBSETS,
                seed=task.seed,
                draws=task.draws,
            )
            row.figures[f"low-shot@{shots}"] = found.interval
            row.details[f"low-shot@{shots}"] = found.accuracies
    if "folds" in protocols and not task.several and folds:
        by_fold = probe_subsets(train, task.train, test, task.test, folds, unknown=-1, seed=task.seed, draws=task.draws)
        row.figures["folds"] = by_fold.interval
        row.details["folds"] = by_fold.accuracies
    if "svm" in protocols and row.output != "pixels":  # hours of solver time for a baseline that nobody reads
        teaching, judged = task.teaching, task.judged
        if not trainable(task.bits(task.train[teaching])).any():
            row.figures["svm"] = Interval(math.nan, math.nan, math.nan)
            return
        machine = voc07_svm(
            train[teaching],
            task.bits(task.train[teaching]),
            test[judged],
            task.bits(task.test[judged]),
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
