"""Embeddings to a number.

The objective of S2R2, average precision, is in :mod:`s2r2.losses.average_precision` beside its formula. Other
losses made of ranks have the same call: ``RankingLoss("sup-ap")(embeddings, groups)``; so have those of SimCLR, SwAV,
MMCR and MV-DHEL: ``NTXentLoss(0.1)``, ``SwAVLoss(128, 100)``, ``SpreadLoss()``, ``MVDHELLoss(0.2)``. With any of them
:func:`cached_backward` trains on batches larger than memory. Importing this takes no more than PyTorch does.
"""

from s2r2.losses.average_precision import SmoothAPLoss, smooth_ap_definition, smooth_average_precision_loss
from s2r2.losses.contrastive import FORMS, NTXentLoss
from s2r2.losses.decoupled import MVDHELLoss
from s2r2.losses.graded import GRADED, GradedRankingLoss
from s2r2.losses.gradient_cache import CachedStep, cached_backward
from s2r2.losses.memory_bank import MemoryBank
from s2r2.losses.ranking import RankingLoss, ranking_loss
from s2r2.losses.spread import SpreadLoss
from s2r2.losses.statistics import ranking_statistics
from s2r2.losses.surrogates import SURROGATES, QuantisedAP, RecallAtK, SmoothAP, SmoothNDCG, SupAP
from s2r2.losses.swav import SwAVLoss, sinkhorn

__all__ = [
    "FORMS",
    "GRADED",
    "SURROGATES",
    "CachedStep",
    "GradedRankingLoss",
    "MVDHELLoss",
    "MemoryBank",
    "NTXentLoss",
    "QuantisedAP",
    "RankingLoss",
    "RecallAtK",
    "SmoothAP",
    "SmoothAPLoss",
    "SmoothNDCG",
    "SpreadLoss",
    "SupAP",
    "SwAVLoss",
    "cached_backward",
    "ranking_loss",
    "ranking_statistics",
    "sinkhorn",
    "smooth_ap_definition",
    "smooth_average_precision_loss",
]
