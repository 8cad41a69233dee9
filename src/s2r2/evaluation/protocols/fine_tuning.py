"""Fine-tuning: the whole encoder trained on a share of the labels."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError
from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.evaluation.protocols.base import Caution, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column, asked_for
from s2r2.evaluation.task import Outcome, Task
from s2r2.images import PixelStore
from s2r2.views import Recipe, draw_parameters, render_centre, render_views

SHARES = (0.01, 0.1, 1.0)
LEAST_STEPS = 200


@dataclass(frozen=True)
class FineTuningPlan:
    """How to fine-tune; the same for every encoder, and nothing in it is chosen on test images.

    Attributes:
        epochs: Times that each labeled image is seen; more where that would be fewer than 200 steps.
        batch_size: Images in a step.
        learning_rate: Of the backbone, after warm-up over a tenth of the steps; cosine decay to zero.
        head_learning_rate: Of the new linear layer.
        weight_decay: AdamW's.
        smallest_crop: Least share of the image that a training crop covers; it is mirrored half the time.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    smallest_crop: float = 0.35


def fine_tune(
    encoder: Encoder,
    train: PixelStore,
    test: PixelStore,
    task: Task,
    *,
    share: float = 1.0,
    plan: FineTuningPlan | None = None,
) -> Interval:
    """Train a copy of the backbone with a new linear layer on a share of the labeled images, and judge it.

    Args:
        encoder: It is left as it is.
        train: Training images.
        test: Test images.
        task: Their labels; its seed draws the share (at least one image of each class) and the crops.
        share: Of the labeled training images, in (0, 1].
        plan: Steps and rates.

    Returns:
        Accuracy on the test images (multi-label: mAP over labels), with its bootstrap interval.

    Raises:
        S2R2Error: There are no training labels, or the share is not in (0, 1].
    """
    if task.train is None or not task.has_train_labels:
        raise ArgumentError("fine-tuning needs labels of training images: give a labeled `train`")
    outcome = task.outcome(_fine_tuned_scores(encoder, train, test, task, share, plan or FineTuningPlan()))
    return outcome.interval(draws=task.draws, seed=task.seed)


def _fine_tuned_scores(
    encoder: Encoder, train: PixelStore, test: PixelStore, task: Task, share: float, plan: FineTuningPlan
) -> np.ndarray:
    assert task.train is not None
    chosen = labeled_share(task, share)
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        torch.manual_seed(task.seed)
        model = _Classifier(copy.deepcopy(encoder), len(task.names)).to(encoder.device)
        _train(model, train, chosen, task.train[chosen], plan, task.seed)
    return _predict(model, test, np.flatnonzero(task.test_labeled))


