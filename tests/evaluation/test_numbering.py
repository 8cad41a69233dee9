"""Labels and groups may be any integers or texts, everywhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from s2r2.errors import S2R2Error
from s2r2.evaluation import (
    fit_linear_probe,
    knn_accuracy,
    knn_predictions,
    knn_scores,
    low_shot,
    probe_subsets,
    retrieval_metrics,
)
from s2r2.evaluation.metrics.confusion import neighbor_confusion
from s2r2.evaluation.metrics.label_encoding import number_labels
from s2r2.images import Labels

NUMBERS = np.random.default_rng(0).integers(0, 3, 60)
ROWS = (np.eye(3)[NUMBERS] + 0.6 * np.random.default_rng(1).standard_normal((60, 3))).astype(np.float32)
SPELLINGS: dict[str, Callable[[np.ndarray], Any]] = {
    "negative": lambda n: n - 1,
    "large": lambda n: n.astype(np.int64) * 2**61 - 2**60,
    "unsigned": lambda n: np.uint64(2**64 - 11) + 5 * n.astype(np.uint64),
    "short": lambda n: n.astype(np.int8),
    "texts": lambda n: np.array(["ant", "bee", "cat"])[n],
    "bytes": lambda n: np.array([b"ant", b"bee", b"cat"])[n],
    "list": lambda n: [["ant", "bee", "cat"][i] for i in n],
    "objects": lambda n: np.array([np.int64(-7), 2**70, "cat"], object)[n],
    "list of scalars": lambda n: [np.int16(i - 2) for i in n],
    "floats": lambda n: n.astype(float),
    "tensor": lambda n: torch.as_tensor(n - 3),
    "labels": lambda n: Labels(["a", "b", "c"], n[:, None] == np.arange(3)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_figures_do_not_depend_on_how_labels_are_spelt(spelling: str) -> None:
    def spelt(part: slice) -> Any:
        return SPELLINGS[spelling](NUMBERS[part])

    whole, train, test = slice(None), slice(0, 40), slice(40, 60)
    plain = retrieval_metrics(ROWS, NUMBERS)
    np.testing.assert_array_equal(retrieval_metrics(ROWS, spelt(whole)).average_precision, plain.average_precision)
    apart = retrieval_metrics(ROWS[test], spelt(test), ROWS[train], spelt(train))
    wanted = retrieval_metrics(ROWS[test], NUMBERS[test], ROWS[train], NUMBERS[train])
    np.testing.assert_array_equal(apart.average_precision, wanted.average_precision)
    found = knn_accuracy(ROWS[train], spelt(train), ROWS[test], spelt(test), k=5)
    assert found == knn_accuracy(ROWS[train], NUMBERS[train], ROWS[test], NUMBERS[test], k=5)
    np.testing.assert_array_equal(
        knn_scores(ROWS[train], spelt(train), ROWS[test], ks=(5,))[5],
        knn_scores(ROWS[train], NUMBERS[train], ROWS[test], ks=(5,))[5],
    )
    names = number_labels(spelt(train))[0]
    votes = knn_predictions(ROWS[train], spelt(train), ROWS[test], k=5)
    assert votes.tolist() == names[knn_predictions(ROWS[train], NUMBERS[train], ROWS[test], k=5)].tolist()
    probe = fit_linear_probe(ROWS[train], spelt(train), strengths=1.0)
    numbered = fit_linear_probe(ROWS[train], NUMBERS[train], strengths=1.0)
    np.testing.assert_array_equal(probe.weight, numbered.weight)
    assert probe.predict(ROWS[test]).tolist() == names[numbered.predict(ROWS[test])].tolist()
    few = [low_shot(ROWS[train], a, ROWS[test], b, shots=2, subsets=2, draws=5) for a, b in _pairs(spelt, train, test)]
    assert few[0].accuracies == few[1].accuracies
    folds = [np.arange(20), np.arange(20, 40)]
    parts = [probe_subsets(ROWS[train], a, ROWS[test], b, folds, draws=5) for a, b in _pairs(spelt, train, test)]
    assert parts[0].accuracies == parts[1].accuracies
    tables = [neighbor_confusion(ROWS, labels) for labels in (spelt(whole), NUMBERS)]
    assert tables[0]["shares"] == tables[1]["shares"]


def _pairs(spelt: Callable[[slice], Any], train: slice, test: slice) -> list[tuple[Any, Any]]:
    return [(spelt(train), spelt(test)), (NUMBERS[train], NUMBERS[test])]


@pytest.mark.parametrize("nothing", [None, float("nan"), "", np.float64("nan")])
def test_none_nan_and_empty_are_unknown(nothing: object) -> None:
    labels = [*NUMBERS[:59].tolist(), nothing]
    found = retrieval_metrics(ROWS, labels)
    assert (found.unlabeled_queries, found.gallery) == (1, 59)
    texts = ["abc"[n] for n in NUMBERS[:59]]
    assert knn_accuracy(ROWS, labels, ROWS, k=3) == knn_accuracy(ROWS, [*texts, nothing], ROWS, k=3)
    with pytest.raises(S2R2Error, match="60 images, 59 labels"):
        fit_linear_probe(ROWS, labels)


def test_minus_one_is_a_label_unless_said_otherwise() -> None:
    signs = np.where(NUMBERS == 0, -1, 1)
    assert retrieval_metrics(ROWS, signs).queries == 60
    assert set(knn_predictions(ROWS, signs, ROWS).tolist()) == {-1, 1}
    assert retrieval_metrics(ROWS, signs, unknown=-1).queries == (NUMBERS > 0).sum()


def test_scores_have_a_column_for_each_label() -> None:
    assert knn_scores(ROWS, NUMBERS * 2, ROWS, ks=(3,))[3].shape == (60, 5)
    for other in (NUMBERS * 2 - 1, NUMBERS * 10**9, np.array(["x", "y", "z"])[NUMBERS]):
        assert knn_scores(ROWS, other, ROWS, ks=(3,))[3].shape == (60, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5] * 60, "0.5 of row 0 is neither"),
        ([float("inf")] * 60, "neither a whole number"),
        ([{"a": 1}] * 60, "neither a whole number"),
        (NUMBERS[:, None], r"not int64 \(60, 1\)"),
        (NUMBERS.astype(complex), "not complex128"),
        ([["a", "b"]] * 60, "must be integers or strings"),
        (NUMBERS[:50], "50 labels for 60"),
    ],
)
def test_other_labels_are_a_line(labels: Any, message: str) -> None:
    with pytest.raises(S2R2Error, match=message):
        retrieval_metrics(ROWS, labels)
    with pytest.raises(S2R2Error):
        knn_accuracy(ROWS, labels)
    with pytest.raises(S2R2Error):
        fit_linear_probe(ROWS, labels)


def test_labels_that_cannot_agree_are_a_line() -> None:
    texts = NUMBERS.astype(str)
    for call in (
        lambda: knn_accuracy(ROWS, NUMBERS, ROWS, texts),
        lambda: retrieval_metrics(ROWS, texts, ROWS, NUMBERS),
    ):
        with pytest.raises(S2R2Error, match="some labels are numbers and the others strings"):
            call()
    with pytest.raises(S2R2Error, match=r"none of the test labels, such as '2\.0'"):
        knn_accuracy(ROWS, texts, ROWS, np.char.add(texts, ".0"))
    with pytest.raises(S2R2Error, match="label 2 is no number from 0 to 1"):
        fit_linear_probe(ROWS, NUMBERS, classes=2)
