"""What tests of training share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photos_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 small photos."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for number in range(32):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{number:02d}.png")
    return folder
