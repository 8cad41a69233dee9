"""Is an embedding space in order: how many directions it uses, how close views stay, whether it has collapsed."""

from dataclasses import dataclass

import numpy as np

from s2r2.evaluation.metrics.neighbors import nearest
from s2r2.evaluation.metrics.vectors import unit_rows

COLLAPSED_COSINE = 0.999
COLLAPSED_RANK = 2.0
DUPLICATE_COSINE = 0.9999


@dataclass(frozen=True)
class Health:
    """Figures that need no labels.

    Attributes:
        effective_rank: RankMe, between 1 (all on a line) and min(N, D).
        dimensions: D.
        mean_cosine: Mean cosine of two different images; 1 when all are the same point.
        uniformity: log of the mean Gaussian potential of two images, 0 for a point, near -4 when spread evenly.
        alignment: Mean squared distance of two views of one image, 0..4; None when not measured.
        warning: One line when the space has collapsed, else empty.
    """

    effective_rank: float
    dimensions: int
    mean_cosine: float
    uniformity: float
    alignment: float | None
    warning: str

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain values for JSON."""
        return dict(vars(self))


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe: exp of the entropy of the normalized singular values.

    Source: Garrido et al. 2023, *RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank*, equation 1.

    Args:
        embeddings: ``(N, D)``, as they are (neither centered nor normalized here).
    """
    rows = np.asarray(embeddings, np.float64)
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = values / max(values.sum(), 1e-300) + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(embeddings: np.ndarray, groups: np.ndarray) -> float:
    """Mean squared distance between two views of the same image (Wang and Isola 2020, section 4.1), in 0..4.

    Args:
        embeddings: ``(N, D)``, normalized here.
        groups: ``(N,)`` the image of each view.
    """
    units = unit_rows(embeddings).astype(np.float64)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), units.shape[1]))
    np.add.at(sums, inverse, units)
    pairs = counts * (counts - 1)
    cosines = (sums**2).sum(1) - counts  # over ordered pairs of different views
    return float(2 - 2 * cosines[pairs > 0].sum() / pairs.sum()) if pairs.sum() else float("nan")


def uniformity(embeddings: np.ndarray, *, images: int = 4096) -> float:
    """Log mean exp(-2 |x - y|^2) over pairs of images (Wang and Isola 2020, section 4.1); at most ``images`` are used.

    Args:
        embeddings: ``(N, D)``, normalized here.
        images: Taken evenly, if there are more.
    """
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, num=min(images, len(embeddings)), dtype=np.int64))
    units = unit_rows(embeddings[chosen])
    if len(units) < 2:
        return float("nan")
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)].astype(np.float64)
    return float(np.log(np.exp(-4 * (1 - cosines)).mean()))


def health(
    embeddings: np.ndarray, *, view_embeddings: np.ndarray | None = None, view_groups: np.ndarray | None = None
) -> Health:
    """All figures of an embedding space, and a warning if it has collapsed.

    Args:
        embeddings: ``(N, D)``, one row for each image.
        view_embeddings: ``(M, D)`` rows of random views, for the alignment.
        view_groups: ``(M,)`` the image of each view.
    """
    units = unit_rows(embeddings)
    count = len(units)
    total = units.sum(0, dtype=np.float64)
    mean_cosine = float((total @ total - count) / (count * (count - 1))) if count > 1 else float("nan")
    rank = effective_rank(units)
    spread = effective_rank(units - units.mean(0)) if count > 1 else rank
    warning = ""
    if mean_cosine > COLLAPSED_COSINE:
        warning = (
            f"the embeddings have collapsed: two different images have a cosine of {mean_cosine:.4f} on average, so "
            "rankings rest on rounding; train longer, with a smaller learning rate or a higher temperature"
        )
    elif count > 16 and spread < COLLAPSED_RANK:
        warning = (
            f"the embeddings have collapsed to {spread:.1f} of {units.shape[1]} directions; train longer, with a "
            "smaller learning rate or a higher temperature"
        )
    aligned = None
    if view_embeddings is not None and view_groups is not None:
        aligned = alignment(view_embeddings, view_groups)
    return Health(rank, units.shape[1], mean_cosine, uniformity(units), aligned, warning)


@dataclass(frozen=True)
class Duplicate:
    """A test image that is also in the training set, or nearly so."""

    test: int
    train: int
    cosine: float


def duplicates(train: np.ndarray, test: np.ndarray, *, cosine: float = DUPLICATE_COSINE) -> list[Duplicate]:
    """Test images whose nearest training image is the same picture, the closest first.

    Args:
        train: ``(M, D)`` features; raw pixels find copies, an encoder's features also near-copies.
        test: ``(N, D)``.
        cosine: From which on two images count as the same.
    """
    indices, cosines = nearest(test, train, k=1)
    found = np.flatnonzero(cosines[:, 0] >= cosine)
    pairs = [Duplicate(int(i), int(indices[i, 0]), float(cosines[i, 0])) for i in found]
    return sorted(pairs, key=lambda pair: -pair.cosine)
