"""The register of protocols: one new file is enough to add one."""

from pathlib import Path

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import Column, Need, Protocol, describe_protocols, evaluate, register_protocol
from s2r2.evaluation.protocols import register

NEAREST_MEAN = '''
"""The class whose mean is nearest."""

import numpy as np
from s2r2.evaluation import Column, Protocol


class NearestMean(Protocol):
    name = "nearest-mean"
    summary = "the class whose mean is nearest"

    def columns(self, task):
        return {"nearest-mean": Column("mean", "Share of images that lie nearest to the mean of their own class.")}

    def evaluate(self, space, task):
        rows, labels = space.training(task)
        means = np.stack([rows[labels == number].mean(0) for number in range(len(task.names))])
        distances = ((space.testing(task)[0][:, None] - means) ** 2).sum(-1)
        return {"nearest-mean": task.outcome(-distances)}
'''


def oracle(store):
    """An "encoder" that knows the labels."""
    return store.labels.targets + 0.01


def test_a_file_is_a_protocol(stores, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NEAREST_MEAN)
    evaluation = evaluate({"oracle": oracle}, *stores, draws=20, protocols=[str(file)])
    assert evaluation.columns["nearest-mean"].title == "mean"
    assert evaluation.row("oracle").figures["nearest-mean"].value == 1
    assert 0.25 < evaluation.rows[0].figures["nearest-mean"].value < 1
    assert list(evaluation.columns)[-1] == "nearest-mean"


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, "there is no such file"), ("1 / 0", "does not run: ZeroDivisionError"), ("x = 1", "has 0 subclasses")],
)
def test_a_file_that_is_none_is_one_line(stores, tmp_path: Path, code: str | None, words: str) -> None:
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(S2R2Error, match=words) as error:
        evaluate({"oracle": oracle}, *stores, protocols=[str(file)])
    assert "\n" not in str(error.value)


def test_a_registered_protocol_is_known_by_its_name(stores, unlabeled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "_REGISTERED", dict(register._REGISTERED))

    @register_protocol
    class FirstLabel(Protocol):
        name = "first-label"
        summary = "always says the first label"
        needs = (Need.LABELS,)

        def columns(self, task):
            return {"first": Column("first", "Share of images that have the first label of all.")}

        def evaluate(self, space, task):
            return {"first": task.outcome(np.eye(len(task.names))[np.zeros(task.test_labeled.sum(), int)])}

    assert any(line.startswith("first-label") for line in describe_protocols().splitlines())
    evaluation = evaluate({"oracle": oracle}, None, stores[1], draws=20, protocols=["first-label"])
    assert evaluation.row("oracle").figures["first"].value == 0.25
    with pytest.raises(S2R2Error, match="low-shot, folds, svm, fine-tuning, first-label"):
        evaluate({"oracle": oracle}, *stores, protocols=["last-label"])
    with pytest.raises(S2R2Error, match="first-label needs labels of test images"):
        evaluate({"oracle": oracle}, None, unlabeled, protocols=["first-label"])


def test_a_usual_protocol_that_is_asked_for_by_name_is_run_once_or_refused(stores) -> None:
    evaluation = evaluate({}, *stores, draws=20, protocols=["knn"])
    assert sum(name.startswith("knn@") for name in evaluation.columns) == 1  # a tenth of 60 images, for 20 and 200
    with pytest.raises(S2R2Error, match="linear needs labels of training images"):
        evaluate({}, None, stores[1], protocols=["linear"])
