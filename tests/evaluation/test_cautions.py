"""Figures that mean nothing say so."""

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import fit_linear_probe, knn_accuracy
from s2r2.evaluation.protocols import Task, cautions, judge
from s2r2.evaluation.result import Row


def test_labels_of_another_form_are_said() -> None:
    task = Task(["0", "0.0", "1", "1.0"], np.array([0, 2] * 10), np.array([1, 3] * 10))
    (note,) = cautions(task)
    assert "None of the test images' labels occur" in note
    assert "'0.0', '1.0'" in note
    half = Task(["a", "b"], np.zeros(20, int), np.array([0, 1] * 10))
    assert any("Only 1 of 2" in line for line in cautions(half))
    assert cautions(Task(["a", "b"], np.array([0, 1] * 10), np.array([0, 1] * 10))) == []


def test_one_class_and_one_image_are_said() -> None:
    one = Task(["a"], None, np.zeros(1, int))
    assert len(cautions(one)) == 2
    row = Row("x", "feature", 4)
    judge(row, None, np.ones((1, 4), np.float32), one)
    assert not [name for name in row.figures if name.startswith("knn")]
    assert np.isnan(row.figures["map"].value)


def test_knn_of_one_image_is_refused() -> None:
    with pytest.raises(S2R2Error, match="two of them or more"):
        knn_accuracy(np.ones((1, 3), np.float32), np.zeros(1, int))


def test_features_that_are_not_finite_are_named() -> None:
    features = np.ones((6, 3), np.float32)
    features[4, 1] = np.nan
    with pytest.raises(S2R2Error, match="row 4"):
        fit_linear_probe(features, np.array([0, 1] * 3))
