"""The online check: every few epochs, on a small fixed set, does a view find its image and an image its class?"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from s2r2.encoder import Encoder
from s2r2.evaluation import embed_views, health, held_out_views, knn_accuracy, retrieval_metrics
from s2r2.evaluation.metrics.vectors import without_direction

if TYPE_CHECKING:
    from s2r2.training.setup.plan import Preparation

VIEW_IMAGES = 128
VIEWS = 8
KNN_IMAGES = 1024
BATCH = 64
LEAST_KNN_IMAGES = 8


class OnlineCheck:
    """Average precision of views that training never draws and, where images have one label each, kNN accuracy.

    Eight full-size views of up to 128 images, whatever the method trains on. For kNN up to 1,024 labeled images are
    taken evenly; each is classified by the others. Labels are looked at here only: nothing of the check flows into
    training.

    Attributes:
        warning: One line when the last check found the embeddings collapsed or without direction, else empty.
    """

    def __init__(self, prepared: "Preparation") -> None:
        config, self.store = prepared.config, prepared.store
        self.warning = ""
        self._views = held_out_views(
            self.store, prepared.recipe, view_size=config.image_size, images=VIEW_IMAGES, views=VIEWS
        )
        self._knn_images = np.empty(0, np.int64)
        self._knn_labels = np.empty(0, np.int64)
        labels = self.store.labels
        if labels is not None and labels.one_each:
            chosen = labels.some(KNN_IMAGES)
            single = labels.subset(chosen).single
            if single is not None and len(chosen) >= LEAST_KNN_IMAGES and len(np.unique(single)) > 1:
                self._knn_images, self._knn_labels = chosen, single

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Figures of the encoder as it is now; its training mode is left as it was.

        ``effective_rank``, ``uniformity`` and ``alignment`` are of the views' embeddings.
        """
        rows, groups = embed_views(encoder, self._views), self._views.groups
        lost = without_direction(rows)
        if lost.any():
            self.warning = (
                f"{lost.sum()} of {len(rows)} held-out views have an embedding of length 0, so there are no figures of "
                "views: the head's hidden units are dead; a larger `head_hidden` or a smaller `lr` keeps some alive"
            )
            return self._knn(encoder)
        state = health(rows[:: max(1, int((groups == groups[0]).sum()))], view_embeddings=rows, view_groups=groups)
        self.warning = state.warning
        return {
            "view_ap": retrieval_metrics(rows, groups).mean_average_precision,
            "effective_rank": state.effective_rank,
            "uniformity": state.uniformity,
            "alignment": float(state.alignment or 0.0),
            **self._knn(encoder),
        }

    def _knn(self, encoder: Encoder) -> dict[str, float]:
        """Accuracy among the labeled images that can be read and whose features have a direction."""
        if not len(self._knn_images):
            return {}
        features, there = self._features(encoder)
        placed = ~without_direction(features)
        if placed.sum() < LEAST_KNN_IMAGES:
            return {}
        return {"knn": knn_accuracy(features[placed], self._knn_labels[there][placed])}

    def _features(self, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
        """Features of those images for kNN that can be read, and which of them these are; few are held at a time."""
        features, there = [], np.zeros(len(self._knn_images), bool)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(there), BATCH):
                read = list(pool.map(self.store.__getitem__, self._knn_images[first : first + BATCH].tolist()))
                there[first : first + BATCH] = [image is not None for image in read]
                features.append(encoder.embed([image for image in read if image is not None]))
        return np.concatenate(features), there

    @staticmethod
    def describe(figures: dict[str, float]) -> str:
        """One line for people."""
        names = {"view_ap": "AP of held-out views", "knn": "kNN accuracy"}
        shown = [f"{name} {figures[key]:.3f}" for key, name in names.items() if key in figures]
        rank = [f"effective rank {figures['effective_rank']:.1f}"] if "effective_rank" in figures else []
        return ", ".join([*shown, *rank]) or "no figures"
