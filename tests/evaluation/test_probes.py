"""Linear probe, low-shot and VOC07 SVM against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from s2r2.errors import S2R2Error
from s2r2.evaluation import fit_linear_probe, low_shot, probe_subsets, voc07_svm
from s2r2.evaluation.protocols.linear_probe import split_indices
from s2r2.evaluation.protocols.low_shot import draw_shots


def features(count: int, dimensions: int, classes: int, seed: int = 0, noise: float = 1.5):
    """Correlated, positive features such as a network's, and labels; the centers are always the same."""
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    mixing = np.random.default_rng(98).standard_normal((dimensions, dimensions)) * np.logspace(0, -2, dimensions)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    rows = (centres[labels] + noise * generator.standard_normal((count, dimensions))) @ mixing.T
    return np.maximum(rows + 1, 0).astype(np.float32), labels


def objective(weight, bias, x, y, strength):
    """Scikit-learn's: C * sum of losses + |W|^2 / 2."""
    logits = x @ weight.T + bias
    if len(weight) == 1:
        losses = np.logaddexp(0, logits[:, 0]) - y * logits[:, 0]
    else:
        losses = np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]
    return strength * losses.sum() + (weight**2).sum() / 2


@pytest.mark.parametrize(("count", "dimensions", "classes"), [(600, 40, 5), (50, 90, 4), (400, 30, 2)])
@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
def test_minimum_and_accuracy_are_those_of_scikit_learn(count, dimensions, classes, strength):
    x, y = features(count, dimensions, classes)
    test, wanted = features(4000, dimensions, classes, seed=1)
    probe = fit_linear_probe(x, y, strengths=strength)
    scaler = StandardScaler().fit(x.astype(np.float64))
    scaled = scaler.transform(x.astype(np.float64))
    theirs = LogisticRegression(C=strength, max_iter=20000, tol=1e-9).fit(scaled, y)
    weight, bias = probe.weight.astype(np.float64), probe.bias.astype(np.float64)
    if classes == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    least = objective(theirs.coef_, theirs.intercept_, scaled, y, strength)
    assert objective(weight, bias, scaled, y, strength) == pytest.approx(least, rel=1e-3)
    accuracy = (probe.predict(test) == wanted).mean()
    assert accuracy == pytest.approx((theirs.predict(scaler.transform(test)) == wanted).mean(), abs=0.002)


def test_one_vs_rest_equals_scikit_learn_label_by_label():
    x, y = features(500, 30, 4)
    targets = (y[:, None] == np.arange(4)) | (np.random.default_rng(2).random((500, 4)) < 0.1)
    test, _ = features(300, 30, 4, seed=1)
    probe = fit_linear_probe(x, targets, strengths=0.1)
    scaler = StandardScaler().fit(x)
    for label in range(4):
        theirs = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(scaler.transform(x), targets[:, label])
        np.testing.assert_allclose(
            probe.scores(test)[:, label], theirs.decision_function(scaler.transform(test)), atol=0.05
        )


def test_strength_is_chosen_on_a_held_out_part_and_helps():
    x, y = features(300, 60, 6, noise=4)
    test, wanted = features(2000, 60, 6, seed=1, noise=4)
    probe = fit_linear_probe(x, y)
    assert set(probe.validation) == {1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0}
    assert probe.validation[probe.strength] == max(probe.validation.values())
    accuracies = {c: (fit_linear_probe(x, y, strengths=c).predict(test) == wanted).mean() for c in probe.validation}
    assert (probe.predict(test) == wanted).mean() > np.mean(list(accuracies.values()))


def test_of_two_classes_a_rare_one_is_held_out_in_proportion_and_judged_by_accuracy():
    """Drawn by chance, a fifth of the images may hold none of it, and the weakest strength would be chosen."""
    labels = np.zeros(60, int)
    labels[:6] = 1
    rows = np.random.default_rng(0).standard_normal((60, 4)) + 6 * labels[:, None]
    for seed in range(8):
        probe = fit_linear_probe(rows, labels, seed=seed)
        assert probe.strength > 1e-4
        assert (probe.predict(rows) == labels).all()
        assert round(12 * probe.validation[1e-4], 9) in (10, 11)  # of 12: nothing but the larger class is guessed


