"""Self-supervised image representation learning by ranking (S2R2, arXiv 2010.07258).

Train an encoder on unlabelled photos, then search them:

    import s2r2
    s2r2.train("photos/", s2r2.TrainConfig(epochs=50), out="runs/mine")
    encoder = s2r2.load("runs/mine")
    vectors = encoder.embed(["a.jpg", "b.jpg"])          # (2, F) float32, rows of length 1
    loss = s2r2.losses.SmoothAPLoss(temperature=0.05)    # the ranking loss alone
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2r2 import encoder, evaluation, images, losses, search, study, training, views
    from s2r2.encoder import Encoder, load
    from s2r2.errors import S2R2Error
    from s2r2.images import open_source
    from s2r2.search import ImageIndex
    from s2r2.training import TrainConfig, train

__version__ = "0.1.0"

__all__ = [
    "Encoder",
    "ImageIndex",
    "S2R2Error",
    "TrainConfig",
    "encoder",
    "evaluation",
    "images",
    "load",
    "losses",
    "open_source",
    "search",
    "study",
    "train",
    "training",
    "views",
]

# Rooms are imported when first used: torch alone takes seconds, and `s2r2 --help` needs none of it.
_ROOMS = {"encoder", "evaluation", "images", "losses", "search", "study", "training", "views"}
_NAMES = {
    "Encoder": "s2r2.encoder",
    "ImageIndex": "s2r2.search",
    "S2R2Error": "s2r2.errors",
    "TrainConfig": "s2r2.training",
    "load": "s2r2.encoder",
    "open_source": "s2r2.images",
    "train": "s2r2.training",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"s2r2.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 's2r2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
