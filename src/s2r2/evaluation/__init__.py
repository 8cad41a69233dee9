"""Embeddings to figures: retrieval, nearest neighbors, probes, S2R2's own task, health, and the report."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.evaluation.evaluating import evaluate as evaluate
    from s2r2.evaluation.metrics.bootstrap import (
        Interval as Interval,
        bootstrap_interval as bootstrap_interval,
        mean_average_precision_interval as mean_average_precision_interval,
    )
    from s2r2.evaluation.metrics.health import (
        Duplicate as Duplicate,
        Health as Health,
        alignment as alignment,
        duplicates as duplicates,
        effective_rank as effective_rank,
        health as health,
        uniformity as uniformity,
    )
    from s2r2.evaluation.metrics.neighbors import (
        knn_accuracy as knn_accuracy,
        knn_predictions as knn_predictions,
        knn_scores as knn_scores,
        nearest as nearest,
    )
    from s2r2.evaluation.metrics.retrieval import (
        RetrievalResult as RetrievalResult,
        retrieval_metrics as retrieval_metrics,
    )
    from s2r2.evaluation.protocols.base import Caution as Caution, Need as Need, Protocol as Protocol, Space as Space
    from s2r2.evaluation.protocols.fine_tuning import FineTuningPlan as FineTuningPlan, fine_tune as fine_tune
    from s2r2.evaluation.protocols.held_out_views import (
        HeldOutViews as HeldOutViews,
        embed_views as embed_views,
        held_out_views as held_out_views,
        rank_views as rank_views,
        view_average_precision as view_average_precision,
        view_retrieval as view_retrieval,
    )
    from s2r2.evaluation.protocols.linear_probe import LinearProbe as LinearProbe, fit_linear_probe as fit_linear_probe
    from s2r2.evaluation.protocols.low_shot import (
        LowShot as LowShot,
        low_shot as low_shot,
        probe_subsets as probe_subsets,
    )
    from s2r2.evaluation.protocols.register import (
        describe_protocols as describe_protocols,
        register_protocol as register_protocol,
    )
    from s2r2.evaluation.protocols.voc07 import Voc07 as Voc07, voc07_svm as voc07_svm
    from s2r2.evaluation.report import write_report as write_report
    from s2r2.evaluation.result import Column as Column, Evaluation as Evaluation, Row as Row, RowKind as RowKind
    from s2r2.evaluation.run_evaluation import evaluate_run as evaluate_run
    from s2r2.evaluation.task import Outcome as Outcome, Task as Task
    from s2r2.system.lazy_imports import lazy_imports as lazy_imports
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
