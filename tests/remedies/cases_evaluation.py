"""Remedies that are named where encoders are judged, and reports and studies written."""

import html
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from performing import State, case, choices, command, named, noise
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.evaluation import evaluate, fit_linear_probe, knn_accuracy, knn_scores, retrieval_metrics, write_report
from s2r2.evaluation.metrics.health import health as embedding_health
from s2r2.evaluation.metrics.label_encoding import number_labels
from s2r2.evaluation.protocols.fine_tuning import FineTuningPlan, fine_tune
from s2r2.evaluation.protocols.held_out_views import held_out_views
from s2r2.evaluation.protocols.low_shot import low_shot
from s2r2.evaluation.task import build_task
from s2r2.images import DirectImages, PixelStore, open_source
from s2r2.views import get_recipe

ROWS = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
LABELS = np.arange(12) % 3


def store(state: State, data: object) -> PixelStore:
    return PixelStore.build(open_source(str(data)), 32, state.tmp / "store", progress=False)


def labeled(state: State, name: str, labels: list[str], first: int = 100) -> Path:
    """A manifest of new photos with these labels."""
    lines = ["path,label"]
    for number, label in enumerate(labels):
        place = state.tmp / name / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(first + number)).save(place)
        lines.append(f"{place},{label}")
    return state.write(f"{name}.csv", "\n".join(lines) + "\n")


def judged(state: State, *words: object) -> str:
    return command("evaluate", state.run, "--device", "cpu", *words)


case(
    "give held-out images as test, or only test images",
    lambda state: judged(state, "--train", state.shared.photos, "--test", state.shared.photos),
    lambda state, said: (
        judged(state, "--train", state.shared.photos, "--test", labeled(state, "held", ["a", "b"] * 6)),
        judged(state, "--test", state.shared.photos),
    ),
)


def without_labels(state: State) -> object:
    store_of = store(state, labeled(state, "plain", [""] * 6))
    return evaluate({"x": lambda images: ROWS[: len(images)]}, None, store_of, draws=20)


def labels_or_views(state: State, said: str) -> None:
    judge = {"x": lambda images: ROWS[: len(images)]}
    evaluate(judge, None, store(state, labeled(state, "known", ["a", "b"] * 6)), draws=20)
    evaluate(
        {"x": state.shared.encoder}, None, store(state, state.tmp / "plain.csv"), recipe=get_recipe("photos"), draws=20
    )
    listed = (state.tmp / "plain.csv").read_text().splitlines()[1:]
    shops = state.write(
        "shops.csv", "path,shop\n" + "".join(f"{row.split(',')[0]},{n // 3}\n" for n, row in enumerate(listed))
    )
    evaluate(judge, None, store(state, shops), grades="shop", draws=20)


case("give labeled test images, a view recipe to judge views by, or `grades`", without_labels, labels_or_views)


def collapsed(rows: np.ndarray) -> Callable[[State], str]:
    return lambda _: embedding_health(rows).warning


