"""Methods side by side: same images, encoder and encoded pixels; tuned alike; several seeds; intervals."""

from s2r2.study.comparing import compare
from s2r2.study.results import Comparison, Results
from s2r2.study.slurm import Slurm
from s2r2.study.spec import DataSpec, Study, TaskSpec, TuningSpec, read_study
from s2r2.study.statistics import Estimate, difference, figure

__all__ = [
    "Comparison",
    "DataSpec",
    "Estimate",
    "Results",
    "Slurm",
    "Study",
    "TaskSpec",
    "TuningSpec",
    "compare",
    "difference",
    "figure",
    "read_study",
]
