"""The loop that joins photos, views, encoder and loss, the methods it knows, and what a run leaves on disk."""

import importlib
from typing import TYPE_CHECKING, Any

from s2r2.training.config import TrainConfig, read_config

if TYPE_CHECKING:
    from s2r2.losses.gradient_cache import cached_backward
    from s2r2.training.judging import evaluate_run, is_run_folder
    from s2r2.training.loop import TrainingResult, train
    from s2r2.training.methods import Method, Position, register_method
    from s2r2.training.run.interrupt import Interrupted

__all__ = [
    "Interrupted",
    "Method",
    "Position",
    "TrainConfig",
    "TrainingResult",
    "cached_backward",
    "evaluate_run",
    "is_run_folder",
    "read_config",
    "register_method",
    "train",
]

# TrainConfig describes the command line, so importing it must not import torch.
_LATER = {
    "Interrupted": "s2r2.training.run.interrupt",
    "Method": "s2r2.training.methods",
    "Position": "s2r2.training.methods",
    "TrainingResult": "s2r2.training.loop",
    "cached_backward": "s2r2.losses.gradient_cache",
    "evaluate_run": "s2r2.training.judging",
    "is_run_folder": "s2r2.training.judging",
    "register_method": "s2r2.training.methods",
    "train": "s2r2.training.loop",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 's2r2.training' has no attribute {name!r}")
