"""What keeps figures from meaning what they seem to: said beside them, and instead of those that mean nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2r2.evaluation.metrics.bootstrap import LEAST_FOR_INTERVAL, Interval
from s2r2.evaluation.protocols.base import Task
from s2r2.evaluation.protocols.fine_tuning import SHARES, labelled_share
from s2r2.evaluation.protocols.low_shot import SHOTS
from s2r2.evaluation.protocols.voc07 import FOLDS, trainable
from s2r2.evaluation.result import Row

FEW_IMAGES = 10
"""Below so many labelled test images a table says that its figures mean little."""
RANKED = ("map", "map@r", "r-precision", "ndcg", "recall@")
LEARNT = ("knn@", "probe", "low-shot@", "folds", "svm", "fine-tuning@")


@dataclass(frozen=True)
class Caution:
    """Something to know about figures.

    Attributes:
        text: A sentence.
        withdrawn: Names of figures, or what they begin with up to the @, that mean nothing and are not given.
    """

    text: str
    withdrawn: tuple[str, ...] = ()


def cautions(task: Task, retrieval: dict[str, Any], protocols: Sequence[str] = ()) -> list[Caution]:
    """What keeps the figures of a task from meaning what they seem to.

    Args:
        task: Labels.
        retrieval: What :func:`~s2r2.evaluation.protocols.base.judge` notes about the rankings of a row.
        protocols: The further ones that were asked for.
    """
    found = []
    judged = int(task.judged.sum())
    if judged < FEW_IMAGES:
        spread = ", and there is no ± from so few" if judged < LEAST_FOR_INTERVAL else ""
        found.append(
            Caution(f"Only {judged} test images have a label: these figures say next to nothing{spread}; give more.")
        )
    found += _of_rankings(task, retrieval)
    if task.teaching.any():
        found += _of_teaching(task)
        found += _of_protocols(task, protocols)
    return found


def withdraw(row: Row, found: Sequence[Caution]) -> None:
    """Replace figures that mean nothing by one that is not a number, which tables show as n/a."""
    patterns = {pattern for caution in found for pattern in caution.withdrawn}
    for name, figure in row.figures.items():
        if name in patterns or name.partition("@")[0] + "@" in patterns:
            row.figures[name] = Interval(math.nan, math.nan, math.nan, figure.count)


def _of_rankings(task: Task, retrieval: dict[str, Any]) -> list[Caution]:
    votes = () if task.teaching.any() else LEARNT  # without training labels the test images vote
    if retrieval["queries"] == 0:
        text = "No labelled test image has another one to be found: rankings cannot be judged (n/a)."
        return [Caution(text, RANKED + votes)]
    wrong = retrieval["most_wrong"]
    if wrong == 0:
        same = "has a label in common with all others" if task.several else "is of one class"
        text = f"Every labelled test image {same}: any ranking is perfect, so no figure of one is given (n/a)."
        more = " kNN and linear figures are of that class alone." if task.teaching.any() and not task.several else ""
        return [Caution(text + more, RANKED + votes)]
    certain = [k for k in task.ks if k > wrong]
    if certain:
        names = ", ".join(f"R@{k}" for k in certain)
        text = (
            f"{names}: so many places are never all wrong, as at most {wrong} test images are wrong for a query (n/a)."
        )
        return [Caution(text, tuple(f"recall@{k}" for k in certain))]
    return []


def _of_teaching(task: Task) -> list[Caution]:
    assert task.train is not None
    found = []
    tested, taught = _labels_of(task.test, task.judged), _labels_of(task.train, task.teaching)
    unknown = sorted(tested - taught)
    names = ", ".join(repr(task.names[c]) for c in unknown[:3]) + (" ..." if len(unknown) > 3 else "")
    if unknown:
        none = len(unknown) == len(tested)
        whole = "None" if none else f"Only {len(tested) - len(unknown)} of {len(tested)}"
        text = (
            f"{whole} of the test images' labels occur among the training images: kNN and probe cannot find "
            f"{names} (the training images' are like {task.names[min(taught)]!r}); write the labels alike in both."
        )
        found.append(Caution(text, LEARNT if none else ()))
    if len(taught) == 1:
        text = "All labelled training images are of one class: kNN and probe have nothing to tell apart (n/a)."
        found.append(Caution(text, LEARNT))
    elif task.several and len(tested) == 1:
        found.append(Caution("All labelled test images have the same label: its AP is always perfect (n/a).", LEARNT))
    return found


def _of_protocols(task: Task, protocols: Sequence[str]) -> list[Caution]:
    assert task.train is not None
    found = []
    teaching = task.train[task.teaching]
    if "low-shot" in protocols and not task.several:
        fewest = int(np.unique(teaching, return_counts=True)[1].min())
        if left := [str(n) for n in SHOTS if n > fewest]:
            text = f"Low-shot with {' and '.join(left)} images of each class is left out: the smallest has {fewest}."
            found.append(Caution(text))
    if "svm" in protocols:
        good = trainable(task.bits(teaching))
        if not good.all():
            text = (
                f"SVM: {(~good).sum()} of {len(good)} labels have fewer than {FOLDS} training images with or without "
                "them, so they were not trained, and their AP is chance"
            )
            found.append(Caution(text + ("." if good.any() else " (n/a)."), () if good.any() else ("svm",)))
    if "fine-tuning" in protocols:
        for share in SHARES:
            taken = len(labelled_share(task, share))
            if taken > 1.5 * share * len(teaching):
                text = f"Fine-tuning on {share:.0%} took {taken} of {len(teaching)} labelled images"
                found.append(Caution(f"{text}: at least one of each class."))
    return found


def _labels_of(labels: np.ndarray, known: np.ndarray) -> set[int]:
    rows = labels[known]
    return set((np.flatnonzero(rows.any(0)) if rows.ndim == 2 else np.unique(rows)).tolist())
