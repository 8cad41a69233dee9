"""Views as features: a frozen backbone embeds each view once, and a head is trained on what it gave."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError
from s2r2.system.progress import ProgressLine
from s2r2.training.setup.cost import free_memory
from s2r2.views import ViewBatch, ViewLoader
from s2r2.views.orders import choose_order

SHARE = 0.4
"""Of the free memory, what the features of all views may take."""


class FeatureLoader:
    """Steps of views like those of a :class:`ViewLoader`, with features in place of pixels.

    Every epoch has the same views of an image, those of epoch 0, with other images in its steps. Features are kept in
    memory as float16, with rows of length 1.

    Args:
        views: Gives the views of all images once.
        encoder: Whose frozen backbone embeds them.
        batch_size: Images in a step.
        quiet: Show no progress.

    Raises:
        S2R2Error: The features would fill the memory.

    Attributes:
        wait_seconds: Always 0.
    """

    wait_seconds = 0.0

    def __init__(self, views: ViewLoader, encoder: Encoder, batch_size: int, *, quiet: bool) -> None:
        self._device, self._seed, self._batch_size = encoder.device, views.seed, batch_size
        self._groups, self._shuffle = views.groups, views.shuffle
        count = len(views.images)
        refuse_too_many(count, views.views, encoder.dimensions("feature"))
        self._there = np.zeros(count, bool)
        self._features: list[Tensor] = []
        encoder.eval()
        with views, torch.no_grad(), ProgressLine("embedding", count, visible=not quiet) as line:
            for batch in views.epoch(0):
                self._keep(batch, encoder.backbone)
                line.advance(len(batch.images))

    def _keep(self, batch: ViewBatch, backbone: torch.nn.Module) -> None:
        """Embed the views of some images."""
        for kind, pixels in enumerate(batch.pixels):
            rows = F.normalize(backbone(pixels).float(), dim=1).half().cpu()
            rows = rows.reshape(len(batch.images), -1, rows.shape[1])
            if kind == len(self._features):
                self._features.append(torch.zeros(len(self._there), *rows.shape[1:], dtype=torch.float16))
            self._features[kind][torch.from_numpy(batch.images)] = rows
        self._there[batch.images] = True

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ViewBatch]:
        """The steps of an epoch, from ``start_step`` on; what does not fill a step is left out."""
        order = choose_order(
            len(self._there), self._seed, epoch, self._batch_size, shuffle=self._shuffle, groups=self._groups
        )
        for step in range(start_step, len(order) // self._batch_size):
            chosen = order[step * self._batch_size : (step + 1) * self._batch_size]
            there = self._there[chosen]
            images, groups = chosen[there], torch.from_numpy(np.flatnonzero(there))
            if self._groups is not None:
                groups = torch.cat([groups[:, None], torch.from_numpy(self._groups[images])], dim=1)
            parts = [part[torch.from_numpy(images)] for part in self._features]
            yield ViewBatch(
                tuple(part.flatten(0, 1).to(self._device).float() for part in parts),
                tuple(groups.repeat_interleave(part.shape[1], dim=0) for part in parts),
                images,
                epoch,
                step,
            )

    def __enter__(self) -> "FeatureLoader":
        return self

    def __exit__(self, *details: object) -> None:
        pass


def refuse_too_many(images: int, views: int, width: int) -> None:
    """Refuse features that would fill the memory.

    Raises:
        S2R2Error: They need more than a part of what is free.
    """
    needed, most = 2 * images * views * width, SHARE * free_memory(torch.device("cpu"))
    if needed > most:
        fitting = max(2, int(views * most / needed))
        raise ArgumentError(
            f"`adapt='head'` keeps the features of all views in memory: {views} views of {images:,} photos take "
            f"{needed / 2**30:.1f} GiB, more than the {most / 2**30:.1f} GiB that it may use here; use "
            f"`views={fitting}`, a part of the photos, or `adapt='last-blocks'`"
        )
