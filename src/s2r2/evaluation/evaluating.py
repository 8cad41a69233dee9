"""What raw pixels, an untrained and a trained encoder are worth, on images that training did not see."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from s2r2._version import __version__
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.distributed import embed_shared, embed_views_shared
from s2r2.evaluation.metrics.bootstrap import DRAWS
from s2r2.evaluation.metrics.health import alignment, duplicates, health
from s2r2.evaluation.metrics.neighbors import usual_neighbors
from s2r2.evaluation.metrics.vectors import unit_rows, without_direction
from s2r2.evaluation.protocols.base import Protocol, Space
from s2r2.evaluation.protocols.held_out_views import HeldOutViews, held_out_views
from s2r2.evaluation.protocols.raw_pixels import LARGEST_SIDE, raw_pixel_features
from s2r2.evaluation.protocols.register import fitting_protocols, run_protocols
from s2r2.evaluation.report.pictures import Shown, write_pictures
from s2r2.evaluation.result import Evaluation, Row, RowKind
from s2r2.evaluation.task import KS, Task, build_task
from s2r2.evaluation.verdict import verdict
from s2r2.evaluation.warnings import cautions, withdraw
from s2r2.images import PixelStore
from s2r2.images.grades import group_photos, read_grades
from s2r2.system.wording import amount
from s2r2.views import Recipe

Embedder: TypeAlias = Encoder | Callable[[PixelStore], np.ndarray]

RAW = "raw pixels"
SAME = 1e-6
INTERVALS = (
    "± is half of the 95 % interval over other test images, as queries and among the images that are ranked. "
    "It does not cover other training runs, photos to train on, or labeled images to learn from."
)


def evaluate(
    encoders: Mapping[str, Embedder],
    train: PixelStore | None,
    test: PixelStore,
    *,
    recipe: Recipe | None = None,
    raw_pixels: bool = True,
    ks: Sequence[int] = KS,
    folder: str | Path | None = None,
    protocols: Sequence[str] = (),
    grades: str = "",
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
    compared: tuple[str, str] | None = None,
) -> Evaluation:
    """Evaluate encoders, and raw pixels beside them, on test images.

    Retrieval ranks the test images for each of them, itself left out. kNN and the linear probe learn from the labels
    of the training images only. Images without label take no part in either. With a ``recipe``, S2R2's own task is
    judged as well: AP of held-out random views of the test images; for unlabeled images that and the health figures
    are all there is.

    Args:
        encoders: By the name of their row; an :class:`~s2r2.encoder.Encoder` (judged before and, unless untrained,
            after its projection head) or a function from a store to ``(N, D)``.
        train: Images whose labels kNN and probe may use; None: kNN among the test images, no probe.
        test: Images to judge on.
        recipe: Distribution of the random views for S2R2's own task.
        raw_pixels: Whether to judge the pixels themselves: the centered square at the encoder's image size, at most
            32 px, minus the mean image, flattened.
        ks: Cut-offs of Recall@k.
        folder: Run folder; ``evaluation.json`` and the pictures of some rankings go there for the report.
        protocols: More than the usual ones, by name or as ``FILE.py``; :func:`describe_protocols` lists them.
        grades: What test images know of each other, such as ``"time:30s,place:50m,folder"``: rankings are then judged
            by that, too, for which no labels are needed.
        draws: Bootstrap resamples.
        seed: Of resamples, splits and views.
        progress: Show progress bars.
        processes: Encoders embed in all of them, each a share of the images; all else is the first one's work. Each
            calls this with the same arguments.
        compared: Names of an adapted encoder and of the one that it started from: a sentence says which is better.

    Raises:
        S2R2Error: There is nothing to judge by, or both sets are the same images.
    """
    if train is not None and train.fingerprint == test.fingerprint:
        raise ArgumentError(
            f"{test.name} and the training images are the same images, so every figure would be too good: "
            "give held-out images as test, or only test images"
        )
    task = build_task(train, test, ks=ks, draws=draws, seed=seed)
    levels = read_grades(grades)
    groups = group_photos(levels, test) if levels else None
    if groups is not None:
        names = tuple(grade.text for grade in levels)
        task = dataclasses.replace(task, grades=names, groups=groups.columns)
    chosen = fitting_protocols(protocols, task)
    sized = [encoder for encoder in encoders.values() if isinstance(encoder, Encoder)]
    if not task.labeled and task.groups is None and (recipe is None or not sized):
        raise ArgumentError(
            f"{test.name} has no labels: give labeled test images, a view recipe to judge views by, or `grades`"
        )
    side = min([LARGEST_SIDE, *(encoder.image_size for encoder in sized)])
    evaluation = Evaluation(about=_about(train, test, task, side))
    shown: list[Shown] = []
    views = _Views(test, recipe, seed)
    spaces = _encoded_spaces(encoders, train if task.labeled else None, test, views, progress, processes)
    if raw_pixels and processes.leader:
        row, space = _raw_pixels(train, test, side, views)
        shown.append(_judge(row, space, task, chosen))
        if space.train is not None:
            _note_duplicates(evaluation, space.train, space.test, task)
    for row, space in spaces:
        if nowhere := nowhere_to_rank(test, space.test, space.views) or nowhere_to_rank(train, space.train):
            evaluation.notes.append(f"{row.encoder} ({row.output}) is not evaluated: {nowhere}.")
        else:
            shown.append(_judge(row, space, task, chosen))
    if not processes.leader:
        found_by_leader: Evaluation = processes.receive()
        return found_by_leader
    if not shown:
        raise S2R2Error(" ".join(evaluation.notes))
    evaluation.rows = [one.row for one in shown]
    used = {name for row in evaluation.rows for name in row.figures}
    columns = {name: column for protocol in chosen for name, column in protocol.columns(task).items()}
    evaluation.columns = {name: column for name, column in columns.items() if name in used}
    if task.labeled:
        found = cautions(task, evaluation.rows[0].details["map"], chosen)
        evaluation.notes += [caution.text for caution in found]
        for row in evaluation.rows:
            withdraw(row.figures, found, chosen, task)
    evaluation.notes += _notes(evaluation, train, test, task)
    if groups is not None:
        evaluation.notes.append(f"Grades: {groups.sentence}.")
    features = {one.row.encoder: one for one in shown if one.row.output == "feature"}
    if compared is not None and set(compared) <= set(features):
        sentence = verdict(features[compared[0]], features[compared[1]], task, evaluation.columns)
        evaluation.about["verdict"] = sentence
        evaluation.notes.insert(0, sentence)
    if folder is not None:
        write_pictures(evaluation, Path(folder), test, task, shown)
        evaluation.save(folder)
    return processes.from_leader(lambda: evaluation)


class _Views:
    """Held-out views of the test images, rendered once for each size that encoders want."""

    def __init__(self, store: PixelStore, recipe: Recipe | None, seed: int) -> None:
        self.store = store
        self.recipe = recipe
        self.seed = seed
        self._rendered: dict[tuple[object, ...], HeldOutViews] = {}

    def at(self, size: int, recipe: Recipe) -> HeldOutViews:
        key = (size, recipe.mean, recipe.std)
        if key not in self._rendered:
            self._rendered.clear()  # one size at a time: 2,048 views of 224 px are 1.2 GB
            self._rendered[key] = held_out_views(self.store, recipe, view_size=size, seed=self.seed)
        return self._rendered[key]


def _raw_pixels(train: PixelStore | None, test: PixelStore, side: int, views: _Views) -> tuple[Row, Space]:
    train_rows, test_rows = raw_pixel_features(train, test, side)
    view_rows = None
    if views.recipe is not None:
        held_out = views.at(side, _normalised_for(views.recipe, (0.0,) * 3, (1.0,) * 3))
        rows = held_out.pixels.reshape(len(held_out.pixels), -1)
        view_rows = (rows - rows.mean(0) + 1e-6, held_out.groups)
    row = Row(RAW, "pixels", test_rows.shape[1], kind=RowKind.PIXELS)
    return row, Space(train_rows, test_rows, train, test, is_pixels=True, views=view_rows)


def _encoded_spaces(
    encoders: Mapping[str, Embedder],
    train: PixelStore | None,
    test: PixelStore,
    views: _Views,
    progress: bool,
    processes: Processes,
) -> Iterator[tuple[Row, Space]]:
    """Every output of every encoder, in the first process; the others help to embed and yield nothing."""
    for name, encoder in encoders.items():
        for output in _outputs(encoder):
            processes.wait(without_timeout=True)  # until the first one has judged those before
            train_rows = None if train is None else _embed(encoder, train, output, progress, processes)
            test_rows = _embed(encoder, test, output, progress, processes)
            view_rows = _embed_views(encoder, output, views, processes)
            if not processes.leader:
                continue
            row = Row(name, output, test_rows.shape[1])
            space = Space(train_rows, test_rows, train, test, views=view_rows)
            if isinstance(encoder, Encoder):
                row.kind = RowKind.TRAINED if encoder.trained else RowKind.UNTRAINED
                tunable = encoder if output == "feature" else None
                space = dataclasses.replace(space, encoder=tunable, device=str(encoder.device))
            yield row, space


def nowhere_to_rank(
    store: PixelStore | None, rows: np.ndarray | None, views: tuple[np.ndarray, np.ndarray] | None = None
) -> str:
    """What to say of images whose vectors, or those of whose views, have length 0; empty where there are none.

    Args:
        store: The images.
        rows: Their vectors ``(N, D)``.
        views: Vectors of views ``(M, D)``, and the image of each.
    """
    lost = set() if rows is None else set(np.flatnonzero(without_direction(rows)).tolist())
    if views is not None:
        lost |= set(views[1][without_direction(views[0])].tolist())
    if store is None or not lost:
        return ""
    return (
        f"{len(lost):,} of {len(store):,} images of {store.name} have vectors of length 0, which have no place in any "
        f"ranking, the first is {store.keys[min(lost)]}; leave them out, or train with a larger `head_hidden`"
    )


def _judge(row: Row, space: Space, task: Task, protocols: Sequence[Protocol]) -> Shown:
    """Fill a row with figures and health."""
    row.health = health(space.test).to_dict()
    if row.kind != RowKind.TRAINED:  # there is no training to put right
        alike = len(space.test) > 1 and float(np.ptp(unit_rows(space.test), axis=0).max()) < SAME
        row.health["warning"] = "all test images have the same vector, so its figures are those of chance" * alike
    outcomes = run_protocols(protocols, space, task)
    row.figures = {name: outcome.interval(draws=task.draws, seed=task.seed) for name, outcome in outcomes.items()}
    row.details = {name: outcome.details for name, outcome in outcomes.items() if outcome.details is not None}
    if space.views is not None:
        row.health["alignment"] = alignment(*space.views)
    return Shown(row, space.test, outcomes)


def _embed_views(
    encoder: Embedder, output: str, views: _Views, processes: Processes
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of held-out views, and the image of each."""
    if views.recipe is None or not isinstance(encoder, Encoder):
        return None
    recipe = _normalised_for(views.recipe, encoder.mean, encoder.std)
    held_out = views.at(encoder.image_size, recipe)
    return embed_views_shared(encoder, held_out.pixels, output, processes), held_out.groups  # type: ignore[arg-type]


