"""What raw pixels, an untrained and a trained encoder are worth, on images that training did not see."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from s2r2._version import __version__
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.evaluation.distributed import embed_shared, embed_views_shared
from s2r2.evaluation.metrics.bootstrap import DRAWS, bootstrap_interval
from s2r2.evaluation.metrics.health import duplicates, health
from s2r2.evaluation.metrics.neighbours import usual_neighbours
from s2r2.evaluation.metrics.retrieval import retrieval_metrics, unit_rows
from s2r2.evaluation.protocols.base import Task, build_task, columns_for, judge
from s2r2.evaluation.protocols.held_out_views import HeldOutViews, held_out_views
from s2r2.evaluation.protocols.longer import FURTHER_COLUMNS, check_protocols, judge_fine_tuning, judge_further
from s2r2.evaluation.protocols.raw_pixels import LARGEST_SIDE, raw_pixel_features
from s2r2.evaluation.report.pictures import write_pictures
from s2r2.evaluation.result import Evaluation, Row
from s2r2.evaluation.warnings import cautions, withdraw
from s2r2.images import PixelStore
from s2r2.views import Recipe

Embedder: TypeAlias = Encoder | Callable[[PixelStore], np.ndarray]

RAW = "raw pixels"
VIEW_IMAGES = 256
VIEWS = 8
SAME = 1e-6


def evaluate(
    encoders: Mapping[str, Embedder],
    train: PixelStore | None,
    test: PixelStore,
    *,
    recipe: Recipe | None = None,
    raw_pixels: bool = True,
    ks: Sequence[int] = (1, 5, 10),
    folder: str | Path | None = None,
    protocols: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Evaluation:
    """Judge encoders, and raw pixels beside them, on test images.

    Retrieval ranks the test images for each of them, itself left out. kNN and the linear probe learn from the labels
    of the training images only. Images without label take no part in either. With a ``recipe``, S2R2's own task is
    judged as well: AP of held-out random views of the test images; for unlabelled images that and the health figures
    are all there is.

    Args:
        encoders: By the name of their row; an :class:`~s2r2.encoder.Encoder` (judged before and, unless untrained,
            after its projection head) or a function from a store to ``(N, D)``.
        train: Images whose labels kNN and probe may use; None: kNN among the test images, no probe.
        test: Images to judge on.
        recipe: Distribution of the random views for S2R2's own task.
        raw_pixels: Whether to judge the pixels themselves: the centred square at the encoder's image size, at most
            32 px, less the mean image, flattened.
        ks: Cut-offs of Recall@k.
        folder: Run folder; ``evaluation.json`` and the pictures of some rankings go there for the report.
        protocols: Further ones, which take longer: ``"low-shot"``, ``"folds"`` (STL-10's), ``"svm"`` (VOC07),
            ``"fine-tuning"``.
        draws: Bootstrap resamples.
        seed: Of resamples, splits and views.
        progress: Show progress bars.
        processes: Encoders embed in all of them, each a share of the images; all else is the first one's work. Each
            calls this with the same arguments.

    Raises:
        S2R2Error: There is nothing to judge by, or both sets are the same images.
    """
    if train is not None and train.fingerprint == test.fingerprint:
        raise S2R2Error(
            f"{test.name} and the training images are the same images, so every figure would be too good: "
            "give held-out images as test, or only test images"
        )
    task = build_task(train, test, ks=ks, draws=draws, seed=seed)
    check_protocols(protocols, train, task)
    sized = [encoder for encoder in encoders.values() if isinstance(encoder, Encoder)]
    if task is None and (recipe is None or not sized):
        raise S2R2Error(f"{test.name} has no labels: give labelled test images, or a view recipe to judge views by")
    side = min([LARGEST_SIDE, *(encoder.image_size for encoder in sized)])
    evaluation = Evaluation(about=_about(train, test, task, side))
    judged: list[tuple[Row, np.ndarray, dict[str, np.ndarray]]] = []
    views = _Views(test, recipe, seed)
    folds = train.folds if train is not None else []
    if raw_pixels and processes.leader:
        train_rows, test_rows = raw_pixel_features(train, test, side)
        row = Row(RAW, "pixels", test_rows.shape[1], trained=False)
        judged.append((row, test_rows, _judge(row, train_rows, test_rows, task)))
        if task is not None:
            judge_further(row, train_rows, test_rows, task, protocols, folds)
        _judge_raw_views(row, views, side, task)
        if train_rows is not None:
            _note_duplicates(evaluation, train_rows, test_rows)
    for name, encoder in encoders.items():
        for output in _outputs(encoder):
            processes.wait(patiently=True)  # until the first one has judged those before
            train_rows = None if train is None or task is None else _embed(encoder, train, output, progress, processes)
            test_rows = _embed(encoder, test, output, progress, processes)
            view_rows = _embed_views(encoder, output, views, processes)
            if not processes.leader:
                continue
            row = Row(name, output, test_rows.shape[1])
            row.trained = not isinstance(encoder, Encoder) or encoder.trained
            judged.append((row, test_rows, _judge(row, train_rows, test_rows, task)))
            if task is not None:
                judge_further(row, train_rows, test_rows, task, protocols, folds)
                if isinstance(encoder, Encoder) and train is not None and output == "feature":
                    judge_fine_tuning(row, encoder, train, test, task, protocols)
            if view_rows is not None:
                _note_views(row, *view_rows, task)
    if not processes.leader:
        heard: Evaluation = processes.hear()
        return heard
    evaluation.rows = [row for row, _, _ in judged]
    neighbours = sorted({int(n.split("@")[1]) for row in evaluation.rows for n in row.figures if n.startswith("knn@")})
    columns = columns_for(task, neighbours, VIEWS, min(VIEW_IMAGES, len(test))) | FURTHER_COLUMNS
    used = {name for row in evaluation.rows for name in row.figures}
    evaluation.columns = {name: column for name, column in columns.items() if name in used}
    if task is not None:
        found = cautions(task, evaluation.rows[0].details["retrieval"], protocols)
        evaluation.notes += [caution.text for caution in found]
        for row in evaluation.rows:
            withdraw(row, found)
    evaluation.notes += _notes(evaluation, train, test, task)
    if folder is not None:
        write_pictures(evaluation, Path(folder), test, task, judged)
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
            self._rendered[key] = held_out_views(
                self.store, recipe, view_size=size, images=VIEW_IMAGES, views=VIEWS, seed=self.seed
            )
        return self._rendered[key]


def _judge(row: Row, train: np.ndarray | None, test: np.ndarray, task: Task | None) -> dict[str, np.ndarray]:
    row.health = health(test).to_dict()
    if not row.trained:  # there is no training to put right
        alike = len(test) > 1 and float(np.ptp(unit_rows(test), axis=0).max()) < SAME
        row.health["warning"] = "all test images have the same vector, so its figures are those of chance" * alike
    return {} if task is None else judge(row, train, test, task)


def _embed_views(
    encoder: Embedder, output: str, views: _Views, processes: Processes
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of held-out views, and the image of each."""
    if views.recipe is None or not isinstance(encoder, Encoder):
        return None
    recipe = _normalised_for(views.recipe, encoder.mean, encoder.std)
    held_out = views.at(encoder.image_size, recipe)
    return embed_views_shared(encoder, held_out.pixels, output, processes), held_out.groups  # type: ignore[arg-type]


def _judge_raw_views(row: Row, views: _Views, side: int, task: Task | None) -> None:
    if views.recipe is None:
        return
    held_out = views.at(side, _normalised_for(views.recipe, (0.0,) * 3, (1.0,) * 3))
    rows = held_out.pixels.reshape(len(held_out.pixels), -1)
    _note_views(row, rows - rows.mean(0) + 1e-6, held_out.groups, task)


def _note_views(row: Row, embeddings: np.ndarray, groups: np.ndarray, task: Task | None) -> None:
    result = retrieval_metrics(embeddings, groups)
    draws, seed = (task.draws, task.seed) if task else (DRAWS, 0)
    by_image = result.average_precision.reshape(-1, int((groups == groups[0]).sum())).mean(1)
    if len(by_image) == 1:
        by_image[:] = np.nan  # there is no other photo to confuse it with
    row.figures["view_ap"] = bootstrap_interval(by_image, draws=draws, seed=seed)  # views of one image go together
    row.health["alignment"] = health(unit_rows(embeddings), view_embeddings=embeddings, view_groups=groups).alignment


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


def _about(train: PixelStore | None, test: PixelStore, task: Task | None, side: int) -> dict[str, object]:
    about: dict[str, object] = {
        "test": test.name,
        "test_images": len(test),
        "train": train.name if train is not None else None,
        "train_images": len(train) if train is not None else 0,
        "labels": len(task.names) if task is not None else 0,
        "several_labels": task is not None and task.several,
        "raw_pixels_side": side,
        "s2r2": __version__,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if task is not None:
        about["test_labelled"] = int(task.judged.sum())
        about["train_labelled"] = int(task.teaching.sum())
    return about


def _note_duplicates(evaluation: Evaluation, train: np.ndarray, test: np.ndarray) -> None:
    pairs = duplicates(train, test)
    evaluation.about["duplicates"] = len({pair.test for pair in pairs})
    if pairs:
        evaluation.notes.append(
            f"{evaluation.about['duplicates']} of {len(test):,} test images have a copy among the training images "
            "(same pixels at low resolution): kNN and probe figures are a little too good."
        )


def _notes(evaluation: Evaluation, train: PixelStore | None, test: PixelStore, task: Task | None) -> list[str]:
    notes = []
    if task is None:
        notes.append(f"{test.name} has no labels, so only the ranking of random views could be judged.")
    else:
        counts = evaluation.rows[0].details["retrieval"]
        if counts["without_relevant"]:
            notes.append(
                f"{counts['without_relevant']:,} test images are the only ones of their class: they were no queries, "
                "but stayed among the images to be ranked."
            )
        if counts["unlabelled_queries"]:
            notes.append(f"{counts['unlabelled_queries']:,} test images without label were left out.")
        if train is None or task.train is None or not task.teaching.any():
            notes.append("No labelled training images: kNN asks the other test images, and there is no linear probe.")
        ks = usual_neighbours(int(task.teaching.sum() if task.teaching.any() else task.judged.sum()))
        if max(ks) < 200:
            notes.append(f"kNN with {max(ks)} instead of the usual 200 neighbours: a tenth of the labelled images.")
    if len(test) == 1 and "view_ap" in evaluation.columns:
        notes.append("There is only one test image: its views cannot be taken for those of another (n/a).")
    side = evaluation.about["raw_pixels_side"]
    if any(row.encoder == RAW for row in evaluation.rows):
        notes.append(f"Raw pixels: the centred square at {side} x {side} px, less the mean image.")
    notes.append("± is half of the 95 % interval over resampled test images; it does not cover other training runs.")
    return notes
