"""Steps of views for training, prepared by threads while the encoder works on the step before."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.prefetch import in_order
from s2r2.views.orders import Order, Shuffle, choose_order, usual_shuffle
from s2r2.views.parameters import draw_parameters
from s2r2.views.pinned import PinnedBuffers
from s2r2.views.recipe import Recipe, view_sizes
from s2r2.views.rendering import Backend, choose_backend, render_views

_FEWEST, _MOST = 8, 32
"""Images in a task. A task costs some Python, which holds up the thread that starts a GPU's kernels: the fewer the
better, as long as every thread has one."""


class Ids(Protocol):
    """Stable 64-bit ids of images, by their numbers: an array, or what computes them when they are asked for."""

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray: ...


class Images(Protocol):
    """What the loader reads: a ``PixelStore``, ``DirectImages``, or anything that gives pixels and stable ids.

    An image is ``(H, W, 3)`` uint8, or None where it cannot be read: it is left out of its step.
    """

    @property
    def image_ids(self) -> Ids: ...  # noqa: D102 (said by the class)

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray | None: ...


@dataclass(frozen=True)
class ViewBatch:
    """The views of a step.

    Attributes:
        pixels: One tensor ``(n, 3, P, P)`` float32, normalized, for each size of view (one unless multi-crop).
        groups: For each of them ``(n,)`` int64: the position in the global batch of the image a view comes from; of
            images that have groups ``(n, 1 + L)``, with these after it.
        images: ``(B,)`` numbers of this process's images in the data, without those that could not be read.
        epoch: Which epoch.
        step: Which step of it.
    """

    pixels: tuple[Tensor, ...]
    groups: tuple[Tensor, ...]
    images: np.ndarray
    epoch: int
    step: int


class ViewLoader:
    """Iterates over steps of random views.

    The same seed gives the same views whatever the number of threads or processes, and after a resume: the order of
    an epoch follows from (seed, epoch), a view's parameters from (seed, epoch, image id, view) and the image's size.
    An image that cannot be read is left out of its step with all of its views.

    Args:
        images: Pixels and ids.
        recipe: Distributions of the views.
        view_size: Side of a full view in pixels.
        views: Views of each image.
        batch_size: Images in a step, over all processes.
        seed: The run's seed.
        device: Where the views go. To a GPU they travel as bytes, asynchronously, and are normalized there.
        threads: Threads that render; by default one for each core.
        backend: ``"numba"``, ``"torchvision"`` or ``"auto"``.
        prefetch: Steps prepared ahead.
        rank: This process; it gets its share of each step's images, in order.
        world_size: How many processes there are.
        drop_last: Leave out the images that do not fill a step (others in each epoch).
        groups: ``(images, L)`` integers, groups of the images, the finest first, each whole within one of the next
            column. Some images of a group then come in the same step (:func:`s2r2.views.orders.together_order`),
            and a view has these columns after its own image's.
        shuffle: How the order of an epoch is made: from a ``table`` of all images, or ``computed``, which is another
            order; by default computed for more than 2**20 images.

    Attributes:
        wait_seconds: How long the consumer has waited for views so far.
    """

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        *,
        view_size: int,
        views: int,
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        backend: Backend = "auto",
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        groups: np.ndarray | None = None,
        shuffle: Shuffle | None = None,
    ) -> None:
        if not batch_size >= 1 or (drop_last and batch_size > len(images)):
            raise ArgumentError(
                f"`batch_size={batch_size}`: must be at least 1, and at most the number of images ({len(images)})"
            )
        if batch_size < world_size:
            raise ArgumentError(f"{world_size} processes cannot share `batch_size={batch_size}`: use a larger one")
        self.images, self.recipe = images, recipe
        self.view_size, self.views, self.batch_size, self.seed = view_size, views, batch_size, seed
        self.device = torch.device(device)
        self.backend = choose_backend(backend)
        self.prefetch = max(1, prefetch)
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.groups, self.shuffle = groups, shuffle or usual_shuffle(len(images))
        self.wait_seconds = 0.0
        sides = np.array(view_sizes(recipe, view_size, views))
        # Columns of views of one size, for each size; the full one first.
        self._kinds = [(int(side), np.flatnonzero(sides == side)) for side in dict.fromkeys(sides.tolist())]
        self._pinned = None
        if self.device.type == "cuda":
            self._pinned = PinnedBuffers(self._shapes(-(-batch_size // world_size)), self.prefetch + 1, self.device)
        self._threads = threads or os.cpu_count() or 1
        self._running: Generator[ViewBatch, None, None] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ViewBatch]:
        """The steps of an epoch, from ``start_step`` on; what is left of an earlier one is given up."""
        self.close()
        self._running = self._steps(epoch, start_step)
        return self._running

    def close(self) -> None:
        """End the threads."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> "ViewLoader":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _steps(self, epoch: int, start_step: int) -> Generator[ViewBatch, None, None]:
        order = choose_order(
            len(self.images), self.seed, epoch, self.batch_size, shuffle=self.shuffle, groups=self.groups
        )
        share = -(-self.batch_size // self.world_size)
        size = min(_MOST, max(_FEWEST, share * (self.prefetch + 1) // self._threads))
        tasks = -(-share // size)
        started: deque[_Step] = deque()

        def parts() -> Iterator[tuple[_Step, slice]]:
            for number in range(start_step, self.steps_per_epoch):
                began = time.perf_counter()
                step = self._begin(order, epoch, number)
                self.wait_seconds -= time.perf_counter() - began  # it waits for the GPU, not for views
                started.append(step)
                for task in range(tasks):
                    yield step, slice(task * size, (task + 1) * size)

        rendered = in_order(
            self._render, parts(), threads=self._threads, ahead=tasks * self.prefetch, name="s2r2-views"
        )
        try:
            for _ in range(start_step, self.steps_per_epoch):
                began = time.perf_counter()
                there = np.concatenate(list(islice(rendered, tasks)))
                self.wait_seconds += time.perf_counter() - began
                yield self._finish(started.popleft(), there)
        finally:
            rendered.close()
            if self._pinned is not None:
                for _ in started:
                    self._pinned.forget()

    def _begin(self, order: Order, epoch: int, step: int) -> "_Step":
        """A step's images, and memory for their views."""
        chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
        bounds = np.linspace(0, len(chosen), self.world_size + 1).astype(int)
        low, high = bounds[self.rank], bounds[self.rank + 1]
        if self._pinned is None:
            buffers = [torch.empty(shape) for shape in self._shapes(high - low)]
        else:
            buffers = self._pinned.take()
        return _Step(buffers, chosen[low:high], int(low), epoch, step)

    def _shapes(self, images: int) -> list[tuple[int, ...]]:
        """Of the views of so many images, for each size of view."""
        return [(images, len(columns), 3, side, side) for side, columns in self._kinds]

    def _render(self, part: tuple["_Step", slice]) -> np.ndarray:
        """Read some images of a step, draw their parameters and render their views; says which could be read."""
        step, some = part
        images, outputs = step.images[some], [buffer[some].numpy() for buffer in step.buffers]
        pixels = [self.images[int(i)] for i in images]
        read = [image for image in pixels if image is not None]
        there = np.array([image is not None for image in pixels], bool)
        if not read:
            return there
        sizes = np.array([image.shape[:2] for image in read])
        table = draw_parameters(
            self.recipe, sizes, self.images.image_ids[images[there]], self.views,
            seed=self.seed, epoch=step.epoch, view_size=self.view_size,
        )  # fmt: skip
        mean, std = self.recipe.mean, self.recipe.std
        for (side, columns), output in zip(self._kinds, outputs, strict=True):
            own = table
            if len(columns) < self.views:
                own = table.rows((np.arange(len(read))[:, None] * self.views + columns).reshape(-1))
            whole = there.all()
            target = output if whole else np.empty_like(output[: len(read)])
            dtype: Any = str(output.dtype)
            flat = target.reshape(-1, *target.shape[2:])
            render_views(read, own, side, mean=mean, std=std, backend=self.backend, out=flat, dtype=dtype)
            if not whole:
                output[there] = target
        return there

    def _finish(self, step: "_Step", there: np.ndarray) -> ViewBatch:
        missing = len(there) - int(there.sum())
        if 2 * missing > len(there):
            raise S2R2Error(
                f"{missing} of the {len(there)} images of a step cannot be read (skipped.csv says why): "
                "restore them and continue with `resume=True`"
            )
        groups = torch.arange(step.low, step.low + len(there))
        if self.groups is not None:
            groups = torch.cat([groups[:, None], torch.from_numpy(self.groups[step.images])], dim=1)
        outputs = [buffer[: len(there)] for buffer in step.buffers]
        if missing:
            kept = torch.from_numpy(there)
            outputs, groups = [output[kept] for output in outputs], groups[kept]
        pixels = [output.flatten(0, 1) for output in outputs]
        if self._pinned is not None:
            pixels = [self._normalise(p.to(self.device, non_blocking=True)) for p in pixels]
            self._pinned.sent(step.buffers)
        each = tuple(groups.repeat_interleave(len(columns), dim=0) for _, columns in self._kinds)
        return ViewBatch(tuple(pixels), each, step.images[there], step.epoch, step.step)

    def _normalise(self, pixels: Tensor) -> Tensor:
        """Bytes to float32, channels last: the order that convolutions want, taken on while it is still a byte."""
        mean, scale = self._normalisation
        return (pixels.contiguous(memory_format=torch.channels_last) - mean).mul_(scale)

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation of a channel's bytes, ``(3, 1, 1)``, on the device: copied there once."""
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.recipe.mean, self.recipe.std)
        )
        return 255 * mean, 1 / (255 * std)


@dataclass(frozen=True)
class _Step:
    """A step that the threads are working on."""

    buffers: list[Tensor]
    images: np.ndarray
    low: int
    epoch: int
    step: int
