"""Nearest neighbors: the labeled images most similar to a test image vote for its label."""

import dataclasses

from s2r2.evaluation.metrics.jackknife import pseudo_values
from s2r2.evaluation.metrics.neighbors import knn_scores, usual_neighbors, without_voters
from s2r2.evaluation.protocols.base import Need, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task


@register_protocol
class NearestNeighbors(Protocol):
    """kNN accuracy, or mean AP where images have several labels; without training labels the test images vote."""

    name = "knn"
    summary = "the weighted vote of the 20 and 200 nearest labeled images"
    needs = (Need.LABELS,)
    usual = True
    place = 20

    def columns(self, task: Task) -> dict[str, Column]:
        """A figure for each number of neighbors."""
        ks = _neighbors(task)
        if task.several:
            text = "Labels guessed by a vote of the {} nearest labeled images; mean AP over labels."
        else:
            text = "Share of test images whose class the vote of the {} nearest labeled images finds."
        return {f"knn@{k}": Column(f"kNN {k}", text.format(k), main=k == min(ks)) for k in ks}

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """The vote of the training images, or of the other test images."""
        ks, (rows, labels) = _neighbors(task), space.testing(task)
        if not ks:
            return {}
        voters = (*space.training(task), rows) if task.has_train_labels else (rows, labels)
        shares = knn_scores(*voters, ks=ks, classes=len(task.names))
        outcomes = {k: task.outcome(share) for k, share in shares.items()}
        if not task.has_train_labels and not task.several:  # each image votes for others: it is resampled as such, too
            for k, outcome in outcomes.items():
                found = pseudo_values(outcome.values, *without_voters(rows, labels, k=k))
                outcomes[k] = dataclasses.replace(outcome, pseudo_values=found)
        return {f"knn@{k}": outcome for k, outcome in outcomes.items()}

    def compared(self, task: Task) -> dict[str, str]:
        """The figure of the fewest neighbors."""
        return {"knn": f"knn@{min(ks)}"} if (ks := _neighbors(task)) else {}


def _neighbors(task: Task) -> tuple[int, ...]:
    judged = int(task.test_labeled.sum())
    if not task.has_train_labels and judged < 2:
        return ()  # no other image could vote
    return usual_neighbors(int(task.train_labeled.sum()) if task.has_train_labels else judged)
