"""Scikit-learn's 1,797 handwritten digits: data that is there wherever s2r2 is."""

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.source import ArraySource, ImageSource

SIDE = 32


@register_source(
    "digits",
    "digits: 1,797 handwritten ones of scikit-learn, for a first try",
    built_in=["digits"],
    parts="train, test",
)
def open_digits(data: Data) -> ImageSource | None:
    """All digits, or ``train`` and ``test``: 80 % and 20 % of each class.

    They have 8 x 8 pixels and are enlarged to 32 x 32: random crops of whole pixels would be too coarse otherwise.
    """
    if data.name != "digits":
        return None
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, classes = load_digits(return_X_y=True)
    small = [Image.fromarray(np.rint(image / 16 * 255).astype(np.uint8)) for image in images.reshape(-1, 8, 8)]
    pixels = np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in small])
    indices = np.arange(len(pixels))
    train, test = train_test_split(indices, test_size=0.2, random_state=0, stratify=classes)
    parts = {"": indices, "train": np.sort(train), "test": np.sort(test)}
    if data.part not in parts:
        raise S2R2Error(f"{data.text} is not known: use digits, digits:train or digits:test")
    chosen = parts[data.part]
    labels = Labels.from_lists([[str(classes[i])] for i in chosen])
    return ArraySource(data.text, pixels[chosen], labels, [f"{i:04d}" for i in chosen])
