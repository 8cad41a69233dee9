"""What is said of an encoder whose vectors are no numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2r2.encoder.images import ImagesLike
from s2r2.errors import NonFiniteError


def refuse_non_finite(rows: np.ndarray, called: Callable[[int], str]) -> None:
    """Refuse vectors that are NaN or infinite.

    Args:
        rows: ``(N, D)``.
        called: What to call the image of a row.

    Raises:
        NonFiniteError: There are some.
    """
    wrong = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(wrong):
        raise NonFiniteError(
            f"the encoder gives no finite numbers for {len(wrong)} of {len(rows)} images, the first is "
            f"{called(int(wrong[0]))}: its weights are damaged or its training diverged; use another encoder"
        )


def shown(images: ImagesLike, index: int) -> str:
    """An image's path where there is one, else its number."""
    image = images[index] if isinstance(images, list | tuple) else None
    return str(image) if isinstance(image, str | Path) else f"image {index}"
