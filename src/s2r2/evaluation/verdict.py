"""Whether adaptation has helped: an adapted encoder and the one it started from, on the same images, in a sentence."""

from collections.abc import Sequence

import numpy as np

from s2r2.evaluation.metrics.bootstrap import Interval, interval_of, resampled
from s2r2.evaluation.metrics.neighbors import nearest
from s2r2.evaluation.report.rankings import Shown
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task

NEIGHBORS = 10
SHOWN = 0.0005
"""The least difference that is seen: half of a tenth of a per cent."""


def verdict(adapted: Shown, start: Shown, task: Task, columns: dict[str, Column]) -> str:
    """Better, worse or level, with the differences that say so and their 95 % intervals.

    With labels it rests on mAP and kNN, without on the ranking of held-out views and on grades, where they are given.
    Worse wins over better: if one figure
    falls by more than its interval and another one rises, the sentence says worse.

    Args:
        adapted: The adapted encoder's features.
        start: Those of the encoder that it started from.
        task: What was asked of both.
        columns: The figures that are shown.
    """
    names = ["view_ap", "graded_ndcg"]
    if task.labeled:
        names = [name for name in columns if name == "map" or name.startswith("knn@")]
    differences = {
        columns[name].title: paired_difference(adapted.outcomes[name], start.outcomes[name], task)
        for name in names
        if name in columns and name in adapted.outcomes and name in start.outcomes
    }
    listed = ", ".join(
        f"{title} {100 * by.value:+.1f} [{100 * by.low:+.1f}, {100 * by.high:+.1f}]"
        for title, by in differences.items()
    )
    sentence = f"On these images the adapted encoder is {_word(list(differences.values()))} {start.row.encoder}"
    same = (
        f"; of {NEIGHBORS} nearest images {100 * agreement(adapted.embeddings, start.embeddings):.0f} % are the same."
    )
    text = f"{sentence}: {listed or 'there is no figure to compare'}{same}"
    if not task.labeled and task.groups is None:
        text += " Without labels only the ranking of random views could be compared, which training aims at."
    elif "worse" in sentence:
        text += f" It is better to use {start.row.encoder} as it is."
    return text


def paired_difference(first: Outcome, second: Outcome, task: Task) -> Interval:
    """First minus second with a 95 % interval: both are resampled by the same test images."""
    parts = [resampled(one.resampled_values, one.targets, draws=task.draws, seed=task.seed) for one in (first, second)]
    images = int(np.isfinite(first.values).sum()) if first.values.ndim == 1 else len(first.values)
    return interval_of(parts[0] - parts[1], images, images)


def agreement(first: np.ndarray, second: np.ndarray, k: int = NEIGHBORS) -> float:
    """Share of each image's k nearest others ``(N, D)`` that are the same in both spaces, on average."""
    found = [nearest(rows, k=k)[0] for rows in (first, second)]
    shared = [len(np.intersect1d(a, b)) for a, b in zip(*found, strict=True)]
    return float(np.mean(shared)) / max(1, found[0].shape[1])


def _word(differences: Sequence[Interval]) -> str:
    if any(by.high < -SHOWN for by in differences):
        return "worse than"
    if any(by.low > SHOWN for by in differences):
        return "better than"
    return "level with"
