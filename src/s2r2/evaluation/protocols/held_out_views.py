"""S2R2's own task as an evaluation: does a view find the other views of its image?"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.retrieval import RetrievalResult, retrieval_metrics
from s2r2.evaluation.protocols.base import Basis, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column
from s2r2.evaluation.task import Outcome, Task
from s2r2.images import DirectImages, PixelStore
from s2r2.views import Recipe, draw_parameters, render_views

VIEW_IMAGES = 256
VIEWS = 8
HELD_OUT_EPOCH = 1 << 40
"""Views of this epoch number are drawn by no training run."""


@dataclass(frozen=True)
class HeldOutViews:
    """Random views that training never draws, rendered once so that every check sees the same.

    Attributes:
        pixels: ``(N, 3, P, P)`` float32, normalized.
        groups: ``(N,)`` int64, the image that each view comes from.
    """

    pixels: np.ndarray
    groups: np.ndarray


def held_out_views(
    store: PixelStore | DirectImages,
    recipe: Recipe,
    *,
    view_size: int,
    images: int | np.ndarray = VIEW_IMAGES,
    views: int = VIEWS,
    seed: int = 0,
) -> HeldOutViews:
    """Draw full-size views of some images, from a stream that no training epoch uses.

    Args:
        store: The photos.
        recipe: Distribution of the views; of a multi-crop recipe that of the large ones.
        view_size: Side of a view in pixels.
        images: How many images, taken evenly from the store, or their indices.
        views: Views of each image, at least 2.
        seed: Another seed, other views.

    Raises:
        S2R2Error: None of the images can be read, which only happens without a pixel store.
    """
    if isinstance(images, int | np.integer):
        images = np.unique(np.linspace(0, len(store) - 1, num=min(int(images), len(store)), dtype=np.int64))
    recipe = dataclasses.replace(recipe, large_views=0)
    parts, kept = [], []
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            read = list(pool.map(store.__getitem__, part.tolist()))
        part = part[[image is not None for image in read]]
        pixels = [image for image in read if image is not None]
        if not pixels:
            continue
        kept.append(part)
        parameters = draw_parameters(
            recipe,
            np.array([image.shape[:2] for image in pixels]),
            store.image_ids[part],
            views,
            seed=seed,
            epoch=HELD_OUT_EPOCH,
            view_size=view_size,
        )
        parts.append(render_views(pixels, parameters, view_size, mean=recipe.mean, std=recipe.std))
    if not parts:
        raise S2R2Error(f"none of {len(images)} images can be read: check that they are still there")
    return HeldOutViews(np.concatenate(parts), np.repeat(np.concatenate(kept), views))


def rank_views(encoder: Encoder, held_out: HeldOutViews, *, batch_size: int = 128) -> RetrievalResult:
    """Rank held-out views by cosine of their embeddings; relevant are the other views of the query's image."""
    return retrieval_metrics(embed_views(encoder, held_out, batch_size=batch_size), held_out.groups)


def embed_views(encoder: Encoder, held_out: HeldOutViews, *, batch_size: int = 128) -> np.ndarray:
    """Embeddings ``(N, D)`` of held-out views."""
    rows = [
        encoder.embed_pixels(held_out.pixels[start : start + batch_size], output="embedding")
        for start in range(0, len(held_out.pixels), batch_size)
    ]
    return np.concatenate(rows)


def view_retrieval(
    encoder: Encoder, store: PixelStore, recipe: Recipe, *, images: int = VIEW_IMAGES, views: int = VIEWS, seed: int = 0
) -> RetrievalResult:
    """Rank held-out random views of up to ``images`` images, taken evenly, by the image they come from.

    This is what S2R2 trains for, on views and preferably images that it did not see. Its AP falls as more images
    take part, so compare only figures with the same numbers of images and views.
    """
    held_out = held_out_views(store, recipe, view_size=encoder.image_size, images=images, views=views, seed=seed)
    return rank_views(encoder, held_out)


def view_average_precision(
    encoder: Encoder, store: PixelStore, recipe: Recipe, *, images: int = VIEW_IMAGES, views: int = VIEWS, seed: int = 0
) -> float:
    """Mean AP of :func:`view_retrieval`, in 0..1."""
    return view_retrieval(encoder, store, recipe, images=images, views=views, seed=seed).mean_average_precision


@register_protocol
class HeldOutViewRanking(Protocol):
    """AP of the ranking of held-out random views, the task that the encoder was trained for."""

    name = "views"
    summary = "eight random views of each of up to 256 test images: does a view find the others of its image?"
    needs = ()
    usual = True
    basis = Basis.VIEWS
    place = 40

    def columns(self, task: Task) -> dict[str, Column]:
        """One figure."""
        images = min(VIEW_IMAGES, len(task.test))
        text = (
            f"The task that the encoder was trained for: {VIEWS} random views of each of {images} photos; each view "
            "must find the other views of its photo. AP, averaged over views."
        )
        return {"view_ap": Column("view AP", text)}

    def applies_to(self, space: Space) -> bool:
        """Where there is a recipe to draw views by, and something that embeds them."""
        return space.views is not None

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Views of one image are resampled together, as queries and as candidates."""
        assert space.views is not None
        rows, groups = space.views
        result = retrieval_metrics(rows, groups, leave_out="groups")
        by_image = result.average_precision.reshape(-1, VIEWS).mean(1)
        if len(by_image) == 1:
            by_image[:] = np.nan  # there is no other image to confuse it with
            return {"view_ap": Outcome(by_image)}
        return {"view_ap": Outcome(by_image, pseudo_values=result.pseudo_values["mAP"])}

    def compared(self, task: Task) -> dict[str, str]:
        """None: each method of a study has views of its own."""
        return {}
