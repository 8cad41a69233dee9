"""The encoder: images to features (backbone) and to embeddings (backbone and projection head)."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from s2r2.encoder.backbones import build_backbone, check_backbone, check_weights, other_size
from s2r2.encoder.finite import refuse_non_finite, shown
from s2r2.encoder.images import ImagesLike, as_sequence, prepare, render_batches
from s2r2.encoder.precision import AskedPrecision, Precision, check_precision, choose_precision, computing_in
from s2r2.encoder.projection_head import ProjectionHead
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.runs import ENCODER_FILE
from s2r2.system.files import make_folder, why_not_written, write_bytes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FORMAT_VERSION = 1
TIMM_LAYOUT_VERSION = 3  # of exported files, whose weights have timm's own names
FEATURE_HEAD_VERSION = 4  # of files that hold a feature head
Output = Literal["feature", "embedding"]


class Encoder(nn.Module):
    """A timm backbone with a projection head.

    The *feature* of an image is the backbone's pooled output; its *embedding* is the head's output, which
    the ranking objective sees. Features serve search and probes better, embeddings rank views of one image.

    Attributes:
        backbone: The timm model, with ``num_classes=0``.
        feature_head: A linear layer that ``s2r2 refine`` has learned, whose output is then the feature; else None.
        head: The projection head, or None for a bare backbone (then embeddings equal features).
        architecture: What is needed to build the same modules again, as plain data.
        image_size: Side of the square input in pixels.
        mean: Channel means that pixels in [0, 1] are normalized with.
        std: Channel standard deviations, likewise.
        name: What to call this encoder in tables.
        trained: Whether its weights are learned ones; False for random ones, with which others are compared.
        frozen_statistics: Whether the backbone's batch norm keeps its statistics while the encoder is trained.
    """

    frozen_statistics: bool = False

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None,
        architecture: dict[str, Any],
        name: str,
        *,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        width: int = architecture["feature_dimensions"]
        self.feature_head = nn.Linear(width, width, bias=False) if architecture.get("feature_head") else None
        self.head = head
        self.architecture = architecture
        self.name = name
        self.trained = trained
        self.image_size: int = architecture["image_size"]
        self.mean: tuple[float, ...] = tuple(architecture["mean"])
        self.std: tuple[float, ...] = tuple(architecture["std"])

    def features(self, pixels: Tensor) -> Tensor:
        """Backbone features of normalized pixels: (N, 3, P, P) to (N, F), not normalized."""
        return (self.feature_head or nn.Identity())(self.backbone(pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings of normalized pixels: (N, 3, P, P) to (N, D) with rows of length 1, in float32."""
        features = self.features(pixels)
        output = features if self.head is None else self.head(features)
        return F.normalize(output.float(), dim=1)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; statistics that are frozen stay as they are."""
        super().train(mode)
        if mode and self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def with_head(self, hidden: int, dimensions: int) -> None:
        """Put a new projection head on a backbone that has none."""
        self.head = ProjectionHead(self.dimensions("feature"), hidden, dimensions)
        self.architecture.update(head_hidden=hidden, embedding_dimensions=dimensions, has_head=True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Hash of weights, architecture and preprocessing: equal when two encoders give equal embeddings."""
        digest = hashlib.blake2b(json.dumps(self.architecture, sort_keys=True).encode(), digest_size=12)
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def embed_pixels(
        self, pixels: np.ndarray | Tensor, *, output: Output = "feature", precision: Precision = "float32"
    ) -> np.ndarray:
        """Normalized pixels (N, 3, P, P) float32 to L2-normalized rows (N, D) float32, without gradient.

        Raises:
            NonFiniteError: A row is NaN or infinite.
        """
        rows = self._rows(pixels, output, precision)
        refuse_non_finite(rows, lambda row: f"image {row} of the batch")
        return rows

    def _rows(self, pixels: np.ndarray | Tensor, output: Output, precision: Precision) -> np.ndarray:
        batch = torch.as_tensor(pixels).to(self.device, non_blocking=True)
        if precision == "bfloat16":  # in this layout of the input it gains most, whatever that of the weights
            batch = batch.contiguous(memory_format=torch.channels_last)
        # Not inference mode: what FSDP gathers in it could not be trained afterwards.
        with self._evaluating(), torch.no_grad(), computing_in(precision, self.device):
            rows = self(batch) if output == "embedding" else F.normalize(self.features(batch).float(), dim=1)
        return rows.cpu().numpy()

    def prepare(
        self, pictures: Sequence[np.ndarray], *, side: int | None = None, threads: int | None = None
    ) -> np.ndarray:
        """What :meth:`embed_pixels` takes, from decoded photos ``(H, W, 3)`` uint8.

        Args:
            pictures: The photos, whole or reduced to ``side``.
            side: Short side to which they are reduced; by default :func:`store_side` of the image size.
            threads: Cores used.
        """
        return prepare(pictures, self.image_size, mean=self.mean, std=self.std, side=side, threads=threads)

    def embed(
        self,
        images: ImagesLike,
        *,
        output: Output = "feature",
        batch_size: int = 64,
        precision: AskedPrecision = "float32",
        progress: bool = False,
    ) -> np.ndarray:
        """Embed images: each is reduced to a short side of :func:`store_side`, cropped to its center, and encoded.

        A file is decoded as ``s2r2 embed``, ``index`` and the search page do, in a process of its own: one photo, one
        vector. A JPEG given as an array has been decoded elsewhere, at its full size: its vector differs a little.

        Args:
            images: One image or a sequence of them: paths, PIL images, arrays ``(H, W)``, ``(H, W, 3)`` or
                ``(H, W, 4)`` of uint8, or a ``PixelStore``.
            output: ``"feature"`` (backbone, the default: best for search and probes) or ``"embedding"`` (head).
            batch_size: Images encoded at once.
            precision: In which it computes: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for bfloat16 where that is
                faster and finds the same images nearest to each other, as tried on some of them.
            progress: Show a progress bar.

        Returns:
            ``(N, D)`` float32 with rows of length 1; one row also for a single image.

        Raises:
            S2R2Error: A path cannot be read as an image, or an array has another shape or type.
            NonFiniteError: The encoder gives NaN or infinity for an image.
        """
        if output not in ("feature", "embedding"):
            raise ArgumentError(f"`output={output!r}` is not known: use feature or embedding")
        check_precision(precision)
        batches = functools.partial(
            render_batches, size=self.image_size, mean=self.mean, std=self.std, batch_size=batch_size
        )
        images = as_sequence(images)
        chosen = choose_precision(
            precision, self, len(images), lambda some: batches([images[i] for i in some]), output=output
        ).precision
        rows: list[np.ndarray] = []
        for pixels in batches(images, progress=progress):
            first = sum(map(len, rows))
            rows.append(self._rows(pixels, output, chosen))
            refuse_non_finite(rows[-1], lambda row, first=first: shown(images, first + row))  # type: ignore[misc]
        if not rows:
            return np.empty((0, self.dimensions(output)), np.float32)
        return np.concatenate(rows)

    def dimensions(self, output: Output = "feature") -> int:
        """Length of a feature or an embedding vector."""
        key = "feature_dimensions" if output == "feature" else "embedding_dimensions"
        return int(self.architecture[key])

    def to_bytes(self, weights: dict[str, Tensor] | None = None) -> bytes:
        """The content of ``encoder.safetensors``: weights, and in its metadata all that rebuilds the modules.

        Args:
            weights: Those to write; by default ``state_dict()``.
        """
        description = {
            "version": FORMAT_VERSION if self.feature_head is None else FEATURE_HEAD_VERSION,
            "name": self.name,
            "trained": self.trained,
            "architecture": self.architecture,
        }
        weights = self.state_dict() if weights is None else weights
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        return safetensors_bytes(tensors, metadata={"s2r2": json.dumps(description)})

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> Path:
        """Write ``encoder.safetensors`` into ``folder`` (made if missing), atomically.

        Args:
            folder: Where.
            weights: What to write; by default ``state_dict()``.

        Returns:
            The path of the file.

        Raises:
            S2R2Error: The folder cannot be written to or the disk is full.
        """
        folder = Path(folder)
        try:
            make_folder(folder)
        except OSError as error:
            raise S2R2Error(f"cannot make the folder {folder}: {why_not_written(error)}choose another one") from error
        path = folder / ENCODER_FILE
        write_bytes(path, self.to_bytes(weights))
        return path

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)


