"""Refining an index: it learns what was marked, leaves the rest, and the second index is one like any other."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.encoder.exporting import export
from s2r2.encoder.feature_head import with_feature_head
from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.refining import Change, Judged, Recipe, Refined, learn_head, refine_index
from s2r2.refining.judging import cross_validated
from s2r2.refining.learning import applied, spread_of
from s2r2.search import ImageIndex, update_index
from s2r2.search.storage import published as published_module
from s2r2.search.storage.marks import Asked, MarkBook

ENCODER = "untrained:test_resnet"
QUICK = Recipe(steps=10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six folders of four photos that differ in color, and an index of them."""
    root = tmp_path_factory.mktemp("refining")
    generator = np.random.default_rng(0)
    for label in range(6):
        (root / "photos" / f"kind {label}").mkdir(parents=True)
        color = generator.integers(60, 200, 3)
        for number in range(4):
            pixels = color + generator.normal(0, 40, (40, 50, 3))
            path = root / "photos" / f"kind {label}" / f"{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    update_index(ENCODER, root / "photos", root / "index", progress=False)
    return root


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "index", tmp_path / "index")
    return tmp_path / "index"


def grouped(seed: int, *, groups: int = 16, each: int = 8, dimensions: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose groups differ in a few dimensions, which are lost among many others."""
    generator = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(groups), each)
    rows = generator.normal(0, 1, (len(kinds), dimensions))
    rows[:, :4] += 1.5 * generator.normal(0, 1, (groups, 4))[kinds]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), kinds


def test_a_head_begins_where_the_vectors_are_and_learns_to_rank() -> None:
    vectors, kinds = grouped(0)
    axes = spread_of(vectors, 32)
    judged = [Judged(np.arange(len(kinds)), kinds)]
    np.testing.assert_allclose(learn_head(vectors, judged, axes, Recipe(steps=0)), np.eye(32), atol=1e-6)
    (photos, labels) = cross_validated(vectors, judged, lambda parts: learn_head(vectors, parts, axes, Recipe()))
    assert photos.verdict == "better"
    assert photos.difference.low > 0
    assert labels.difference.value < photos.difference.value
    assert str(labels).startswith("labels left out")
    still = learn_head(vectors, judged, axes, Recipe(stay=1e4))
    assert np.abs(applied(still, vectors) - vectors).max() < 0.05  # what nobody judged stays where it was


def test_what_is_not_better_is_said_first() -> None:
    level, worse, better = (
        Change("photos left out", Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6), Interval(gap, gap - 0.1, gap + 0.1))
        for gap in (0.0, -0.2, 0.2)
    )
    for changes, first in (
        ([level], "warning   the refined index is not better"),
        ([better, worse], "warning   the refined index is worse: photos left out"),
        ([better, level], "photos left out"),
    ):
        assert str(Refined(Path("a"), Path("b"), 12, changes, 1.0)).startswith(first)


def test_labels_without_meaning_are_not_called_better() -> None:
    vectors, kinds = grouped(1)
    kinds = np.random.default_rng(2).permutation(kinds)
    axes = spread_of(vectors, 32)
    changes = cross_validated(
        vectors, [Judged(np.arange(len(kinds)), kinds)], lambda parts: learn_head(vectors, parts, axes, Recipe())
    )
    assert "better" not in [change.verdict for change in changes]


def mark_all(store: Path) -> None:
    """Right and wrong marks for a photo of each kind."""
    book = MarkBook(store)
    for label in range(6):
        for number in (1, 2):
            book.set(Asked(f"kind {label}/0.png"), f"kind {label}/{number}.png", right=True)
            book.set(Asked(f"kind {label}/0.png"), f"kind {(label + 1) % 6}/{number}.png", right=False)


def test_the_second_index_is_an_index_like_any_other(index: Path, made: Path, tmp_path: Path) -> None:
    """Its encoder gives the vectors that it holds; it is searched, updated, embedded and exported with."""
    mark_all(index)
    before = {path.relative_to(index): path.read_bytes() for path in index.rglob("*") if path.is_file()}
    done = refine_index(index, recipe=QUICK)
    assert {path.relative_to(index): path.read_bytes() for path in index.rglob("*") if path.is_file()} == before
    assert done.out == tmp_path / "index.refined"
    assert "queries left out" in str(done)
    first, second = ImageIndex.open(index), ImageIndex.open(done.out)
    assert second.about.encoder == "untrained:test_resnet, refined"
    assert np.abs(first.vectors - second.vectors).max() > 1e-3
    for row in (0, 13):
        assert first.thumbnail(row) == second.thumbnail(row)
        picture = second.query_picture(second.catalogue.table["key"][row].as_py())
        np.testing.assert_allclose(second.embed(picture), second.vectors[row], atol=1e-4)
    assert len(MarkBook(done.out).of(Asked("kind 0/0.png"))) == 4
    assert second.search("kind 0/0.png", 3)
    shutil.copytree(made / "photos", tmp_path / "photos")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "photos" / "kind 0" / "new.png")
    update = update_index(load(done.out), tmp_path / "photos", done.out, progress=False)
    assert (update.embedded, len(update.index)) == (1, 25)
    exported = export(done.out, tmp_path / "export.safetensors")
    assert exported.difference < 1e-5
    assert load(tmp_path / "export.safetensors").fingerprint == load(done.out).fingerprint
    again = refine_index(done.out, tmp_path / "twice", labels="index", recipe=QUICK)
    twice = ImageIndex.open(again.out)
    assert twice.about.encoder == "untrained:test_resnet, refined"
    np.testing.assert_allclose(
        twice.embed(twice.query_picture("kind 0/new.png")),
        twice.vectors[twice.catalogue.row_of_key("kind 0/new.png") or 0],
        atol=1e-4,
    )


@pytest.mark.slow
def test_timms_form_has_no_place_for_the_head(index: Path, tmp_path: Path) -> None:
    encoder = with_feature_head(load(index), torch.eye(load(index).dimensions()))
    with pytest.raises(S2R2Error, match="no place for the head"):
        export(encoder, tmp_path / "folder", format="huggingface")
    assert export(encoder, tmp_path / "graph.pt2", format="torch-export").difference < 1e-5  # the remedy


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "part",
    [
        *(pytest.param(part, marks=pytest.mark.slow) for part in ("rows.Rows.add", "catalog.write_catalogue")),
        "published.Published.write",
    ],
)
def test_a_kill_leaves_the_second_index_as_it_was(index: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def killed(*_: object) -> None:
        raise Killed

    out = refine_index(index, labels="index", recipe=QUICK).out
    shown = ImageIndex.open(out).vectors.copy()
    target = "s2r2.search.publishing.write_catalogue" if part.startswith("catalog") else f"s2r2.search.storage.{part}"
    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(Killed):
            refine_index(index, labels="index", recipe=Recipe(steps=5))
    np.testing.assert_array_equal(ImageIndex.open(out).vectors, shown)
    refine_index(index, labels="index", recipe=Recipe(steps=5))
    assert np.abs(ImageIndex.open(out).vectors - shown).max() > 1e-5
    assert len([path for path in out.iterdir() if path.is_dir()]) == 1
    assert published_module.read_published(out) is not None


Refuse = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda store: refine_index(store), "too few marks .* or give `labels`"),
        (lambda store: refine_index(store, store, labels="index"), "is the index itself"),
        (lambda store: refine_index(store, labels=store / "none.csv"), "give a CSV with the columns photo and label"),
        (
            lambda store: refine_index(store, labels=written(store, "a,b\n1,2\n")),
            "line 1, .*: give a CSV with the colu",
        ),
        (lambda store: refine_index(store, labels=written(store, "")), "line 1, .*: give a CSV with the columns"),
        (
            lambda store: refine_index(store, labels=written(store, "photo,label\n\nkind 0/0.png\n")),
            "line 3, ends too early: give it a photo and a label",
        ),
        (
            lambda store: refine_index(store, labels=written(store, 'path,label\n"kind 0/\n0.png",a\nx,a\n')),
            r"line 3: kind 0/\\n0.png is no photo of .*remove",
        ),
        (lambda store: refine_index(store, labels=written(store, "photo,label\nx,y\n")), "x is no photo of .*remove"),
        (
            lambda store: refine_index(store, labels=written(store, "photo,label\nkind 0/0.png,a\nkind 0/0.png,b\n")),
            "line 3: kind 0/0.png has another label in a line before; keep one",
        ),
        (
            lambda store: refine_index(store, labels=written(store, "photo,label\nkind 0/0.png,a\n")),
            "too few labels: .* label at least 12 photos",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(index: Path, make: Refuse, said: str) -> None:
    with pytest.raises(S2R2Error, match=said) as error:
        make(index)
    assert "\n" not in str(error.value)


def written(store: Path, text: str) -> Path:
    path = store.parent / "labels.csv"
    path.write_text(text)
    return path


def test_another_index_is_not_overwritten(index: Path, made: Path) -> None:
    other = shutil.copytree(made / "index", index.parent / "other")
    with pytest.raises(S2R2Error, match="choose another `out`, or delete that index"):
        refine_index(index, other, labels="index", recipe=QUICK)
    refine_index(index, index.parent / "free", labels="index", recipe=QUICK)  # the remedy


def test_a_second_index_that_cannot_be_written_is_one_line(index: Path) -> None:
    (index.parent / "file").write_text("")
    with pytest.raises(S2R2Error, match="Not a directory; choose another `out`"):
        refine_index(index, index.parent / "file" / "out", labels="index", recipe=QUICK)
    refine_index(index, index.parent / "out", labels="index", recipe=QUICK)  # the remedy


def test_an_index_that_changed_meanwhile_is_refined_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ImageIndex, "stale", True)
        with pytest.raises(S2R2Error, match="meanwhile: refine it again"):
            refine_index(index, labels="index", recipe=QUICK)
    refine_index(index, labels="index", recipe=QUICK)


def test_a_damaged_head_is_refused(index: Path, tmp_path: Path) -> None:
    encoder = with_feature_head(load(index), torch.eye(load(index).dimensions()))
    whole = encoder.save(tmp_path / "whole")
    weights = {**encoder.state_dict(), "feature_head.weight": torch.eye(2)}
    with pytest.raises(S2R2Error, match="its feature head does not fit"):
        load(encoder.save(tmp_path / "damaged", weights))
    shutil.copy(whole, tmp_path / "damaged")  # the remedy
    assert load(tmp_path / "damaged").feature_head is not None


def test_the_command(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f"kind {kind}/{n}.png,{kind}\n" for kind in range(6) for n in range(3))
    main(["refine", str(index), "--labels", str(written(index, "photo,label\n" + lines))])
    said = capsys.readouterr().out
    assert re.search(
        r"photos left out +mAP [01]\.\d+ \[.*\] -> [01]\.\d+ \[.*\], [+-]0\.\d+ \[.*\] over 18 queries", said
    )
    assert "labels left out" in said
    assert "learned from 18 photos in" in said
    assert f"s2r2 serve {index} --compare {index}.refined" in said
