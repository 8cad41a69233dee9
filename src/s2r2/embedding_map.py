"""A map of all photos: similar ones lie near each other."""

import numpy as np

LANDMARKS = 2000
FEWEST = 64
"""Photos from which on t-SNE says more than principal components do."""
_NEIGHBORS = 5
_BLOCK = 4096


def positions(vectors: np.ndarray, *, landmarks: int = LANDMARKS, seed: int = 0) -> np.ndarray:
    """Place photos in the plane by t-SNE (van der Maaten and Hinton 2008), fewer than 64 by principal components.

    Beyond ``landmarks`` photos, a random sample is placed by t-SNE and every other photo between the members of the
    sample that it is most similar to, weighted by similarity; time is then linear in the number of photos.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        landmarks: Photos that t-SNE places.
        seed: Of the sample and of t-SNE.

    Returns:
        ``(N, 2)`` float32 within [0, 1].
    """
    count = len(vectors)
    generator = np.random.default_rng(seed)
    chosen = np.arange(count) if count <= landmarks else np.sort(generator.choice(count, landmarks, replace=False))
    anchors = np.ascontiguousarray(vectors[chosen])
    places = _tsne(anchors, seed) if count >= FEWEST else _principal(anchors)
    if len(chosen) == count:
        return _spread(places)
    result = placed_between(vectors, np.arange(count), anchors, places, seed)
    result[chosen] = places
    return _spread(result)


def placed_between(
    vectors: np.ndarray, rows: np.ndarray, anchors: np.ndarray, places: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Place photos between those placed already that they are most similar to; these stay where they are.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        rows: ``(n,)``: which of them to place.
        anchors: ``(A, D)``: vectors of photos that have a place.
        places: ``(A, 2)``: their places.
        seed: Of a scatter that keeps photos between the same anchors from covering each other.

    Returns:
        ``(n, 2)`` float32.
    """
    generator = np.random.default_rng(seed)
    result = np.empty((len(rows), 2), np.float32)
    scatter = 0.004 * np.ptp(places, axis=0)
    nearby = min(_NEIGHBORS, len(anchors))
    for start in range(0, len(rows), _BLOCK):
        scores = np.asarray(vectors[rows[start : start + _BLOCK]]) @ anchors.T
        nearest = np.argpartition(-scores, nearby - 1, axis=1)[:, :nearby]
        near = np.take_along_axis(scores, nearest, axis=1)
        distance = np.sqrt(np.maximum(2 - 2 * near, 0))
        weight = 1 / np.maximum(distance, 1e-3) ** 4
        weight /= weight.sum(1, keepdims=True)
        block = np.einsum("nk,nkd->nd", weight, places[nearest])
        result[start : start + _BLOCK] = block + generator.normal(0, scatter, block.shape)
    return result


def _tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(min(50, *vectors.shape), random_state=seed).fit_transform(vectors)
    if not np.ptp(reduced, axis=0).any():  # all photos are the same
        return np.zeros((len(vectors), 2), np.float32)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=600)
    return tsne.fit_transform(reduced).astype(np.float32)


def _principal(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components; of fewer than two dimensions, zeros beside the one there is."""
    centered = vectors - vectors.mean(0) if len(vectors) else vectors
    left, scale, _ = np.linalg.svd(centered, full_matrices=False)
    places = np.zeros((len(vectors), 2), np.float32)
    known = min(2, len(scale))
    places[:, :known] = left[:, :known] * scale[:known]
    return places


def _spread(places: np.ndarray) -> np.ndarray:
    """Into the unit square, the sides kept in proportion."""
    low, extent = places.min(0), np.ptp(places, axis=0)
    scale = max(float(extent.max()), 1e-9)
    return ((places - low + (scale - extent) / 2) / scale).astype(np.float32)
