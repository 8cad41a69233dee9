"""What turns a step's embeddings into a loss: S2R2, SimCLR, SwAV, or a method of one's own.

All methods share images, views, encoder, loop, optimizers, checkpoints and evaluation; a method is the objective,
its defaults, and what it does at each step.
"""

from s2r2.training.methods.base import Method, Position, loss_of, statistics_of
from s2r2.training.methods.registry import (
    METHODS,
    build_method,
    describe_methods,
    find_method,
    register_method,
    resolve,
)
from s2r2.training.methods.s2r2 import S2R2
from s2r2.training.methods.simclr import SimCLR
from s2r2.training.methods.swav import SwAV

__all__ = [
    "METHODS",
    "S2R2",
    "Method",
    "Position",
    "SimCLR",
    "SwAV",
    "build_method",
    "describe_methods",
    "find_method",
    "loss_of",
    "register_method",
    "resolve",
    "statistics_of",
]
