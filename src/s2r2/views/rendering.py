"""From images and a parameter table to an array of views, by the fused kernel or by torchvision."""

import functools
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.system.jit import numba_is_here
from s2r2.system.terminal import say
from s2r2.views.parameters import ViewParameters

Backend = Literal["auto", "numba", "torchvision"]
Type = Literal["float32", "uint8"]
_ANNOUNCING = threading.Lock()
_IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def blur_kernel(size: int) -> int:
    """Side of the blur's kernel for views of ``size`` pixels: a tenth of them, odd, as in SimCLR."""
    return min(int(0.1 * size) // 2 * 2 + 1, 2 * size - 1)


def render_views(
    images: Sequence[np.ndarray],
    parameters: ViewParameters,
    view_size: int,
    *,
    mean: Sequence[float] = _IDENTITY[0],
    std: Sequence[float] = _IDENTITY[1],
    backend: Backend = "auto",
    threads: int | None = None,
    out: np.ndarray | None = None,
    dtype: Type = "float32",
) -> np.ndarray:
    """Render views, all of the same size.

    Args:
        images: B arrays ``(H, W, 3)`` uint8.
        parameters: ``B * V`` rows, those of an image together, all with ``size == view_size``.
        view_size: Side of the views in pixels.
        mean: Channel means to normalize with; by default pixels stay in [0, 1].
        std: Channel standard deviations.
        backend: ``"numba"`` (the fused kernel), ``"torchvision"`` (the reference), or whichever there is.
        threads: Threads for the kernel; one by default.
        out: Where to write, ``(B * V, 3, P, P)`` of ``dtype``, C-contiguous; made if None.
        dtype: ``"float32"``, normalized; or ``"uint8"``, rounded to 0..255 and not normalized.

    Returns:
        ``(B * V, 3, P, P)``.

    Raises:
        S2R2Error: The backend is unknown or not installed, or the table does not fit the images.
    """
    count = len(parameters)
    if not images or count % len(images) or (parameters.size != view_size).any():
        raise S2R2Error(f"{count} rows of parameters do not fit {len(images)} images at {view_size} px")
    if out is None:
        out = np.empty((count, 3, view_size, view_size), dtype)
    render = _render_numba if choose_backend(backend) == "numba" else _render_torchvision
    views = count // len(images)
    threads = max(1, min(threads or 1, len(images)))
    # A few parts a thread: views differ in cost, and whoever ends first takes the next part.
    bounds = np.linspace(0, len(images), min(len(images), 4 * threads if threads > 1 else 1) + 1).astype(int)

    def render_part(first: int, last: int) -> None:
        rows = slice(first * views, last * views)
        render(images[first:last], parameters.rows(rows), view_size, mean, std, out[rows])

    if threads == 1:
        render_part(0, len(images))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(render_part, bounds[:-1], bounds[1:]))
    return out


def centre_parameters(images: Sequence[np.ndarray], size: int) -> ViewParameters:
    """The table whose views are the images' largest centered squares, resized and otherwise as they are."""
    sides = np.array([image.shape[:2] for image in images], np.int32).reshape(-1, 2)
    side = sides.min(axis=1)
    n = len(images)
    none, zeros = np.zeros(n, bool), np.zeros(n, np.float32)
    return ViewParameters(
        size=np.full(n, size, np.int32), top=(sides[:, 0] - side) // 2, left=(sides[:, 1] - side) // 2, height=side,
        width=side, flip=none, flop=none, turns=np.zeros(n, np.int32), jitter=none, order=np.zeros((n, 4), np.int32),
        factors=np.ones((n, 3), np.float32), hue=zeros, grey=none, sigma=zeros, solarise=none,
    )  # fmt: skip


def render_centre(
    images: Sequence[np.ndarray],
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    backend: Backend = "auto",
    threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """What an encoder sees of whole images: centered square, antialiased resize, normalized.

    Args:
        images: B arrays ``(H, W, 3)`` uint8.
        size: Side in pixels.
        mean: Channel means of pixels in [0, 1].
        std: Channel standard deviations.
        backend: As in :func:`render_views`.
        threads: Likewise.
        out: Likewise.

    Returns:
        ``(B, 3, size, size)`` float32.
    """
    parameters = centre_parameters(images, size)
    return render_views(images, parameters, size, mean=mean, std=std, backend=backend, threads=threads, out=out)


def choose_backend(backend: Backend) -> Literal["numba", "torchvision"]:
    """Which of the two renders: the fused kernel wherever numba is installed.

    Raises:
        S2R2Error: The name is unknown, or numba is asked for and not installed.
    """
    if backend not in ("auto", "numba", "torchvision"):
        raise ArgumentError(f"views backend {backend!r} is not known: use auto, numba or torchvision")
    if backend == "torchvision":
        return "torchvision"
    if numba_is_here():
        with _ANNOUNCING:  # threads that come together announce once
            _announce_compilation()
        return "numba"
    if backend == "numba":
        raise ArgumentError("views backend numba is not installed: pip install numba, or use torchvision")
    _warn_slow()
    return "torchvision"


def _render_numba(
    images: Sequence[np.ndarray],
    p: ViewParameters,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    out: np.ndarray,
) -> None:
    from s2r2.views.kernel import render_images

    if out.dtype == np.uint8:
        offset, scale, bias = np.zeros(3, np.float32), np.full(3, 255, np.float32), np.float32(0.5)
    else:
        offset, scale = np.asarray(mean, np.float32), (1 / np.asarray(std, np.float64)).astype(np.float32)
        bias = np.float32(0)
    # Addresses, so that the compiler sees one type whatever the images are: memory maps, read-only, slices.
    pixels = [np.ascontiguousarray(image, np.uint8) for image in images]
    addresses = np.array([array.__array_interface__["data"][0] for array in pixels], np.uint64)
    sides = np.array([array.shape[:2] for array in pixels], np.int64)
    render_images(
        addresses, sides, size, p.top, p.left, p.height, p.width, p.flip, p.flop, p.turns, p.jitter, p.order,
        p.factors, p.hue, p.grey, p.sigma, blur_kernel(size), p.solarise, offset, scale, bias, out.reshape(-1),
    )  # fmt: skip


def _render_torchvision(
    images: Sequence[np.ndarray],
    p: ViewParameters,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    out: np.ndarray,
) -> None:
    from s2r2.views.reference import normalise, render_view

    views = len(p) // len(images)
    for row in range(len(p)):
        view = render_view(images[row // views], p, row, blur_kernel(size))
        if out.dtype == np.uint8:
            out[row] = (view * 255 + 0.5).clamp(0, 255).byte().numpy()
        else:
            out[row] = normalise(view, mean, std).numpy()


@functools.cache
def _announce_compilation() -> None:
    """Say once that the first call will compile, unless numba's cache on disk has the kernel already."""
    from s2r2.views.kernel import render_images

    if not any(Path(render_images.stats.cache_path).glob("*.render_images-*.nbc")):
        say("s2r2: compiling the view kernel for this processor, once (about 20 s, then cached)", error=True)


@functools.cache
def _warn_slow() -> None:
    warnings.warn("numba is not installed: views are made by torchvision, about ten times slower", stacklevel=4)
