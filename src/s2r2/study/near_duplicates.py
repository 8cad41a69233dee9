"""Near-duplicates put among the training images, to see what they do to each method."""

import numpy as np

from s2r2.images import ImageSource
from s2r2.images.places import Stamp

MARGIN = 0.06
BRIGHTNESS = 0.08


class CopiesSource(ImageSource):
    """A source with a share of its images once more, each cut a little at the edges and a little lighter or darker.

    Args:
        source: The images.
        share: How many copies, as a share of the images; which ones is drawn from the seed.
        seed: Of that draw.
    """

    def __init__(self, source: ImageSource, share: float, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.source = source
        self.originals = np.sort(generator.choice(len(source), round(share * len(source)), replace=False))
        self.factors = 1 + BRIGHTNESS * generator.uniform(-1, 1, len(self.originals))
        keys = [*source.keys, *(f"copy of {source.keys[i]}" for i in self.originals)]
        labels = source.labels
        if labels is not None:
            labels = labels.subset(np.concatenate([np.arange(len(source)), self.originals]))
        identity = f"{source.identity}|copies {share} {seed} {MARGIN} {BRIGHTNESS}"
        super().__init__(f"{source.name}, {share:.0%} copied", keys, labels, source.problems, identity=identity)

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Pixels of an image, or of a changed copy."""
        if index < len(self.source):
            return self.source.read(index, short_side)
        number = index - len(self.source)
        pixels = self.source.read(int(self.originals[number]), short_side)
        height, width = pixels.shape[:2]
        top, left = round(height * MARGIN), round(width * MARGIN)
        cut = pixels[top : height - top, left : width - left].astype(np.float32) * self.factors[number]
        return np.ascontiguousarray(np.clip(np.rint(cut), 0, 255).astype(np.uint8))

    def stamp(self, index: int) -> Stamp:
        """The original's."""
        original = index if index < len(self.source) else int(self.originals[index - len(self.source)])
        return self.source.stamp(original)

    def location(self, index: int) -> str:
        """The original's."""
        original = index if index < len(self.source) else int(self.originals[index - len(self.source)])
        return self.source.location(original)
