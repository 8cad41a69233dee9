"""What keeps figures from meaning what they seem to: said beside them, and instead of those that mean nothing."""

import difflib
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from s2r2.evaluation.metrics.bootstrap import LEAST_FOR_INTERVAL, Interval
from s2r2.evaluation.protocols.base import Basis, Caution, Protocol
from s2r2.evaluation.task import Task
from s2r2.system.wording import amount

FEW_IMAGES = 10
"""Below so many labeled test images a table says that its figures mean little."""


def cautions(task: Task, retrieval: dict[str, Any], protocols: Sequence[Protocol] = ()) -> list[Caution]:
    """What keeps the figures of a task from meaning what they seem to.

    Args:
        task: Labels.
        retrieval: What :class:`~s2r2.evaluation.protocols.retrieval_figures.Retrieval` notes of the rankings of a row.
        protocols: Those that are run.
    """
    found = []
    judged = int(task.test_labeled.sum())
    if judged < FEW_IMAGES:
        spread = ", and there is no ± from so few" if judged < LEAST_FOR_INTERVAL else ""
        known = amount(judged, "test image has", "test images have")
        found.append(Caution(f"Only {known} a label: these figures say next to nothing{spread}; give more."))
    found += _of_rankings(task, retrieval)
    if task.has_train_labels:
        found += _of_teaching(task)
    return found + [caution for protocol in protocols for caution in protocol.cautions(task)]


def withdraw(figures: dict[str, Interval], found: Sequence[Caution], protocols: Sequence[Protocol], task: Task) -> None:
    """Replace figures that mean nothing by one that is not a number, which tables show as n/a."""
    names = {name for caution in found for name in caution.figures}
    bases = {basis for caution in found for basis in caution.bases}
    for protocol in protocols:
        names |= set(protocol.columns(task)) if protocol.basis in bases else set()
    for name in names & set(figures):
        figures[name] = Interval(math.nan, math.nan, math.nan, figures[name].count)


def _of_rankings(task: Task, retrieval: dict[str, Any]) -> list[Caution]:
    # Without training labels the test images vote.
    bases = (Basis.RANKING,) if task.has_train_labels else (Basis.RANKING, Basis.TRAINING_LABELS)
    if retrieval["queries"] == 0:
        text = "No labeled test image has another one to be found: rankings cannot be judged (n/a)."
        return [Caution(text, bases=bases)]
    wrong = retrieval["most_wrong"]
    if wrong == 0:
        same = "has a label in common with all others" if task.several else "is of one class"
        text = f"Every labeled test image {same}: any ranking is perfect, so no figure of one is given (n/a)."
        more = " kNN and linear figures are of that class alone." if task.has_train_labels and not task.several else ""
        return [Caution(text + more, bases=bases)]
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
    found, learned = [], (Basis.TRAINING_LABELS,)
    tested, taught = _labels_of(task.test, task.test_labeled), _labels_of(task.train, task.train_labeled)
    unknown = sorted(tested - taught)
    names = ", ".join(_quoted(task.names[c]) for c in unknown[:3]) + (" ..." if len(unknown) > 3 else "")
    if unknown:
        none = len(unknown) == len(tested)
        whole = "None" if none else f"Only {len(tested) - len(unknown)} of {len(tested)}"
        like = _quoted(_nearest(task.names[unknown[0]], [task.names[c] for c in taught]))
        text = (
            f"{whole} of the test images' labels occur among the training images: kNN and probe cannot find "
            f"{names} (the training images' are like {like}); write the labels alike in both."
        )
        found.append(Caution(text, bases=learned if none else ()))
    if len(taught) == 1:
        text = "All labeled training images are of one class: kNN and probe have nothing to tell apart (n/a)."
        found.append(Caution(text, bases=learned))
    elif task.several and len(tested) == 1:
        text = "All labeled test images have the same label: its AP is always perfect (n/a)."
        found.append(Caution(text, bases=learned))
    return found


def _nearest(name: str, others: Sequence[str]) -> str:
    """The one of several labels that looks most like one, spaces, case and the form of accents aside."""
    near = difflib.get_close_matches(_folded(name), map(_folded, others), n=1)
    return next(other for other in sorted(others) if not near or _folded(other) == near[0])


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _quoted(name: str) -> str:
    """A label as it is written; an accent that is a character of its own, which nobody sees, by its number."""
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def _labels_of(labels: np.ndarray, known: np.ndarray) -> set[int]:
    rows = labels[known]
    return set((np.flatnonzero(rows.any(0)) if rows.ndim == 2 else np.unique(rows)).tolist())
