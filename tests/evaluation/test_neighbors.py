"""Nearest neighbors and their votes against slow definitions."""

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import knn_accuracy, knn_predictions, knn_scores, nearest
from s2r2.evaluation.metrics.neighbors import usual_neighbors


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((5, 12))
    train_labels, test_labels = generator.integers(0, 5, 90), generator.integers(0, 5, 40)
    train = centres[train_labels] + generator.standard_normal((90, 12))
    test = centres[test_labels] + generator.standard_normal((40, 12))
    return unit(train).astype(np.float32), train_labels, unit(test).astype(np.float32), test_labels


@pytest.mark.parametrize("memory", [1, 1 << 26])
def test_nearest_is_the_sorted_list(data, memory):
    train, _, test, _ = data
    indices, cosines = nearest(test, train, k=7, memory=memory)
    similarities = test @ train.T
    np.testing.assert_array_equal(indices, np.argsort(-similarities, axis=1)[:, :7])
    np.testing.assert_allclose(cosines, -np.sort(-similarities, axis=1)[:, :7], atol=1e-6)


def test_nearest_without_a_gallery_never_finds_the_query_itself(data):
    rows = np.concatenate([data[0], data[0][:3]])  # copies of the query do count
    indices, cosines = nearest(rows, k=500)
    assert indices.shape == (93, 92)
    assert (indices != np.arange(93)[:, None]).all()
    assert indices[90:, 0].tolist() == [0, 1, 2]
    assert cosines[90:, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20, 90, 1000])
def test_votes_are_weighted_by_exp_of_cosine_over_temperature(data, k):
    train, train_labels, test, _ = data
    shares = knn_scores(train, train_labels, test, ks=(k,), temperature=0.07)[k]
    for q in range(len(test)):
        cosines = (train @ test[q]).astype(np.float64)
        votes = np.zeros(5)
        for j in np.argsort(-cosines)[:k]:
            votes[train_labels[j]] += np.exp(cosines[j] / 0.07)
        np.testing.assert_allclose(shares[q], votes / votes.sum(), atol=1e-5)


def test_multi_label_votes_go_to_every_label_of_a_neighbor():
    train = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    shares = knn_scores(train, targets, np.array([[1, 0]], np.float32), ks=(2,), temperature=1.0)[2]
    near, far = np.exp(1.0), np.exp(0.8)
    np.testing.assert_allclose(shares[0], [near / (near + far), 1, 0], atol=1e-6)


def test_unknown_labels_do_not_vote(data):
    train, train_labels, test, test_labels = data
    half = np.where(np.arange(90) % 2 == 0, train_labels, -1)
    np.testing.assert_array_equal(
        knn_predictions(train, half, test, unknown=-1), knn_predictions(train[::2], train_labels[::2], test)
    )
    assert knn_accuracy(train, train_labels, test, np.full(40, -1), unknown=-1) != knn_accuracy(
        train, train_labels, test, test_labels
    )


def test_leave_one_out_accuracy_does_not_let_an_image_vote_for_itself():
    rows = np.eye(6, dtype=np.float32)[[0, 0, 1, 1, 2, 2]] + 0.01
    assert knn_accuracy(rows, np.array([0, 0, 1, 1, 2, 2]), k=1) == 1
    assert knn_accuracy(rows, np.array([0, 1, 2, 3, 4, 5]), k=1) == 0


def test_usual_neighbors_stay_below_a_tenth_of_the_images():
    assert [usual_neighbors(n) for n in (5, 100, 1000, 50000)] == [(1,), (10,), (20, 100), (20, 200)]


def test_bad_input_is_one_clear_line(data):
    with pytest.raises(S2R2Error, match="none of the training images"):
        knn_predictions(data[0], np.full(90, -1), data[2], unknown=-1)
    with pytest.raises(S2R2Error, match="above 0"):
        knn_scores(data[0], data[1], data[2], ks=(0,))
    with pytest.raises(S2R2Error, match="above 0"):
        knn_scores(data[0], data[1], data[2], temperature=0)
