"""Retrieval: each test image in turn is the query, and all others are ranked by similarity."""

import numpy as np

from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.evaluation.protocols.base import Basis, Need, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import UNKNOWN, Outcome, Task


@register_protocol
class Retrieval(Protocol):
    """Figures of the rankings of the test images."""

    name = "retrieval"
    summary = "each test image is a query: mAP, mAP@R, R-Precision, Recall@k; nDCG where images have several labels"
    needs = (Need.LABELS,)
    usual = True
    basis = Basis.RANKING
    place = 10

    def columns(self, task: Task) -> dict[str, Column]:
        """The figures of rankings."""
        same = "has a label in common with it" if task.several else "is of its class"
        columns = {
            "map": Column(
                "mAP",
                f"Retrieval. Each test image in turn is the query and all others are ranked by similarity; AP is high "
                f"when every image that {same} comes before the others. The mean over all queries.",
            ),
            "map@r": Column(
                "mAP@R",
                "The same, looking only at the first R places, R being the number of images to be found.",
                main=False,
            ),
            "r-precision": Column("R-Prec.", "Share of right images among those first R places.", main=False),
        }
        if task.several:
            columns["ndcg"] = Column(
                "nDCG",
                "Graded retrieval: an image counts by the overlap of its labels with the query's (shared labels "
                "divided by all labels of the two). 100 when the ranking follows that overlap.",
            )
        for k in task.ks:
            first = "the first image found" if k == 1 else f"at least one of the first {k} found"
            columns[f"recall@{k}"] = Column(f"R@{k}", f"Share of queries for which {first} is a right one.")
        return columns

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Figures of the rankings, NaN for an image that is no query; mAP notes how many images could be found."""
        result = retrieval_metrics(
            space.test, task.test, unknown=UNKNOWN, ks=task.ks, graded=task.several, leave_out="images"
        )
        wrong = (result.gallery - 1 - result.relevant)[np.isfinite(result.average_precision)]
        counts = result.summary()
        names = ("queries", "without_relevant", "unlabeled_queries", "tie_span")
        details = {**{name: counts[name] for name in names}, "most_wrong": int(wrong.max(initial=0))}
        resampled = result.pseudo_values
        outcomes = {
            "map": Outcome(result.average_precision, None, details, resampled["mAP"]),
            "map@r": Outcome(result.average_precision_at_r, None, None, resampled["mAP@R"]),
            "r-precision": Outcome(result.r_precision, None, None, resampled["R-Precision"]),
        }
        if result.ndcg is not None:
            outcomes["ndcg"] = Outcome(result.ndcg, None, None, resampled["nDCG"])
        hits = {
            f"recall@{k}": Outcome(found, None, None, resampled[f"Recall@{k}"]) for k, found in result.recall.items()
        }
        return outcomes | hits

    def compared(self, task: Task) -> dict[str, str]:
        """The mean average precision."""
        return {"map": "map"}
