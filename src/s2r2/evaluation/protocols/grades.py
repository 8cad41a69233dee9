"""Grades: photos of one burst, place, folder or sequence should be found first, the closest before the others."""

import numpy as np

from s2r2.evaluation.metrics.graded_ndcg import graded_ndcg
from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.evaluation.protocols.base import Basis, Need, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task


@register_protocol
class Grades(Protocol):
    """Figures of the rankings of test images by what the photos know of each other; no labels are needed."""

    name = "grades"
    summary = "where grades are given, each test image is a query for those of its burst, place, ...: nDCG, mAP of each"
    needs = (Need.GRADES,)
    usual = True
    basis = Basis.RANKING
    place = 12

    def columns(self, task: Task) -> dict[str, Column]:
        """nDCG, and a column for each grade."""
        listed = ", ".join(task.grades)
        columns = {
            "graded_ndcg": Column(
                "nDCG of grades",
                f"Each test image ranks all others; the gain of one is the number of grades ({listed}) at which the "
                "two belong together. 100 when they come in the order of these gains.",
            )
        }
        for grade in task.grades:
            columns[f"map {grade}"] = Column(
                f"mAP {grade}", f"The same ranking, where right is what belongs to the image's group of {grade}."
            )
        return columns

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Figures image by image, NaN for one that is alone."""
        assert task.groups is not None
        ranking = graded_ndcg(space.test, task.groups)
        outcomes = {"graded_ndcg": Outcome(ranking.ndcg, pseudo_values=ranking.pseudo_values)}
        for grade, column in zip(task.grades, np.ascontiguousarray(task.groups.T), strict=True):
            result = retrieval_metrics(space.test, column, leave_out="images")
            outcomes[f"map {grade}"] = Outcome(result.average_precision, pseudo_values=result.pseudo_values["mAP"])
        return outcomes
