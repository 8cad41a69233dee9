"""The loop that joins photos, views, encoder and loss, the methods it knows, and what a run leaves on disk."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.losses import cached_backward as cached_backward
    from s2r2.system.lazy_imports import lazy_imports as lazy_imports
    from s2r2.training.config import TrainConfig as TrainConfig, read_config as read_config
    from s2r2.training.loop import TrainingResult as TrainingResult, train as train
    from s2r2.training.methods import Method as Method, Position as Position, register_method as register_method
    from s2r2.training.run.interrupt import Interrupted as Interrupted
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
