"""Intervals of figures whose gallery is the queries: leaving images out exactly, and how often the truth is inside."""

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import Interval, RetrievalResult, bootstrap_interval, knn_predictions, retrieval_metrics
from s2r2.evaluation.metrics.jackknife import pseudo_values
from s2r2.evaluation.metrics.neighbors import without_voters


def rows_with_ties(generator: np.random.Generator, count: int) -> np.ndarray:
    rows = generator.integers(-1, 2, (count, 2)).astype(np.float32)
    rows[~rows.any(1)] = 1
    return rows


GENERATOR = np.random.default_rng(0)
PLAIN, TIED = GENERATOR.normal(size=(40, 3)), rows_with_ties(GENERATOR, 40)
CLASSES, SEVERAL = GENERATOR.integers(0, 6, 40), GENERATOR.random((40, 5)) < 0.25
PARTLY = np.where(np.arange(40) < 5, -1, CLASSES)
PARTLY[5] = 77  # the only one of its class


@pytest.mark.parametrize(
    ("rows", "labels", "options"),
    [
        (PLAIN, CLASSES, {"ks": (1, 2, 5)}),
        (TIED, CLASSES, {"ks": (1, 2, 30)}),
        (PLAIN, np.arange(40) // 2, {"ks": (1, 2)}),
        (TIED, PARTLY, {"unknown": -1}),
        (TIED, PARTLY, {"unknown": -1, "without_relevant": "zero"}),
        (PLAIN, SEVERAL, {"graded": True}),
        (TIED, SEVERAL, {"graded": True}),
    ],
)
def test_each_image_is_left_out_exactly(rows: np.ndarray, labels: np.ndarray, options: dict[str, object]) -> None:
    """Against a loop that ranks the other images anew."""
    found = retrieval_metrics(rows, labels, leave_out="images", **options)
    plain = retrieval_metrics(rows, labels, **options)
    known = np.flatnonzero(labels.any(1) if labels.ndim == 2 else labels >= 0)
    assert set(found.pseudo_values) == {name for name in plain.summary() if name[:3] in ("mAP", "R-P", "Rec", "nDC")}
    whole, changes = by_query(plain), {name: np.zeros((len(rows), len(rows))) for name in found.pseudo_values}
    for image in known:
        rest = np.delete(np.arange(len(rows)), image)
        for name, values in by_query(retrieval_metrics(rows[rest], labels[rest], **options)).items():
            changes[name][rest, image] = values - whole[name][rest]
    same = labels[:, None] == labels if labels.ndim == 1 else labels.astype(int) @ labels.T > 0
    lost = (plain.relevant == 1)[:, None] & same  # queries by the image that is all they could find
    np.fill_diagonal(lost, False)
    dropped = lost.sum(0) * (options.get("without_relevant") != "zero")
    for name, values in found.pseudo_values.items():
        sums = np.where(lost, -whole[name][:, None], np.nan_to_num(changes[name])).sum(0)
        squares = np.square(np.where(lost, 0, np.nan_to_num(changes[name]))).sum()
        expected = pseudo_values(whole[name][known], sums[known], float(squares), dropped[known])
        np.testing.assert_allclose(values[known], expected, atol=1e-10)
        assert np.nanmean(values) == pytest.approx(plain.summary()[name], abs=1e-12)
        assert np.isnan(np.delete(values, known)).all()


def by_query(result: RetrievalResult) -> dict[str, np.ndarray]:
    """Figures of each query by their names."""
    graded = {} if result.ndcg is None else {"nDCG": result.ndcg}
    return {
        "mAP": result.average_precision,
        "mAP@R": result.average_precision_at_r,
        "R-Precision": result.r_precision,
        **graded,
        **{f"Recall@{k}": hits for k, hits in result.recall.items()},
    }


def test_pseudo_values_are_tukeys() -> None:
    values, changes = GENERATOR.random(20), GENERATOR.normal(size=20)
    without = (values.sum() - values + changes) / 19
    expected = values.mean() + 19 * (without.mean() - without)
    np.testing.assert_allclose(pseudo_values(values, changes), expected)
    spread = pseudo_values(np.zeros(20), changes, 0.5 * np.square(changes - changes.mean()).sum()).var()
    assert spread == pytest.approx(0.5 * pseudo_values(np.zeros(20), changes).var())


def test_each_voter_is_left_out_as_if_it_had_not_been_there() -> None:
    rows, labels, right = PLAIN, CLASSES, np.zeros((40, 40))
    for image in range(40):
        rest = np.delete(np.arange(40), image)
        right[rest, image] = knn_predictions(rows[rest], labels[rest], k=4) == labels[rest]
    now = (knn_predictions(rows, labels, k=4) == labels)[:, None] * (1 - np.eye(40))
    changes, squares = without_voters(rows, labels, k=4)
    np.testing.assert_array_equal(changes, (right - now).sum(0))
    assert squares == np.square(right - now).sum() > 0


def test_without_a_query_there_are_no_pseudo_values() -> None:
    assert np.isnan(retrieval_metrics(PLAIN, np.arange(40), leave_out="images").pseudo_values["mAP"]).all()
    few = pseudo_values(np.array([1.0, 0.5, np.nan]), np.zeros(3), lost=np.array([1.0, 1.0, 0.0]))
    assert few == pytest.approx([0.75, 0.75, 0.75])


def test_leaving_out_what_cannot_be_is_refused() -> None:
    with pytest.raises(S2R2Error, match="give no gallery"):
        retrieval_metrics(PLAIN, CLASSES, PLAIN, CLASSES, leave_out="images")
    with pytest.raises(S2R2Error, match="expected"):
        retrieval_metrics(PLAIN, CLASSES, leave_out="images", ties="optimistic")
    with pytest.raises(S2R2Error, match="use nothing, images or groups"):
        retrieval_metrics(PLAIN, CLASSES, leave_out="photos")  # type: ignore[arg-type]
    with pytest.raises(S2R2Error, match="one label"):
        retrieval_metrics(PLAIN, SEVERAL, leave_out="groups")


class Population:
    """Photos of some classes, seen by two encoders that have much in common."""

    def __init__(self, classes: int, noise: float, seed: int = 0, common: bool = False) -> None:
        self.generator = np.random.default_rng(seed)
        self.centers = self.generator.normal(size=(classes, 8))
        first = self.generator.normal(size=(8, 8))
        self.encoders = (first, first + 0.5 * self.generator.normal(size=(8, 8)))
        weights = 1 / np.arange(1, classes + 1) if common else np.ones(classes)
        self.shares, self.noise = weights / weights.sum(), noise

    def sample(self, images: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Embeddings by both encoders, and classes."""
        labels = self.generator.choice(len(self.shares), images, p=self.shares)
        clarity = self.noise * self.generator.uniform(0.5, 2, (images, 1))
        photos = self.centers[labels] + clarity * self.generator.normal(size=(images, 8))
        return [photos @ encoder for encoder in self.encoders], labels


def coverage(population: Population, images: int, repeats: int, name: str = "mAP") -> dict[str, float]:
    """How often the intervals of an encoder's figure and of two encoders' difference hold the mean of all repeats."""
    found: dict[str, list[Interval]] = {"figure": [], "difference": [], "queries alone": []}
    for _ in range(repeats):
        embeddings, labels = population.sample(images)
        first, second = (retrieval_metrics(z, labels, ks=(1,), leave_out="images", threads=1) for z in embeddings)
        gap = first.pseudo_values[name] - second.pseudo_values[name]
        found["figure"].append(bootstrap_interval(first.pseudo_values[name]))
        found["difference"].append(bootstrap_interval(gap))
        found["queries alone"].append(bootstrap_interval(first.average_precision - second.average_precision))
    out = {}
    for kind, intervals in found.items():
        truth = np.mean([interval.value for interval in intervals])
        out[kind] = float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))
    return out


def test_intervals_cover_where_resampled_queries_alone_do_not() -> None:
    found = coverage(Population(5, 1.0), 150, 100)
    assert found["difference"] >= 0.9
    assert found["queries alone"] <= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("population", [Population(5, 1.0), Population(10, 1.0, common=True)])
def test_nominal_95_per_cent_of_differences_of_map_cover_93_to_97(population: Population) -> None:
    """Of 1,500 simulated studies; chance alone moves the share by 0.6 %."""
    found = coverage(population, 250, 1500)
    assert 0.93 <= found["difference"] <= 0.97, found
    assert found["queries alone"] <= 0.85, found
