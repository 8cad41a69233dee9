"""S2R2 on one page: learn to see by ranking (Varamesh, Diba, Tuytelaars, Van Gool, arXiv 2010.07258).

    python examples/s2r2_from_scratch.py             # on handwritten digits: about a minute on two cores
    python examples/s2r2_from_scratch.py photos/     # on your own photos; subfolders name classes, to evaluate by

Make many random views of each image. Take every view as a query: the other views of its image should be ranked before
the views of all other images. Train the encoder to maximize the average precision of these rankings. That is all.
Only the loss is ours; views, encoder, loop and evaluation are plain PyTorch and torchvision.
"""

import sys
from pathlib import Path

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from s2r2.losses import SmoothAPLoss

IMAGES, VIEWS, SIZE = 64, 8, 32  # a step ranks 8 views of each of 64 images, 32 x 32 pixels large
STEPS, LEARNING_RATE, TEMPERATURE = 150, 0.002, 0.1
NORMALIZE = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.45], [0.22])])
DIGIT_VIEWS = v2.Compose([
    v2.RandomResizedCrop(SIZE, scale=(0.4, 1.0), ratio=(0.5, 2.0)),
    v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4)], 0.8),
    NORMALIZE,
])  # fmt: skip
PHOTO_VIEWS = v2.Compose([
    v2.RandomResizedCrop(SIZE, scale=(0.14, 1.0)),
    v2.RandomHorizontalFlip(),
    v2.RandomApply([v2.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)], 0.8),
    v2.RandomGrayscale(0.2),
    NORMALIZE,
])  # fmt: skip


class RandomViews(Dataset[tuple[Tensor, Tensor]]):
    """V random views of image i, and V times the number i: the group that they form."""

    def __init__(self, images: Tensor, draw_view: nn.Module) -> None:
        self.images, self.draw_view = images, draw_view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.stack([self.draw_view(self.images[i]) for _ in range(VIEWS)]), torch.full((VIEWS,), i)


def small_encoder() -> nn.Sequential:
    """A convolutional network from images to features ``(N, 128)``. Any other would do."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*layer(3, 32, 2), *layer(32, 64, 2), *layer(64, 128, 2), *layer(128, 128, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def train(encoder: nn.Module, images: Tensor, draw_view: nn.Module, steps: int = STEPS) -> None:
    """The method: embed all views of a step, rank them for each of them, and make the rankings better."""
    head = nn.Sequential(nn.Linear(128, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128))  # for training only
    model = nn.Sequential(encoder, head).train()
    ranking_loss = SmoothAPLoss(TEMPERATURE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    data = RandomViews(images, draw_view)
    batches = DataLoader(data, IMAGES, sampler=RandomSampler(data, num_samples=steps * IMAGES), num_workers=2)
    for step, (views, groups) in enumerate(batches, start=1):
        embeddings = normalize(model(views.flatten(0, 1)), dim=1)
        loss = ranking_loss(embeddings, groups.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            print(f"step {step} of {steps}   average precision {1 - loss.item():.3f}", flush=True)


@torch.no_grad()
def knn_accuracy(encoder: nn.Module, images: Tensor, classes: Tensor, test: Tensor, k: int = 20) -> float:
    """How often the k nearest of the other images, voting by similarity, know the class of a test image."""
    center = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), NORMALIZE])
    features = normalize(torch.cat([encoder.eval()(center(part)) for part in images.split(500)]), dim=1)
    similarity, neighbors = (features[test] @ features[~test].T).topk(k)
    votes = torch.zeros(len(neighbors), int(classes.max()) + 1)
    votes.scatter_add_(1, classes[~test][neighbors], (similarity / 0.07).exp())
    return (votes.argmax(1) == classes[test]).float().mean().item()


def load_digits() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits, enlarged from 8 x 8 pixels, and which digit each is."""
    images, classes = datasets.load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) * (255 / 16)
    return interpolate(pixels, (SIZE, SIZE), mode="bilinear").byte().expand(-1, 3, -1, -1), torch.tensor(classes)


def load_photos(folder: Path) -> tuple[Tensor, Tensor]:
    """All JPEG and PNG photos below a folder, and the number of the subfolder that each is in."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = sorted({path.parent for path in paths})
    smaller = v2.Compose([v2.Resize(2 * SIZE), v2.CenterCrop(2 * SIZE)])
    images = torch.stack([smaller(decode_image(str(path), mode=ImageReadMode.RGB)) for path in paths])
    return images, torch.tensor([names.index(path.parent) for path in paths])


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    torch.manual_seed(0)
    images, classes = load_photos(folder) if folder else load_digits()
    test = torch.rand(len(images)) < 0.2
    encoder = small_encoder()
    print(f"kNN accuracy before training: {knn_accuracy(encoder, images, classes, test):.1%}")
    train(encoder, images[~test], PHOTO_VIEWS if folder else DIGIT_VIEWS)
    print(f"kNN accuracy after training:  {knn_accuracy(encoder, images, classes, test):.1%}")