def create_encoder(
    backbone: str = "resnet18",
    *,
    image_size: int,
    pretrained: bool = False,
    head_hidden: int = 1024,
    embedding_dimensions: int = 128,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    name: str | None = None,
    several_sizes: bool = False,
    trained: bool = True,
    overlay: dict[str, Any] | None = None,
    small_stem: bool | None = None,
) -> Encoder:
    """Build an encoder on any timm backbone.

    A ResNet with the 7x7 stem gets the usual small one for images of at most 48 px (3x3, stride 1, no pooling).

    Args:
        backbone: A timm model name; its tag (``resnet18.a1_in1k``) chooses the pretrained weights.
        image_size: Side of the square input in pixels, at least 8.
        pretrained: Load timm's weights (downloaded once by timm).
        head_hidden: Width of the projection head's hidden layer.
        embedding_dimensions: Length D of an embedding; 0 leaves the head out.
        mean: Channel means for normalization.
        std: Channel standard deviations.
        name: What to call the encoder; the backbone's name when None.
        several_sizes: Let a vision transformer look at images of other sizes as well (multi-crop training), where
            timm's can: position embeddings are then resampled. Convolutional networks do in any case.
        trained: Whether it has learned weights, or will have; False for one that others are compared with.
        overlay: With ``pretrained``: where the weights are, see :mod:`s2r2.encoder.weights`.
        small_stem: Whether a ResNet gets the small stem; by default for small images without pretrained weights.

    Raises:
        S2R2Error: The backbone is unknown (near matches are named), its weights cannot be loaded, or it cannot
            take images of this size.
    """
    check_backbone(backbone)
    if pretrained and overlay is None:
        check_weights(backbone)
    if small_stem is None:
        small_stem = image_size <= 48 and not pretrained
    architecture: dict[str, Any] = {
        "backbone": backbone,
        "image_size": image_size,
        "small_stem": small_stem,
        "head_hidden": head_hidden,
        "mean": list(mean),
        "std": list(std),
    }
    model = build_backbone(
        backbone, image_size, pretrained=pretrained, small_stem=small_stem, several_sizes=several_sizes, overlay=overlay
    )
    features = _feature_dimensions(model, backbone, image_size)
    head = ProjectionHead(features, head_hidden, embedding_dimensions) if embedding_dimensions else None
    architecture["feature_dimensions"] = features
    architecture["embedding_dimensions"] = embedding_dimensions or features
    architecture["has_head"] = head is not None
    return Encoder(model, head, architecture, name or backbone, trained=trained)


def with_image_size(encoder: Encoder, image_size: int) -> Encoder:
    """The encoder, from now on for square images of another size.

    Raises:
        S2R2Error: Its backbone cannot take them.
    """
    if image_size != encoder.image_size:
        with contextlib.suppress(Exception):  # the trial below says what is wrong
            other_size(encoder.backbone, image_size)
        _feature_dimensions(encoder.backbone, encoder.architecture["backbone"], image_size)
        encoder.image_size = encoder.architecture["image_size"] = image_size
    return encoder


def _feature_dimensions(model: nn.Module, name: str, image_size: int) -> int:
    """Length of the model's output, asked of the model itself: timm's ``num_features`` is not always it."""
    model.eval()
    try:
        with torch.inference_mode():
            output = model(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:
        first_line = str(error).strip().splitlines()[0]
        raise ArgumentError(
            f"backbone {name!r} cannot take images of {image_size} px ({first_line}): choose another `image_size`"
        ) from error
    finally:
        model.train()
    if output.ndim != 2:
        raise S2R2Error(f"backbone {name!r} gives an output of shape {tuple(output.shape)}, not one vector per image")
    return int(output.shape[1])
