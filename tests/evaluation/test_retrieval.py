"""Retrieval figures against hand-computed cases, brute force over orders, and other libraries."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from s2r2.errors import S2R2Error
from s2r2.evaluation import retrieval_metrics
from s2r2.images import Labels


def on_circle(*cosines: float) -> np.ndarray:
    """Unit vectors with the given cosines to (1, 0)."""
    return np.array([(c, np.sqrt(1 - c * c)) for c in cosines], np.float32)


QUERY = np.array([[1, 0]], np.float32)


def rank(relevant: str, cosines: list[float] | None = None, **options):
    """Result for one query whose gallery, in order, has relevant images where the text has a 1."""
    cosines = cosines or list(np.linspace(0.9, 0.1, len(relevant)))
    labels = np.array([int(c) for c in relevant])
    return retrieval_metrics(QUERY, np.array([1]), on_circle(*cosines), labels, **options)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Cases worked out by hand.


@pytest.mark.parametrize(
    ("relevant", "ap", "ap_at_r", "r_precision"),
    [
        ("1", 1, 1, 1),
        ("100", 1, 1, 1),
        ("001", 1 / 3, 0, 0),
        ("101", (1 + 2 / 3) / 2, 1 / 2, 1 / 2),
        ("0110", (1 / 2 + 2 / 3) / 2, (1 / 2) / 2, 1 / 2),
        ("110", 1, 1, 1),
        ("0011", (1 / 3 + 2 / 4) / 2, 0, 0),
    ],
)
def test_average_precision_by_hand(relevant, ap, ap_at_r, r_precision):
    result = rank(relevant)
    assert result.average_precision[0] == pytest.approx(ap, abs=1e-12)
    assert result.average_precision_at_r[0] == pytest.approx(ap_at_r, abs=1e-12)
    assert result.r_precision[0] == pytest.approx(r_precision, abs=1e-12)
    assert result.tie_span[0] == 0


def test_recall_is_whether_any_relevant_image_is_among_the_first_k():
    result = rank("0010010", ks=(1, 2, 3, 100))
    assert {k: hits[0] for k, hits in result.recall.items()} == {1: 0, 2: 0, 3: 1, 100: 1}


def test_the_query_is_left_out_by_its_index_not_by_its_rank():
    """A copy of the query must count as its neighbour: dropping "the first one" would drop either."""
    rows = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    result = retrieval_metrics(rows, np.array([0, 0, 1, 1]))
    assert result.average_precision.tolist() == [1, 1, 1, 1]
    wrong = retrieval_metrics(rows, np.array([0, 1, 1, 0]))
    assert wrong.average_precision[0] == pytest.approx(1 / 2)  # the copy of another class comes first


def test_exclude_removes_one_candidate_of_a_separate_gallery():
    gallery = on_circle(1.0, 0.9, 0.8)
    labels = np.array([1, 0, 1])
    kept = retrieval_metrics(QUERY, np.array([1]), gallery, labels)
    without = retrieval_metrics(QUERY, np.array([1]), gallery, labels, exclude=np.array([0]))
    assert kept.average_precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert without.average_precision[0] == pytest.approx(1 / 2)
    assert without.relevant[0] == 1


# Tie rules.


def test_expected_ties_are_the_mean_over_all_orders():
    cosines, relevant = [0.9, 0.5, 0.5, 0.5, 0.5, 0.1], "010010"
    labels = [int(c) for c in relevant]
    found = rank(relevant, cosines)
    aps, at_r, hits = [], [], []
    for order in itertools.permutations(range(1, 5)):
        ranked = [labels[i] for i in [0, *order, 5]]
        precisions = [sum(ranked[: i + 1]) / (i + 1) for i in range(6) if ranked[i]]
        aps.append(sum(precisions) / 2)
        at_r.append(sum(p for p, i in zip(precisions, np.flatnonzero(ranked), strict=True) if i < 2) / 2)
        hits.append(any(ranked[:5]))
    assert found.average_precision[0] == pytest.approx(np.mean(aps), abs=1e-12)
    assert found.average_precision_at_r[0] == pytest.approx(np.mean(at_r), abs=1e-12)
    assert found.recall[5][0] == pytest.approx(np.mean(hits), abs=1e-12)
    assert found.tie_span[0] == pytest.approx(max(aps) - min(aps), abs=1e-12)


def test_optimistic_ties_put_relevant_images_first():
    found = rank("00110", [0.9, 0.5, 0.5, 0.5, 0.5], ties="optimistic", ks=(1, 2))
    assert found.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.recall[2][0] == 1


def test_pessimistic_ties_put_relevant_images_last():
    found = rank("00110", [0.9, 0.5, 0.5, 0.5, 0.5], ties="pessimistic", ks=(1, 2, 3, 4))
    assert found.average_precision[0] == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert [found.recall[k][0] for k in (1, 2, 3, 4)] == [0, 0, 0, 1]


def test_cosines_that_float32_cannot_tell_apart_are_equal():
    close = rank("01", [0.5 + 2e-8, 0.5], ties="optimistic")
    apart = rank("01", [0.5 + 1e-5, 0.5], ties="optimistic")
    assert (close.average_precision[0], apart.average_precision[0]) == (1, 0.5)


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
@pytest.mark.parametrize("noise", [0, 1e-9])
def test_collapsed_embeddings_do_not_look_good(rows, noise):
    """All images on one point: exactly what chance gives, whatever the batch size of the matrix product."""
    generator = np.random.default_rng(0)
    gallery = (np.ones((300, 515)) + noise * generator.standard_normal((300, 515))).astype(np.float32)
    labels = np.arange(300) % 10
    result = retrieval_metrics(gallery[:rows], labels[:rows], gallery, labels, exclude=np.arange(rows))
    assert result.recall[1] == pytest.approx(29 / 299)
    harmonic = (1 / np.arange(1, 300)).sum()
    chance = (harmonic + 28 / 298 * (299 - harmonic)) / 299
    assert result.average_precision == pytest.approx(chance, abs=1e-12)
    assert retrieval_metrics(gallery, labels, ties="optimistic").mean_average_precision == 1


tied_rankings = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=7).filter(
    lambda items: any(relevant for _, relevant in items)
)


@settings(max_examples=60, deadline=None)
@given(tied_rankings)
def test_expected_optimistic_and_pessimistic_on_any_small_ranking(items):
    cosines = [0.1 + 0.2 * level for level, _ in items]
    relevant = np.array([r for _, r in items])
    values = []
    for order in itertools.permutations(range(len(items))):
        if all(cosines[a] >= cosines[b] for a, b in itertools.pairwise(order)):
            ranked = relevant[list(order)]
            values.append((np.cumsum(ranked) / np.arange(1, len(items) + 1))[ranked].mean())
    text = "".join("01"[int(r)] for r in relevant)
    assert rank(text, cosines).average_precision[0] == pytest.approx(np.mean(values), abs=1e-10)
    assert rank(text, cosines, ties="optimistic").average_precision[0] == pytest.approx(max(values), abs=1e-10)
    assert rank(text, cosines, ties="pessimistic").average_precision[0] == pytest.approx(min(values), abs=1e-10)


# Other libraries, on random data.


@pytest.fixture(scope="module")
def spread():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 12, 400)
    rows = generator.standard_normal((12, 24))[labels] + 1.2 * generator.standard_normal((400, 24))
    return unit(rows).astype(np.float32), labels


def test_equals_scikit_learn(spread):
    rows, labels = spread
    similarities = rows.astype(np.float64) @ rows.T.astype(np.float64)
    theirs = [
        average_precision_score(np.delete(labels == labels[q], q), np.delete(similarities[q], q))
        for q in range(len(rows))
    ]
    ours = retrieval_metrics(rows, labels)
    clear = ours.tie_span == 0
    assert clear.mean() > 0.9
    assert np.abs(ours.average_precision - theirs)[clear].max() < 1e-6
    assert ours.mean_average_precision == pytest.approx(np.mean(theirs), abs=1e-6)


def test_equals_pytorch_metric_learning(spread):
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rows, labels = spread
    names = ("mean_average_precision", "mean_average_precision_at_r", "r_precision", "precision_at_1")
    calculator = AccuracyCalculator(
        include=names, k=None, knn_func=CustomKNN(CosineSimilarity()), device=torch.device("cpu")
    )
    tensor, classes = torch.from_numpy(rows), torch.from_numpy(labels)
    theirs = calculator.get_accuracy(tensor, classes, tensor, classes, True)
    ours = retrieval_metrics(rows, labels).summary()
    for our_name, their_name in zip(("mAP", "mAP@R", "R-Precision", "Recall@1"), names, strict=True):
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-6), our_name


def test_equals_torchmetrics_once_its_scores_are_positive(spread):
    """Torchmetrics drops relevant items with scores <= 0, so cosines are shifted first."""
    import torch
    from torchmetrics.functional import retrieval as torchmetrics

    rows, labels = spread
    similarities = rows.astype(np.float64) @ rows.T.astype(np.float64)
    ours = retrieval_metrics(rows, labels, ks=(5,))
    for q in range(0, 400, 16):
        scores = torch.from_numpy(np.delete(similarities[q], q)) + 2
        relevant = torch.from_numpy(np.delete(labels == labels[q], q))
        assert ours.average_precision[q] == pytest.approx(
            float(torchmetrics.retrieval_average_precision(scores, relevant)), abs=1e-6
        )
        assert ours.recall[5][q] == float(torchmetrics.retrieval_hit_rate(scores, relevant, top_k=5))
        assert ours.r_precision[q] == pytest.approx(
            float(torchmetrics.retrieval_r_precision(scores, relevant)), abs=1e-6
        )


def test_graded_gain_equals_scikit_learn_also_with_ties():
    generator = np.random.default_rng(5)
    targets = generator.random((80, 70)) < 0.06  # two words of bits
    rows = generator.choice(np.float32([-1, 1]), (80, 16))  # cosines are multiples of 1/8: many are equal
    result = retrieval_metrics(rows, targets, graded=True)
    units = unit(rows.astype(np.float64))
    for q in np.flatnonzero(result.relevant > 0):
        others = np.flatnonzero(targets.any(1) & (np.arange(80) != q))
        shared = (targets[q] & targets[others]).sum(1)
        gains = shared / (targets[q] | targets[others]).sum(1)
        theirs = ndcg_score([gains], [units[others] @ units[q]])
        assert result.ndcg[q] == pytest.approx(theirs, abs=1e-6)


def test_graded_tie_rules_bound_the_expected_one():
    targets = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)
    rows = np.ones((5, 3), np.float32)
    ndcg = {
        ties: retrieval_metrics(rows, targets, graded=True, ties=ties).ndcg
        for ties in ("expected", "optimistic", "pessimistic")
    }
    assert np.allclose(ndcg["optimistic"], 1)
    assert (ndcg["pessimistic"] < ndcg["expected"]).all()
    assert (ndcg["expected"] < 1).all()


# Labels of every kind.


def test_multi_label_relevance_is_at_least_one_label_in_common():
    generator = np.random.default_rng(6)
    targets = generator.random((60, 90)) < 0.05
    rows = generator.standard_normal((60, 8)).astype(np.float32)
    result = retrieval_metrics(rows, targets)
    similarities = unit(rows) @ unit(rows).T
    known = np.flatnonzero(targets.any(1))
    for q in known:
        others = known[known != q]
        relevant = (targets[others] & targets[q]).any(1)
        assert result.relevant[q] == relevant.sum()
        if relevant.any():
            theirs = average_precision_score(relevant, similarities[q, others])
            assert result.average_precision[q] == pytest.approx(theirs, abs=1e-6)
    assert result.unlabeled_queries == 60 - len(known)


def test_labels_of_one_kind_or_the_other_give_the_same():
    generator = np.random.default_rng(7)
    numbers = generator.integers(-1, 5, 50)
    rows = generator.standard_normal((50, 6)).astype(np.float32)
    targets = numbers[:, None] == np.arange(5)
    as_numbers, as_bits = retrieval_metrics(rows, numbers, unknown=-1), retrieval_metrics(rows, targets)
    as_labels = retrieval_metrics(rows, Labels(list("abcde"), targets))
    for other in (as_bits, as_labels):
        np.testing.assert_array_equal(as_numbers.average_precision, other.average_precision)
        assert as_numbers.summary() == other.summary()


def test_label_columns_of_query_and_gallery_are_matched_by_name():
    queries = Labels(["cat", "dog"], np.array([[True, False]]))
    gallery = Labels(["ant", "cat"], np.array([[True, False], [False, True]]))
    result = retrieval_metrics(QUERY, queries, on_circle(0.9, 0.5), gallery)
    assert result.average_precision[0] == pytest.approx(1 / 2)


def test_singletons_are_counted_and_handled_as_asked():
    rows = np.eye(4, dtype=np.float32) + 0.1
    labels = np.array([0, 0, 1, -1])
    skipped = retrieval_metrics(rows, labels, unknown=-1)
    assert (skipped.queries, skipped.without_relevant, skipped.unlabeled_queries) == (2, 1, 1)
    assert np.isnan(skipped.average_precision[2])
    assert skipped.gallery == 3
    zero = retrieval_metrics(rows, labels, unknown=-1, without_relevant="zero")
    assert zero.average_precision[2] == 0
    assert zero.mean_average_precision == pytest.approx(2 / 3 * skipped.mean_average_precision)
    with pytest.raises(S2R2Error, match="1 queries have nothing relevant"):
        retrieval_metrics(rows, labels, unknown=-1, without_relevant="error")


def test_without_any_label_nothing_is_judged():
    result = retrieval_metrics(np.eye(3, dtype=np.float32), np.full(3, -1), unknown=-1)
    assert result.queries == 0
    assert np.isnan(result.mean_average_precision)


# Blocks, threads, memory maps.


def test_chunks_threads_and_memory_maps_change_nothing(tmp_path, spread):
    rows, labels = spread
    whole = retrieval_metrics(rows, labels, threads=1)
    path = tmp_path / "gallery.npy"
    np.save(path, rows * 4)
    mapped = np.load(path, mmap_mode="r")
    pieces = retrieval_metrics(
        rows * 2, labels, mapped, labels, exclude=np.arange(len(rows)), threads=3, memory=7 * 4 * len(rows)
    )
    np.testing.assert_allclose(pieces.average_precision, whole.average_precision, atol=1e-6)
    np.testing.assert_allclose(pieces.recall[5], whole.recall[5], atol=1e-6)


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrieval_metrics(np.ones((3, 2)), np.zeros(2, int)), "2 labels for 3 queries"),
        (lambda: retrieval_metrics(np.ones(3), np.zeros(3, int)), "must be"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.full(2, 0.5)), "neither a whole number"),
        (lambda: retrieval_metrics(np.array([[1, np.nan], [1, 1]]), np.zeros(2, int)), "row 0 .* not finite"),
        (lambda: retrieval_metrics(np.array([[1, 1], [0, 0]]), np.zeros(2, int)), "row 1 .* length 0"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), ties="fair"), "expected, optimistic"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), ks=(0,)), "1 or more"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), np.ones((2, 3)), np.zeros(2, int)), "same D"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), np.ones((2, 2))), "needs gallery_labels"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), exclude=np.zeros(2, int)), "separate gallery"),
        (lambda: retrieval_metrics(np.ones((2, 2)), np.zeros(2, int), without_relevant="drop"), "skip, zero or error"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(S2R2Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
