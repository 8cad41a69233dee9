"""Bootstrap intervals and health figures against their definitions."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from s2r2.evaluation import (
    Interval,
    alignment,
    bootstrap_interval,
    duplicates,
    effective_rank,
    health,
    mean_average_precision_interval,
    uniformity,
)


def test_interval_of_a_mean_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    found = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half / 5)
    assert found.high == pytest.approx(values.mean() + half, abs=half / 5)
    assert found.count == 4000


def test_intervals_hold_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    found = [bootstrap_interval(generator.random(150) < 0.3, draws=300) for _ in range(200)]
    assert 0.89 <= np.mean([i.low <= 0.3 <= i.high for i in found]) <= 0.99


def test_interval_leaves_out_what_is_not_a_number_and_survives_json():
    found = bootstrap_interval(np.array([1, np.nan, 1, 1]))
    assert (found.value, found.low, found.high, found.count) == (1, 1, 1, 3)
    assert Interval.from_list(found.to_list()) == found
    nothing = bootstrap_interval(np.array([]))
    assert nothing.to_list() == [None, None, None, 0]
    assert np.isnan(Interval.from_list(nothing.to_list()).value)


def test_mean_average_precision_is_scikit_learns_also_with_ties():
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 12, (120, 6)).astype(np.float64)
    targets = generator.random((120, 6)) < 0.2
    targets[:, 3] = False
    found = mean_average_precision_interval(scores, targets, draws=200)
    used = [c for c in range(6) if c != 3]
    assert found.value == pytest.approx(average_precision_score(targets[:, used], scores[:, used]), abs=1e-9)
    assert found.low < found.value < found.high
    assert found.count == 5


def test_a_resample_counts_an_image_as_often_as_it_is_drawn():
    from s2r2.evaluation.metrics.bootstrap import weighted_average_precision

    generator = np.random.default_rng(3)
    scores, relevant = generator.random(40), generator.random(40) < 0.3
    counts = np.bincount(generator.integers(0, 40, 40), minlength=40)
    repeated = np.repeat(np.arange(40), counts)
    expected = average_precision_score(relevant[repeated], scores[repeated])
    assert weighted_average_precision(scores, relevant, counts[None].astype(np.float32))[0] == pytest.approx(expected)


def test_effective_rank_of_known_spectra():
    basis = np.linalg.qr(np.random.default_rng(4).standard_normal((50, 8)))[0]
    assert effective_rank(basis) == pytest.approx(8, abs=1e-3)
    assert effective_rank(basis * [1, 1, 1, 0, 0, 0, 0, 0]) == pytest.approx(3, abs=1e-3)
    assert effective_rank(np.ones((50, 8))) == pytest.approx(1, abs=1e-3)
    shares = np.array([4, 2, 1, 1]) / 8
    assert effective_rank(basis[:, :4] * [4, 2, 1, 1]) == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), abs=1e-3
    )


def test_alignment_and_uniformity_are_means_over_pairs():
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((30, 6))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    groups = generator.integers(0, 8, 30)
    pairs = [(i, j) for i in range(30) for j in range(30) if i != j]
    same = [np.sum((units[i] - units[j]) ** 2) for i, j in pairs if groups[i] == groups[j]]
    assert alignment(rows, groups) == pytest.approx(np.mean(same), abs=1e-5)
    potential = [np.exp(-2 * np.sum((units[i] - units[j]) ** 2)) for i, j in pairs]
    assert uniformity(rows) == pytest.approx(np.log(np.mean(potential)), abs=1e-5)


def test_collapse_to_a_point_or_a_line_is_said_plainly():
    generator = np.random.default_rng(6)
    fine = generator.standard_normal((200, 16)).astype(np.float32)
    point = np.ones((200, 16), np.float32) + 1e-3 * fine
    line = np.outer(generator.standard_normal(200), np.ones(16)).astype(np.float32) + 1e-3 * fine
    assert health(fine).warning == ""
    assert "collapsed" in health(point).warning
    assert "directions" in health(line).warning
    assert health(fine).effective_rank > 12


def test_copies_between_training_and_test_images_are_found():
    generator = np.random.default_rng(7)
    train = generator.standard_normal((50, 32)).astype(np.float32)
    test = np.concatenate([generator.standard_normal((5, 32)).astype(np.float32), train[[7, 3]] * 2])
    assert [(pair.test, pair.train) for pair in sorted(duplicates(train, test), key=lambda p: p.test)] == [
        (5, 7),
        (6, 3),
    ]


def test_the_interval_of_rare_labels_holds_their_figure():
    generator = np.random.default_rng(0)
    targets = generator.random((300, 60)) < 0.01
    scores = generator.standard_normal((300, 60)) + 1.5 * targets
    interval = mean_average_precision_interval(scores, targets, draws=500)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low < 0.3
