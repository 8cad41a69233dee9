"""For the report: what some queries find, as rows of thumbnails."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.neighbors import nearest
from s2r2.evaluation.result import Evaluation, Row
from s2r2.evaluation.task import Outcome, Task
from s2r2.images import PixelStore
from s2r2.system.files import make_folder, why_not_written
from s2r2.system.thumbnails import save_picture, thumbnail

FOLDER = "pictures"
QUERIES = 8
WORST = 5
LENGTH = 10
SIDE = 112


@dataclass(frozen=True)
class Shown:
    """A row, the vectors of the test images ``(N, D)``, and its figures image by image."""

    row: Row
    embeddings: np.ndarray
    outcomes: Mapping[str, Outcome]

    @property
    def average_precision(self) -> np.ndarray | None:
        """Each image's average precision as a query, where known."""
        return self.outcomes["map"].values if "map" in self.outcomes else None


def write_rankings(evaluation: Evaluation, folder: Path, store: PixelStore, task: Task, shown: Shown) -> None:
    """Put rankings into the evaluation, and thumbnails of them into ``folder/pictures``.

    Args:
        evaluation: Gets ``pictures["rankings"]`` (queries drawn by chance) and, where there are labels,
            ``pictures["worst"]`` (those of lowest AP).
        folder: The run folder.
        store: The test images.
        task: Their labels, to mark right and wrong.
        shown: The embedding space whose rankings are shown.
    """
    album, precision = Album(store, folder), shown.average_precision
    kinds = {"rankings": choose_queries(len(store), task, QUERIES)}
    if precision is not None:
        kinds["worst"] = worst_queries(precision, task, WORST)
    for kind, queries in kinds.items():
        rankings = [ranking(q, shown.embeddings, task, album, precision) for q in queries]
        evaluation.pictures[kind] = {"encoder": shown.row.title, "queries": rankings}


def worst_queries(average_precision: np.ndarray, task: Task, wanted: int) -> list[int]:
    """The queries of lowest AP, at most two of a class."""
    order = np.argsort(np.where(np.isfinite(average_precision), average_precision, np.inf), kind="stable")
    found: list[int] = []
    classes: list[int] = []
    for index in order[: int(np.isfinite(average_precision).sum())]:
        label = int(task.test[index].argmax() if task.several else task.test[index])
        if classes.count(label) < 2:
            found.append(int(index))
            classes.append(label)
        if len(found) == wanted:
            break
    return found


def choose_queries(count: int, task: Task, wanted: int) -> list[int]:
    """Queries taken evenly; where there are labels, from as many different classes as possible."""
    if not task.labeled:
        return [int(i) for i in np.unique(np.linspace(0, count - 1, num=min(wanted, count), dtype=int))]
    generator = np.random.default_rng(task.seed)
    order = generator.permutation(np.flatnonzero(task.test_labeled))
    first = task.test[order].argmax(1) if task.several else task.test[order]
    turn = np.zeros(len(order), np.int64)  # how many of its class came before
    for label in np.unique(first):
        turn[first == label] = np.arange((first == label).sum())
    return [int(i) for i in order[np.lexsort((generator.random(len(order)), turn))][:wanted]]


def ranking(
    query: int, rows: np.ndarray, task: Task, album: "Album", average_precision: np.ndarray | None
) -> dict[str, Any]:
    """One query and the first images of its ranking, as plain data."""
    indices, cosines = nearest(rows[query : query + 1], rows, k=LENGTH + 1)
    found = [(int(i), float(c)) for i, c in zip(indices[0], cosines[0], strict=True) if i != query][:LENGTH]
    entry: dict[str, Any] = {**album.entry(query, task), "neighbours": []}
    if average_precision is not None and np.isfinite(average_precision[query]):
        entry["average_precision"] = round(float(average_precision[query]), 4)
    for index, cosine in found:
        right = _right(task, query, index)
        entry["neighbours"].append({**album.entry(index, task), "cosine": round(cosine, 4), "right": right})
    return entry


class Album:
    """Thumbnails of test images in ``folder/pictures``, each written once."""

    def __init__(self, store: PixelStore, folder: Path) -> None:
        self.store = store
        self.folder = folder / FOLDER
        self._written: set[int] = set()
        try:
            make_folder(self.folder)
        except OSError as error:
            raise S2R2Error(f"cannot make {self.folder}: {why_not_written(error)}choose another folder") from error

    def entry(self, index: int, task: Task) -> dict[str, Any]:
        """Picture, name and labels of a test image."""
        name = f"{index:06d}.jpg"
        if index not in self._written:
            save_picture(thumbnail(self.store[index], SIDE, square=True), self.folder / name, quality=82)
            self._written.add(index)
        return {"picture": f"{FOLDER}/{name}", "key": self.store.keys[index], "labels": _labels(task, index)}


def _labels(task: Task, index: int) -> list[str]:
    if task.several:
        return [task.names[i] for i in np.flatnonzero(task.test[index])]
    return [task.names[task.test[index]]] if task.test[index] >= 0 else []


def _right(task: Task, query: int, other: int) -> bool | None:
    if not task.test_labeled[query] or not task.test_labeled[other]:
        return None
    if task.several:
        return bool((task.test[query] & task.test[other]).any())
    return bool(task.test[query] == task.test[other])
