"""S2R2's own task as an evaluation: does a view find the other views of its image?"""

import numpy as np

from s2r2.encoder import Encoder
from s2r2.evaluation.retrieval import RetrievalResult, retrieval_metrics
from s2r2.images import PixelStore
from s2r2.views import Recipe, draw_parameters, render_views

HELD_OUT_EPOCH = 1 << 40
"""Views of this epoch number are drawn by no training run."""


def held_out_views(
    store: PixelStore, images: np.ndarray, recipe: Recipe, *, view_size: int, views: int, seed: int = 0
) -> np.ndarray:
    """Random full-size views that training does not see: ``(len(images) * views, 3, P, P)`` float32, normalised."""
    sizes, ids = store.sizes[images], store.image_ids[images]
    if recipe.large_views:  # multi-crop: only the full views, so that all have one size
        views = min(views, recipe.large_views)
    parameters = draw_parameters(
        recipe, sizes, ids, views, seed=seed, epoch=HELD_OUT_EPOCH, view_size=view_size
    )  # fmt: skip
    pixels = [store[int(i)] for i in images]
    return render_views(pixels, parameters, view_size, mean=recipe.mean, std=recipe.std)


def view_retrieval(
    encoder: Encoder, store: PixelStore, recipe: Recipe, *, images: int = 256, views: int = 8, output: str = "embedding"
) -> RetrievalResult:
    """Rank held-out views of up to ``images`` images, taken evenly, by which image they come from."""
    chosen = np.unique(np.linspace(0, len(store) - 1, num=min(images, len(store)), dtype=np.int64))
    vectors, groups = [], []
    for start in range(0, len(chosen), 16):
        part = chosen[start : start + 16]
        pixels = held_out_views(store, part, recipe, view_size=encoder.image_size, views=views)
        vectors.append(encoder.embed_pixels(pixels, output=output))  # type: ignore[arg-type]
        groups.append(np.repeat(part, len(pixels) // len(part)))
    return retrieval_metrics(np.concatenate(vectors), np.concatenate(groups))
