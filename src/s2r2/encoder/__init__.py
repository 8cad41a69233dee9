"""Views to embeddings: a timm backbone, a projection head, and what is needed to save and load both."""

from s2r2.encoder.loading import load
from s2r2.encoder.model import Encoder, create_encoder, store_side

__all__ = ["Encoder", "create_encoder", "load", "store_side"]
