"""The online check says plainly when embeddings collapse."""

from types import SimpleNamespace

import numpy as np
import pytest

from s2r2.images import PixelStore, open_source
from s2r2.training.online_check import OnlineCheck
from s2r2.views import get_recipe


class Spread:
    """Stands for an encoder whose embeddings differ by ``spread`` around one point."""

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.generator = np.random.default_rng(0)

    def embed_pixels(self, pixels: np.ndarray, *, output: str) -> np.ndarray:
        return 1 + self.spread * self.generator.standard_normal((len(pixels), 16)).astype(np.float32)

    def embed(self, images: list[np.ndarray]) -> np.ndarray:
        return self.embed_pixels(np.empty((len(images), 1)), output="feature")


@pytest.mark.parametrize(("spread", "warned"), [(1e-4, True), (3.0, False)])
def test_collapsed_embeddings_are_warned_of_in_the_training_log(tmp_path, spread: float, warned: bool) -> None:
    store = PixelStore.build(open_source("digits:test"), 16, tmp_path, progress=False)
    prepared = SimpleNamespace(
        config=SimpleNamespace(image_size=16, views=2), store=store, recipe=get_recipe("documents")
    )
    check = OnlineCheck(prepared)
    figures = check(Spread(spread))
    assert ("have collapsed" in check.warning) == warned
    assert {"view_ap", "knn", "effective_rank", "uniformity", "alignment"} == set(figures)
    assert f"effective rank {figures['effective_rank']:.1f}" in check.describe(figures)