def labeled_share(task: Task, share: float) -> np.ndarray:
    """Sorted indices of a share of the labeled training images, of each class at least one.

    Raises:
        S2R2Error: The share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ArgumentError(f"share {share} of the labels: it must be above 0 and at most 1")
    assert task.train is not None
    generator = np.random.default_rng(task.seed)
    order = generator.permutation(np.flatnonzero(task.train_labeled))
    if task.several:
        return np.sort(order[: max(1, round(share * len(order)))])
    labels = task.train[order]
    parts = [order[labels == c][: max(1, round(share * int((labels == c).sum())))] for c in np.unique(labels)]
    return np.sort(np.concatenate(parts))


class _Classifier(nn.Module):
    def __init__(self, encoder: Encoder, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.head = None
        self.layer = nn.Linear(encoder.dimensions("feature"), labels)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(self.encoder.features(pixels))


def _train(
    model: _Classifier, store: PixelStore, chosen: np.ndarray, labels: np.ndarray, plan: FineTuningPlan, seed: int
) -> None:
    encoder = model.encoder
    batch = min(plan.batch_size, len(chosen))
    per_epoch = max(1, len(chosen) // batch)
    steps = max(LEAST_STEPS, plan.epochs * per_epoch)
    recipe = _plain_crops(encoder, plan)
    optimizer = torch.optim.AdamW(
        [
            {"params": encoder.backbone.parameters(), "lr": plan.learning_rate},
            {"params": model.layer.parameters(), "lr": plan.head_learning_rate},
        ],
        weight_decay=plan.weight_decay,
    )
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + np.cos(np.pi * min(1.0, s / steps))))
    )
    targets = torch.as_tensor(labels.astype(np.float32 if labels.ndim == 2 else np.int64), device=encoder.device)
    model.train()
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(chosen))
        part = order[place * batch : (place + 1) * batch]
        logits = model(_crops(store, chosen[part], recipe, encoder, seed, epoch))
        wanted = targets[torch.as_tensor(part, device=encoder.device)]
        loss = (
            F.cross_entropy(logits, wanted) if targets.ndim == 1 else F.binary_cross_entropy_with_logits(logits, wanted)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _plain_crops(encoder: Encoder, plan: FineTuningPlan) -> Recipe:
    """Random crops, mirrored half the time, colors as they are."""
    return Recipe.from_dict(
        {
            "crop_scale": [plan.smallest_crop, 1.0],
            **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0),
            **dict.fromkeys(("jitter_probability", "grayscale_probability", "blur_probability"), 0.0),
            "mean": list(encoder.mean),
            "std": list(encoder.std),
        }
    )


def _crops(store: PixelStore, images: np.ndarray, recipe: Recipe, encoder: Encoder, seed: int, epoch: int) -> Tensor:
    size = encoder.image_size
    parameters = draw_parameters(
        recipe, store.sizes[images], store.image_ids[images], 1, seed=seed, epoch=epoch, view_size=size
    )
    pixels = render_views([store[int(i)] for i in images], parameters, size, mean=recipe.mean, std=recipe.std)
    return torch.from_numpy(pixels).to(encoder.device)


@torch.inference_mode()
def _predict(model: _Classifier, store: PixelStore, images: np.ndarray) -> np.ndarray:
    encoder = model.encoder
    model.eval()
    parts = []
    for start in range(0, len(images), 128):
        part = [store[int(i)] for i in images[start : start + 128]]
        pixels = render_centre(part, encoder.image_size, mean=encoder.mean, std=encoder.std)
        parts.append(model(torch.from_numpy(pixels).to(encoder.device)).float().cpu().numpy())
    return np.concatenate(parts)


@register_protocol
class FineTuning(Protocol):
    """Accuracy of the whole encoder trained on shares of the labels."""

    name = "fine-tuning"
    summary = "all weights trained on 1 %, 10 % and 100 % of the labels"
    place = 80

    def columns(self, task: Task) -> dict[str, Column]:
        """A figure for each share."""
        text = "The whole encoder trained on {:.0%} of the labeled images, all its weights free."
        return {f"fine-tuning@{share:g}": asked_for(f"tuned {share:.0%}", text.format(share)) for share in SHARES}

    def applies_to(self, space: Space) -> bool:
        """To encoders; pixels, functions and projection heads have no weights to train."""
        return space.encoder is not None

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Train and judge a copy for each share."""
        assert space.encoder is not None
        assert space.train_images is not None
        assert space.test_images is not None
        scores = {
            share: _fine_tuned_scores(
                space.encoder, space.train_images, space.test_images, task, share, FineTuningPlan()
            )
            for share in SHARES
        }
        return {f"fine-tuning@{share:g}": task.outcome(found) for share, found in scores.items()}

    def cautions(self, task: Task) -> list[Caution]:
        """Shares that are larger than they say, for one image of each class."""
        found, labeled = [], int(task.train_labeled.sum())
        for share in SHARES:
            taken = len(labeled_share(task, share))
            if taken > 1.5 * share * labeled:
                text = f"Fine-tuning on {share:.0%} took {taken} of {labeled} labeled images"
                found.append(Caution(f"{text}: at least one of each class."))
        return found
