"""Self-supervised image representation learning by ranking (S2R2, arXiv 2010.07258).

Train an encoder on unlabeled photos, then search them:

    import s2r2
    s2r2.train("photos/", s2r2.TrainConfig(epochs=50), out="runs/mine")
    encoder = s2r2.load("runs/mine")
    vectors = encoder.embed(["a.jpg", "b.jpg"])          # (2, F) float32, rows of length 1
    loss = s2r2.losses.SmoothAPLoss(temperature=0.05)    # the ranking loss alone
"""

from typing import TYPE_CHECKING

from s2r2._version import __version__ as __version__
from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2 import (
        encoder as encoder,
        evaluation as evaluation,
        images as images,
        losses as losses,
        ray as ray,
        search as search,
        study as study,
        training as training,
        views as views,
    )
    from s2r2.encoder import Encoder as Encoder, load as load
    from s2r2.errors import S2R2Error as S2R2Error
    from s2r2.images import open_source as open_source
    from s2r2.search import ImageIndex as ImageIndex
    from s2r2.training import TrainConfig as TrainConfig, train as train
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