def _normalised_for(recipe: Recipe, mean: Sequence[float], std: Sequence[float]) -> Recipe:
    return Recipe.from_dict({**recipe.to_dict(), "mean": list(mean), "std": list(std)})


def _outputs(encoder: Embedder) -> tuple[str, ...]:
    if not isinstance(encoder, Encoder) or encoder.head is None or not encoder.trained:
        return ("feature",)
    return ("feature", "embedding")


def _embed(encoder: Embedder, store: PixelStore, output: str, progress: bool, processes: Processes) -> np.ndarray:
    """Rows of a store's images; in another process than the first, none."""
    if isinstance(encoder, Encoder):
        return embed_shared(encoder, store, output, processes, progress=progress)  # type: ignore[arg-type]
    if not processes.leader:
        return np.empty((0, 0), np.float32)
    rows = np.asarray(encoder(store), np.float32)
    if rows.ndim != 2 or len(rows) != len(store):
        raise S2R2Error(f"the encoder gave an array of shape {rows.shape} for {len(store)} images: it must be (N, D)")
    return rows


def _about(train: PixelStore | None, test: PixelStore, task: Task, side: int) -> dict[str, object]:
    about: dict[str, object] = {
        "test": test.name,
        "test_images": len(test),
        "train": train.name if train is not None else None,
        "train_images": len(train) if train is not None else 0,
        "labels": len(task.names),
        "several_labels": task.several,
        "raw_pixels_side": side,
        "s2r2": __version__,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if task.labeled:
        about["test_labelled"] = int(task.test_labeled.sum())
        about["train_labeled"] = int(task.train_labeled.sum())
    return about


def _note_duplicates(evaluation: Evaluation, train: np.ndarray, test: np.ndarray, task: Task) -> None:
    pairs = duplicates(train, test)
    copied = evaluation.about["duplicates"] = len({pair.test for pair in pairs})
    if pairs:
        taught = task.labeled and task.has_train_labels
        evaluation.notes.append(
            f"{copied:,} of {len(test):,} test images {'has' if copied == 1 else 'have'} a copy among the training "
            f"images (same pixels at low resolution){': kNN and probe figures are too good' if taught else ''}."
        )


def _notes(evaluation: Evaluation, train: PixelStore | None, test: PixelStore, task: Task) -> list[str]:
    notes = []
    if not task.labeled:
        views = any("view_ap" in row.figures for row in evaluation.rows)
        by = " and ".join(["random views"] * views + ["photos by their grades"] * (task.groups is not None))
        notes.append(f"{test.name} has no labels, so only the ranking of {by} could be judged.")
    else:
        counts = evaluation.rows[0].details["map"]
        if counts["without_relevant"]:
            alone = amount(
                counts["without_relevant"],
                "test image is the only one of its class: it was no query,",
                "test images are the only ones of their class: they were no queries,",
            )
            notes.append(f"{alone} but stayed among the images to be ranked.")
        if counts["unlabeled_queries"]:
            left_out = amount(
                counts["unlabeled_queries"], "test image without label was", "test images without label were"
            )
            notes.append(f"{left_out} left out.")
        if not task.has_train_labels:
            notes.append("No labeled training images: kNN asks the other test images, and there is no linear probe.")
        ks = usual_neighbors(int(task.train_labeled.sum() if task.has_train_labels else task.test_labeled.sum()))
        if max(ks) < 200:
            notes.append(f"kNN with {max(ks)} instead of the usual 200 neighbors: a tenth of the labeled images.")
    if len(test) == 1 and "view_ap" in evaluation.columns:
        notes.append("There is only one test image: its views cannot be taken for those of another (n/a).")
    side = evaluation.about["raw_pixels_side"]
    if any(row.kind == RowKind.PIXELS for row in evaluation.rows):
        notes.append(f"Raw pixels: the centered square at {side} x {side} px, minus the mean image.")
    notes.append(INTERVALS)
    return notes
