"""Views to embeddings: a timm backbone, a projection head, and what is needed to save and load both."""

from s2r2.system.quick_imports import collection_paused

with collection_paused():  # torch and timm take seconds
    from s2r2.encoder.exporting import Exported, export
    from s2r2.encoder.images import store_side
    from s2r2.encoder.loading import load
    from s2r2.encoder.model import Encoder, create_encoder

__all__ = ["Encoder", "Exported", "create_encoder", "export", "load", "store_side"]
