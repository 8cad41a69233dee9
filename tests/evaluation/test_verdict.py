"""The sentence that says whether an adapted encoder is better than its start."""

import numpy as np
import pytest

from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.evaluation.report.rankings import Shown
from s2r2.evaluation.result import Column, Evaluation, Row
from s2r2.evaluation.task import Outcome, Task
from s2r2.evaluation.verdict import agreement, paired_difference, verdict
from s2r2.system.console import PlainConsole

COLUMNS = {"map": Column("mAP", ""), "knn@5": Column("kNN 5", "")}
LABELED = Task(["a", "b"], None, np.zeros(200, np.int64))


def shown(name: str, precision: np.ndarray, right: np.ndarray, seed: int = 0) -> Shown:
    vectors = np.random.default_rng(seed).normal(size=(200, 8)).astype(np.float32)
    return Shown(Row(name, "feature", 8), vectors, {"map": Outcome(precision), "knn@5": Outcome(right)})


@pytest.fixture
def values() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.uniform(0.2, 0.8, 200), generator.integers(0, 2, 200).astype(float)


def test_better_worse_and_level(values: tuple[np.ndarray, np.ndarray]) -> None:
    precision, right = values
    start = shown("timm:x", precision, right)
    better = verdict(shown("trained", precision + 0.01, right), start, LABELED, COLUMNS)
    assert better.startswith(
        "On these images the adapted encoder is better than timm:x: mAP +1.0 [+1.0, +1.0], kNN 5 +0.0"
    )
    assert "of 10 nearest images 100 % are the same" in better
    worse = verdict(shown("trained", precision + 0.01, right - 0.1), start, LABELED, COLUMNS)
    assert "is worse than timm:x" in worse
    assert worse.endswith("It is better to use timm:x as it is.")
    noise = np.random.default_rng(2).normal(0, 0.1, 200)
    assert "is level with timm:x" in verdict(
        shown("trained", precision + noise - noise.mean(), right), start, LABELED, COLUMNS
    )


def test_without_labels_views_are_compared_and_it_is_said(values: tuple[np.ndarray, np.ndarray]) -> None:
    unlabeled = Task([], None, np.full(200, -1))
    one, other = (
        Shown(Row(name, "feature", 8), np.eye(200, 8, dtype=np.float32) + 0.1, {"view_ap": Outcome(values[0] + gain)})
        for name, gain in (("trained", 0.02), ("timm:x", 0))
    )
    said = verdict(one, other, unlabeled, {"view_ap": Column("view AP", "")})
    assert "better than timm:x: view AP +2.0" in said
    assert said.endswith("which training aims at.")


def test_without_labels_grades_are_compared_too(values: tuple[np.ndarray, np.ndarray]) -> None:
    task = Task([], None, np.full(200, -1), grades=("folder",), groups=np.zeros((200, 1), np.int64))
    one, other = (
        Shown(
            Row(name, "feature", 8),
            np.eye(200, 8, dtype=np.float32) + 0.1,
            {"view_ap": Outcome(values[0] + gain), "graded_ndcg": Outcome(values[0] - gain)},
        )
        for name, gain in (("trained", 0.02), ("timm:x", 0))
    )
    said = verdict(one, other, task, {"view_ap": Column("view AP", ""), "graded_ndcg": Column("nDCG of grades", "")})
    assert "worse than timm:x: view AP +2.0" in said
    assert "nDCG of grades -2.0" in said


def test_pairs_are_narrower_than_their_parts(values: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = Outcome(values[0] + 0.01), Outcome(values[0])
    assert paired_difference(first, second, LABELED).half_width < 1e-9 < first.interval().half_width


def test_agreement_of_neighbors() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(100, 6)).astype(np.float32)
    assert agreement(vectors, 2 * vectors) == 1
    assert agreement(vectors, generator.normal(size=(100, 6)).astype(np.float32)) < 0.3


def test_the_sentence_is_printed_first_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("trained", "feature", 8, {"map": Interval(0.5, 0.4, 0.6, 9)})
    found = Evaluation({"verdict": "It is level."}, COLUMNS, [row], ["It is level.", "Another note."])
    found.print(PlainConsole())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "It is level."
    assert sum("It is level." in line for line in lines) == 1
