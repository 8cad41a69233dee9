"""Figures that mean nothing say so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import Evaluation, Interval, Row, evaluate, fit_linear_probe, knn_accuracy, write_report
from s2r2.evaluation.protocols.register import find_protocols
from s2r2.evaluation.report.figures import bar_groups
from s2r2.evaluation.result import Column, RowKind
from s2r2.evaluation.task import Task
from s2r2.evaluation.warnings import cautions
from s2r2.images import PixelStore
from s2r2.views import Recipe

RANKED = {"queries": 20, "most_wrong": 100}


def said(task: Task, protocols: Sequence[str] = ()) -> list[str]:
    return [caution.text for caution in cautions(task, RANKED, find_protocols(protocols))]


def test_labels_of_another_form_are_said() -> None:
    task = Task(["0", "0.0", "1", "1.0"], np.array([0, 2] * 10), np.array([1, 3] * 10))
    (note,) = said(task)
    assert "None of the test images' labels occur" in note
    assert "'0.0', '1.0'" in note
    half = Task(["a", "b", "c"], np.array([0, 2] * 10), np.array([0, 1] * 10))
    assert any("Only 1 of 2" in line for line in said(half))
    assert said(Task(["a", "b"], np.array([0, 1] * 10), np.array([0, 1] * 10))) == []
    alike = Task(["Ant", "cafe\u0301", "caf\u00e9"], np.array([0, 2] * 10), np.array([0, 1] * 10))
    (note,) = said(alike)
    assert r"'cafe\u0301' (the training images' are like 'café')" in note


def test_protocols_that_take_other_images_than_they_say() -> None:
    few = Task(["a", "b"], np.array([0] * 18 + [1] * 2), np.array([0, 1] * 10))
    shots, machines, *shares = said(few, ["low-shot", "svm", "fine-tuning"])
    assert "10 and 100 images of each class is left out: the smallest has 2" in shots
    assert "2 of 2 labels have fewer than 3 training images" in machines
    assert "Fine-tuning on 1% took 2 of 20" in shares[0]


def figures_of(row: Row, name: str) -> list[float]:
    return [figure.value for key, figure in row.figures.items() if key.startswith(name)]


def page_of(evaluation: Evaluation, folder: Path) -> str:
    evaluation.save(folder)
    return write_report(folder).read_text(encoding="utf-8")


def one_vector(store: PixelStore) -> np.ndarray:
    return np.ones((len(store), 4), np.float32)


@pytest.mark.slow
def test_what_has_one_class_is_not_judged(run_folder, striped_photos, build_store, tmp_path, capsys) -> None:
    photos, labels = striped_photos(12, 4)
    one = build_store(tmp_path, photos, np.zeros(12, int), "one")
    evaluation = evaluate({"noise": lambda store: np.eye(len(store), 13)}, None, one, draws=20, folder=run_folder)
    assert all(np.isnan(figure.value) for row in evaluation.rows for figure in row.figures.values())
    assert any("any ranking is perfect" in note for note in evaluation.notes)
    evaluation.print()
    assert "n/a" in capsys.readouterr().out
    page = page_of(evaluation, run_folder)
    assert "n/a</td>" in page
    assert "any ranking is perfect" in page
    assert "100.0" not in page
    assert ">nan" not in page
    several = build_store(tmp_path, photos, labels, "several")
    taught = evaluate({"noise": lambda store: np.eye(len(store), 13)}, several, one, draws=20)
    assert np.isnan(figures_of(taught.rows[-1], "map")).all()
    assert np.isfinite(figures_of(taught.rows[-1], "knn@")).all()
    assert any("of that class alone" in note for note in taught.notes)
    back = evaluate({"noise": lambda store: np.eye(len(store), 13)}, one, several, draws=20)
    assert np.isnan(figures_of(back.rows[-1], "knn@") + figures_of(back.rows[-1], "probe")).all()
    assert np.isfinite(figures_of(back.rows[-1], "map")).all()


def test_images_that_are_alone_and_cut_offs_beyond_the_wrong_ones(striped_photos, build_store, tmp_path) -> None:
    photos, labels = striped_photos(12, 4)
    alone = build_store(tmp_path, photos, np.arange(12), "alone")
    evaluation = evaluate({}, None, alone, draws=20)
    assert all(np.isnan(figure.value) for figure in evaluation.rows[0].figures.values())
    assert any("rankings cannot be judged" in note for note in evaluation.notes)
    two = evaluate({}, None, build_store(tmp_path, photos, labels % 2, "two"), draws=20)  # 6 wrong ones for each
    assert np.isnan(two.rows[0].figures["recall@10"].value)
    assert np.isfinite(two.rows[0].figures["recall@5"].value)
    assert any(note.startswith("R@10: so many places are never all wrong") for note in two.notes)


def test_equal_vectors_and_few_images_are_said(run_folder, striped_photos, build_store, tmp_path) -> None:
    photos, labels = striped_photos(14, 2)
    train, test = build_store(tmp_path, photos[2:], labels[2:], "train"), build_store(tmp_path, photos[:2], labels[:2])
    evaluation = evaluate({"flat": one_vector}, train, test, draws=20, folder=run_folder)
    probe = evaluation.row("flat").figures["probe"]
    assert np.isfinite(probe.value)
    assert np.isnan(probe.half_width)
    assert "collapsed" in evaluation.row("flat").health["warning"]
    page = page_of(evaluation, run_folder)
    assert "no ± from so few" in page
    assert "collapsed" in page
    black = build_store(tmp_path, [np.zeros((24, 24, 3), np.uint8)] * 12, np.arange(12) % 2, "black")
    assert "same vector" in evaluate({}, None, black, draws=20).rows[0].health["warning"]


def test_views_of_one_photo_have_no_figure(encoder, striped_photos, build_store, tmp_path) -> None:
    one = build_store(tmp_path, striped_photos(1, 1)[0], None)
    evaluation = evaluate({"x": encoder}, None, one, recipe=Recipe(), draws=20)
    assert all(np.isnan(row.figures["view_ap"].value) for row in evaluation.rows)
    assert any("only one test image" in note for note in evaluation.notes)


def test_svm_that_cannot_be_trained_ends_nothing(striped_photos, build_store, tmp_path) -> None:
    photos, labels = striped_photos(16, 2)
    train, test = build_store(tmp_path, photos[:4], labels[:4], "few"), build_store(tmp_path, photos[4:], labels[4:])
    evaluation = evaluate({"x": one_vector}, train, test, draws=20, protocols=["svm"])
    assert np.isnan(evaluation.row("x").figures["svm"].value)
    assert any("SVM: 2 of 2" in note for note in evaluation.notes)


def test_knn_of_one_image_is_refused() -> None:
    with pytest.raises(S2R2Error, match="two of them or more"):
        knn_accuracy(np.ones((1, 3), np.float32), np.zeros(1, int))


def test_features_that_are_not_finite_are_named() -> None:
    features = np.ones((6, 3), np.float32)
    features[4, 1] = np.nan
    with pytest.raises(S2R2Error, match="row 4"):
        fit_linear_probe(features, np.array([0, 1] * 3))


def test_bars_are_coloured_by_what_an_encoder_is_and_not_by_its_name(tmp_path) -> None:
    def bars(content: dict) -> list[str]:
        return [bar["kind"] for bar in bar_groups(Evaluation.from_dict(content))[0]["bars"]]

    figures = {"map": Interval(0.5, 0.4, 0.6, 9)}
    rows = [Row("untrained-twin", "feature", 4, figures), Row("mine", "feature", 4, figures, kind=RowKind.UNTRAINED)]
    content = Evaluation({}, {"map": Column("mAP", "")}, rows).to_dict()
    assert bars(content) == ["trained", "untrained"]
    for row in content["rows"]:  # as earlier versions wrote it
        del row["kind"]
    second = [{**row, "trained": row["encoder"] != "mine"} for row in content["rows"]]
    assert bars({**content, "rows": second, "version": 2}) == ["trained", "untrained"]
    assert bars({**content, "version": 1}) == ["untrained", "trained"]


def test_protocols_name_the_images_that_lack_labels(stores, unlabeled) -> None:
    with pytest.raises(S2R2Error, match="needs labels of test images: give a labeled `test`"):
        evaluate({"x": one_vector}, stores[0], unlabeled, protocols=["svm"])
    with pytest.raises(S2R2Error, match="needs labels of training images: give a labeled `train`"):
        evaluate({"x": one_vector}, unlabeled, stores[1], protocols=["svm"])
