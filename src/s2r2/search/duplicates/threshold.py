"""From which similarity of vectors on two photos may be copies: it depends on encoder and photos."""

import numpy as np

SAMPLE = 4096
DEVIATIONS = 3.5
_BLOCK = 2048
_SAME = 1 - 1e-6


def suggest_threshold(vectors: np.ndarray, *, sample: int = SAMPLE, seed: int = 0) -> float:
    """Cosine that separates near-duplicates from photos that are merely similar.

    How similar a photo's nearest neighbor is depends on encoder and photos, so no fixed value serves. Taken are the
    distances to the nearest neighbor of a sample, as logarithms; the threshold lies 3.5 robust standard deviations
    (median absolute deviations times 1.4826) below their median. It is meant to find few false ones rather than all.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        sample: Photos looked at.
        seed: Of the sample.
    """
    count = len(vectors)
    if count < 3:
        return _SAME
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    nearest = np.full(len(chosen), -1.0, np.float32)
    queries = np.ascontiguousarray(vectors[chosen])
    for start in range(0, count, _BLOCK):
        scores = queries @ np.asarray(vectors[start : start + _BLOCK]).T
        inside = np.flatnonzero((chosen >= start) & (chosen < start + _BLOCK))
        scores[inside, chosen[inside] - start] = -1
        np.maximum(nearest, scores.max(1), out=nearest)
    distances = np.sqrt(np.maximum(2 - 2 * nearest.astype(np.float64), 0))
    logarithms = np.log(distances[distances > 1e-3]) if (distances > 1e-3).sum() >= 3 else np.zeros(1)
    middle = np.median(logarithms)
    spread = 1.4826 * np.median(np.abs(logarithms - middle))
    limit = float(np.exp(middle - DEVIATIONS * spread)) if spread > 0 else 1e-3
    return float(np.clip(1 - limit**2 / 2, 0, _SAME))
