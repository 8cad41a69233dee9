"""The compiled reduction against Pillow's, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from s2r2.views import reduce_bicubic


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """The worst case for rounding: bytes at random, a part of them at the ends of their range."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = generator.choice(np.array([0, 255], np.uint8), (height // 2, width, 3))
    return pixels


def pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


@settings(deadline=None, max_examples=300)
@given(width=st.integers(1, 500), share=st.floats(0.02, 1.5), scale=st.floats(0.02, 1), seed=st.integers(0, 9))
def test_it_is_pillows_to_the_bit(width: int, share: float, scale: float, seed: int) -> None:
    height = max(1, int(width * share))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = noise(height, width, seed)
    assert np.array_equal(reduce_bicubic(pixels, size), pillow(pixels, size))


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (31, 33), (32, 32), (97, 64), (220, 320), (756, 1008)])
def test_sides_at_the_edges_of_a_block(height: int, width: int) -> None:
    size = max(1, width // 3), max(1, height // 3)
    pixels = noise(height, width)
    pixels.setflags(write=False)
    assert np.array_equal(reduce_bicubic(pixels, size), pillow(pixels, size))


def test_a_view_of_an_array_and_more_than_two_threads() -> None:
    pixels = noise(120, 300)[:, ::2]
    expected = pillow(np.ascontiguousarray(pixels), (70, 56))
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(made, expected) for made in pool.map(reduce_bicubic, [pixels] * 40, [(70, 56)] * 40))


def test_without_numba_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2r2.views.reducing.numba_is_here", lambda: False)
    assert np.array_equal(reduce_bicubic(noise(40, 50), (20, 16)), pillow(noise(40, 50), (20, 16)))