def test_constant_features_and_absent_classes_do_no_harm():
    x, y = features(100, 10, 3)
    x[:, 4] = 7
    probe = fit_linear_probe(x, y, strengths=1.0, classes=5)
    assert np.isfinite(probe.weight).all()
    assert probe.weight.shape == (5, 10)
    assert set(probe.predict(x)) <= {0, 1, 2}


def test_split_keeps_the_proportions_of_classes():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    rest, held = split_indices(labels, 0.2, seed=0)
    assert sorted([*rest, *held]) == list(range(160))
    assert np.abs(np.bincount(labels[held]) - [20, 10, 2]).max() <= 1


def test_low_shot_draws_that_many_of_each_class():
    labels = np.repeat([0, 1, 2, -1], [30, 12, 15, 9])
    subsets = draw_shots(labels, 10, 4, seed=0)
    assert all(np.bincount(labels[chosen]).tolist() == [10, 10, 10] for chosen in subsets)
    assert len({tuple(chosen) for chosen in subsets}) == 4
    even = np.repeat([0, 1, -1], 10)
    assert [chosen.tolist() for chosen in draw_shots(even, 10, 4, seed=0)] == [list(range(20))]  # there is but one


def test_low_shot_gets_better_with_more_images_and_says_how_sure_it_is():
    x, y = features(900, 30, 5)
    test, wanted = features(600, 30, 5, seed=1)
    one, many = (low_shot(x, y, test, wanted, shots=n, subsets=4, draws=200) for n in (1, 100))
    assert one.interval.value < many.interval.value
    assert len(one.accuracies) == 4
    assert one.interval.value == pytest.approx(np.mean(one.accuracies))
    assert one.interval.low < min(one.interval.value, np.max(one.accuracies))
    assert np.ptp(one.accuracies) > np.ptp(many.accuracies)


def test_predefined_folds_are_used_as_they_are():
    x, y = features(200, 10, 3)
    folds = [np.arange(0, 100), np.arange(100, 200)]
    found = probe_subsets(x, y, x, y, folds, strengths=0.1, draws=50)
    expected = [(fit_linear_probe(x[f], y[f], strengths=0.1).predict(x) == y).mean() for f in folds]
    assert found.accuracies == pytest.approx(expected)


def test_too_few_images_of_a_class_are_refused():
    with pytest.raises(S2R2Error, match="smallest class has 2"):
        draw_shots(np.array([0, 0, 0, 1, 1]), 3, 1, seed=0)


def test_voc07_svm_at_one_cost_is_scikit_learns():
    x, y = features(200, 20, 3)
    test, wanted = features(150, 20, 3, seed=1)
    targets, test_targets = y[:, None] == np.arange(3), wanted[:, None] == np.arange(3)
    found = voc07_svm(x, targets, test, test_targets, costs=(1.0,), draws=50)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, test)]
    for label in range(3):
        machine = LinearSVC(C=1.0, class_weight={1: 2, 0: 1}, max_iter=2000, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(unit[0], targets[:, label].astype(int))
        theirs = average_precision_score(test_targets[:, label], machine.decision_function(unit[1]))
        assert found.average_precision[label] == pytest.approx(theirs, abs=1e-3)
    assert found.interval.value == pytest.approx(found.average_precision.mean(), abs=1e-6)


def test_voc07_svm_chooses_costs_label_by_label_and_leaves_out_what_it_cannot_learn():
    x, y = features(90, 10, 3)
    targets = np.concatenate([y[:, None] == np.arange(3), np.zeros((90, 1), bool)], 1)
    found = voc07_svm(x, targets, x, targets, costs=(0.01, 1.0), draws=20)
    assert set(found.costs[:3]) <= {0.01, 1.0}
    assert np.isnan(found.costs[3])
    assert np.isnan(found.average_precision[3])
    with pytest.raises(S2R2Error, match="no label has three"):
        voc07_svm(x, np.zeros((90, 2), bool), x, np.zeros((90, 2), bool))
    with pytest.raises(S2R2Error, match="same label columns"):
        voc07_svm(x, targets, x, targets[:, :2])


def test_bad_input_is_one_clear_line():
    x, y = features(20, 4, 2)
    with pytest.raises(S2R2Error, match="C must be above 0"):
        fit_linear_probe(x, y, strengths=0)
    with pytest.raises(S2R2Error, match="one label for each image"):
        fit_linear_probe(x, y[:10])
    with pytest.raises(S2R2Error, match="one label for each image"):
        fit_linear_probe(x, [None, *y[1:]])