def trained_apart(state: State, said: str) -> None:
    """A collapsed embedding is trained on with a smaller learning rate and a higher temperature: the two come apart."""
    from s2r2.losses import SmoothAPLoss

    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(16, 24, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(24, 1) @ torch.ones(1, 16) + 0.01 * torch.randn(24, 16, generator=generator))
    photos = 1 + 0.3 * torch.randn(40, 16, generator=generator)
    views = photos.repeat_interleave(2, 0) + 0.02 * torch.randn(80, 16, generator=generator)
    before = embedding_health(layer(photos).detach().numpy())
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(200):
        embeddings = torch.nn.functional.normalize(layer(views), dim=1)
        loss = SmoothAPLoss(temperature=0.5)(embeddings, torch.arange(40).repeat_interleave(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = embedding_health(layer(photos).detach().numpy())
    assert before.warning
    assert not after.warning, after.warning


case("have a cosine of {} on average", collapsed(np.ones((20, 24)) + ROWS[0, 0] * 0), trained_apart)
case(
    "have collapsed to {} of {} directions; train longer",
    collapsed(np.outer(np.where(np.arange(20) % 2, 1.0, -1.0), np.ones(24))),
    trained_apart,
)


# Labels and neighbors

case(
    "give all as one label per image (N,) or all as the same columns (N, C)",
    lambda _: number_labels(LABELS, np.ones((3, 4), bool)),
    lambda _, said: (number_labels(LABELS, LABELS[:3]), number_labels(np.ones((2, 4), bool), np.ones((3, 4), bool))),
)
case(
    "is no number from 0 to {}: leave out classes=",
    lambda _: knn_scores(ROWS, LABELS + 5, ks=(3,), classes=3),
    lambda _, said: knn_scores(ROWS, LABELS + 5, ks=(3,)),
)
ODD = [0.5, 1.5] * 6
case(
    "is neither a whole number nor a string: number it first",
    lambda _: number_labels(ODD),
    lambda _, said: number_labels([sorted(set(ODD)).index(label) for label in ODD]),
)
case(
    "some labels are numbers and the others strings, so none would match: give all of one kind",
    lambda _: number_labels(LABELS, [str(label) for label in LABELS]),
    lambda _, said: number_labels([str(label) for label in LABELS], [str(label) for label in LABELS]),
)
HALF = [0, 1, None] * 4


def known_only(_: State, said: str) -> None:
    known = [label is not None for label in HALF]
    knn_accuracy(ROWS[known], [label for label in HALF if label is not None], k=3)


case(
    "kNN among the training images themselves needs a label on each: leave out the others",
    lambda _: knn_scores(ROWS, HALF, ks=(3,)),
    known_only,
)
SEVERAL = np.eye(3, dtype=bool)[LABELS]
case(
    "an accuracy needs one label per image, these have several: use knn_scores",
    lambda _: knn_accuracy(ROWS, SEVERAL, k=3),
    lambda _, said: {"knn_scores": knn_scores}[choices(said)[-1]](ROWS, SEVERAL, ks=(3,)),
)
case(
    "labels for {} images to judge: give one each",
    lambda _: knn_accuracy(ROWS, LABELS, ROWS, LABELS[:5], k=3),
    lambda _, said: knn_accuracy(ROWS, LABELS, ROWS, LABELS, k=3),
)
case(
    "occurs among the training labels: write them alike in both",
    lambda _: knn_accuracy(ROWS, ["0", "1", "2"] * 4, ROWS, ["0.0", "1.0", "2.0"] * 4, k=3),
    lambda _, said: knn_accuracy(ROWS, ["0", "1", "2"] * 4, ROWS, ["0", "1", "2"] * 4, k=3),
)
LONELY = [9, *LABELS[1:].tolist()]


def left_out(_: State, said: str) -> None:
    number = int(named(r"the first is number (\d+)", said))
    kept = np.arange(12) != number
    retrieval_metrics(ROWS[kept], np.array(LONELY)[kept], without_relevant="error")
    retrieval_metrics(ROWS, LONELY, without_relevant=named(r'without_relevant="(\w+)"', said))  # type: ignore[arg-type]


case(
    "have nothing relevant in the gallery, the first is number",
    lambda _: retrieval_metrics(ROWS, LONELY, without_relevant="error"),
    left_out,
)
case(
    "ties={} is not known: use",
    lambda _: retrieval_metrics(ROWS, LABELS, ties="x"),  # type: ignore[arg-type]
    lambda _, said: [retrieval_metrics(ROWS, LABELS, ties=choice) for choice in choices(said)],  # type: ignore[arg-type]
)
case(
    "without_relevant={} is not known: use skip, zero or error",
    lambda _: retrieval_metrics(ROWS, LABELS, without_relevant="x"),  # type: ignore[arg-type]
    lambda _, said: [retrieval_metrics(ROWS, LABELS, without_relevant=choice) for choice in choices(said)],  # type: ignore[arg-type]
)
case(
    "leave_out={} is not known: use nothing, images or groups",
    lambda _: retrieval_metrics(ROWS, LABELS, leave_out="x"),  # type: ignore[arg-type]
    lambda _, said: [retrieval_metrics(ROWS, LABELS, leave_out=choice) for choice in choices(said)],  # type: ignore[arg-type]
)
case(
    'leave_out="{}" is for images ranked among themselves: give no gallery',
    lambda _: retrieval_metrics(ROWS, LABELS, ROWS, LABELS, leave_out="images"),
    lambda _, said: retrieval_metrics(ROWS, LABELS, leave_out=named(r'leave_out="(\w+)"', said)),  # type: ignore[arg-type]
)
case(
    'leave_out="groups" needs one label per image: use',
    lambda _: retrieval_metrics(ROWS, LABELS[:, None] == np.arange(3), leave_out="groups"),
    lambda _, said: retrieval_metrics(
        ROWS,
        LABELS[:, None] == np.arange(3),
        leave_out=named(r'use leave_out="(\w+)"', said),  # type: ignore[arg-type]
    ),
)


def zeroed(row: int) -> np.ndarray:
    rows = ROWS.copy()
    rows[row] = 0
    return rows


case(
    "row {} of the {} {}",
    lambda _: retrieval_metrics(zeroed(4), LABELS),
    lambda _, said: retrieval_metrics(
        np.delete(zeroed(4), int(named(r"row (\d+) of", said)), 0), np.delete(LABELS, int(named(r"row (\d+) of", said)))
    ),
)
case(
    "row {} of the features is not finite",
    lambda _: fit_linear_probe(np.where(np.arange(12)[:, None] == 4, np.nan, ROWS), LABELS),
    lambda _, said: fit_linear_probe(np.delete(ROWS, int(named(r"row (\d+) of", said)), 0), np.delete(LABELS, 4)),
)
case(
    "low-shot with {} images of each class: the smallest class has {}; use fewer",
    lambda _: low_shot(ROWS, LABELS, ROWS, LABELS, shots=5),
    lambda _, said: low_shot(ROWS, LABELS, ROWS, LABELS, shots=int(named(r"class has (\d+)", said))),
)

# Protocols


def protocols(state: State, names: list[str], train: object, test: object) -> object:
    judge = {"x": lambda images: np.asarray([image.mean((0, 1)) for image in images])}
    return evaluate(judge, train and store(state, train), store(state, test), protocols=names, draws=20)  # type: ignore[arg-type]


def known_protocols(state: State, said: str) -> None:
    train, test = labeled(state, "train", ["a", "b"] * 6), labeled(state, "test", ["a", "b"] * 6, 200)
    for name in choices(said.partition(", or give")[0]):
        try:
            protocols(state, [name], train, test)
        except S2R2Error as error:
            assert "is not known" not in str(error)  # noqa: PT017 (folds need STL-10)


case(
    "protocol {} is not known: use",
    lambda state: protocols(
        state, ["x"], labeled(state, "train", ["a", "b"] * 6), labeled(state, "test", ["a"] * 4, 200)
    ),
    known_protocols,
)
LABELED, PLAIN = ["a", "b"] * 6, [""] * 12


def with_protocol(train: list[str] | None, test: list[str], name: str = "low-shot") -> Callable[..., object]:
    def run(state: State, said: str = "") -> object:
        train_data = None if train is None else labeled(state, "train", train)
        return protocols(state, [name], train_data, labeled(state, "test", test, 200))

    return run


case(
    "labels of test images: give a labeled `test`",
    lambda state: evaluate(
        {"x": state.shared.encoder},
        None,
        store(state, labeled(state, "test", PLAIN)),
        recipe=get_recipe("photos"),
        protocols=["low-shot"],
        draws=20,
    ),
    with_protocol(LABELED, LABELED),
)
case(
    "labels of training images: give a labeled `train`$",
    with_protocol(None, LABELED),
    with_protocol(LABELED, LABELED),
)


def by_grades(state: State, grades: str = "") -> object:
    judge = {"x": lambda images: ROWS[: len(images)]}
    images = store(state, labeled(state, "test", LABELED))
    return evaluate(judge, None, images, protocols=["grades"], grades=grades, draws=20)


case(
    "photos that belong together: give `grades`, such as",
    by_grades,
    lambda state, _: by_grades(state, "label"),  # they say no time; any column of a manifest is a grade
)
BOTH = ["a", "b", "a;b"] * 4
case(
    "images with one label each; these have several: use svm",
    with_protocol(BOTH, BOTH),
    lambda state, said: with_protocol(BOTH, BOTH, choices(said)[-1])(state),
)

# What is said beside figures


def notes(state: State, train: list[str] | None, test: list[str]) -> list[str]:
    rows = {"x": lambda images: ROWS[: len(images)]}
    train_store = None if train is None else store(state, labeled(state, "train", train))
    return evaluate(rows, train_store, store(state, labeled(state, "test", test, 200)), draws=20).notes


def gone(words: str, train: list[str] | None, test: list[str]) -> Callable[[State, str], object]:
    def check(state: State, said: str) -> None:
        left = "\n".join(notes(state, train, test))
        assert words not in left, left

    return check


case(
    "these figures say next to nothing{}; give more.",
    lambda state: notes(state, None, ["a", "b"] * 2),
    gone("next to nothing", None, LABELED),
)
case(
    "write the labels alike in both.",
    lambda state: notes(state, ["0", "1"] * 6, ["0.0", "1.0"] * 6),
    gone("alike in both", ["0", "1"] * 6, ["0", "1"] * 6),
)

# Reports

case(
    "no run folder at {}: give the folder that s2r2 train wrote",
    lambda state: write_report(state.tmp / "nowhere"),
    lambda state, said: write_report(state.run),
)
case(
    "{} holds no run (no {}): give a run folder",
    lambda state: write_report(state.tmp),
    lambda state, said: write_report(state.run),
)


case(
    "cannot make {}: {}choose another folder",
    lambda state: (
        (state.run / "pictures").write_text(""),
        judged(state, "--test", state.shared.photos),
    ),
    lambda state, said: (
        state.tmp.joinpath("other").mkdir(),
        judged(state, "--test", state.shared.photos, "--out", state.tmp / "other"),
    ),
)


def how_to_evaluate(state: State) -> str:
    return write_report(state.run).read_text()


def as_the_page_says(state: State, said: str) -> None:
    words = shlex.split(html.unescape(named(r"<code>s2r2 (evaluate .*? --test DATA)</code>", said)))
    data = iter([str(labeled(state, "train", LABELED)), str(labeled(state, "test", LABELED, 200))])
    command(*(next(data) if word == "DATA" else word for word in words), "--device", "cpu")
    assert "has not been evaluated" not in write_report(state.run).read_text()


case("s2r2 evaluate {} --train DATA --test DATA", how_to_evaluate, as_the_page_says)


def tuned(state: State, train: list[str]) -> object:
    train_store = store(state, labeled(state, "train", train))
    test = store(state, labeled(state, "test", LABELED, 200))
    task = build_task(train_store, test, ks=(1,), draws=20, seed=0)
    state.patch.setattr("s2r2.evaluation.protocols.fine_tuning.LEAST_STEPS", 1)
    return fine_tune(state.shared.encoder, train_store, test, task, plan=FineTuningPlan(epochs=1))


case(
    "fine-tuning needs labels of training images: give",
    lambda state: tuned(state, PLAIN),
    lambda state, said: tuned(state, LABELED),
)


def views_of(state: State) -> object:
    """Photos that went away after the run began."""
    images = DirectImages(open_source(str(state.photos)), 16)
    if not state.kept:
        shutil.move(state.photos, state.tmp / "away")
        state.kept["away"] = True
    return held_out_views(images, get_recipe("photos"), views=2, view_size=16)


case(
    "images can be read: check that they are still there",
    views_of,
    lambda state, said: (shutil.move(state.tmp / "away", state.photos), views_of(state)),
)
