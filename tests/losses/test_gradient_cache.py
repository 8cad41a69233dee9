"""Gradients of slices equal those of the whole batch, in the memory of one slice."""

import copy
import functools
import os
import subprocess
import sys

import lightning_fabric
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import SmoothAPLoss, cached_backward


class Backbone(nn.Module):
    """Patches, LayerNorm, dropout, a projection: accepts images of any size."""

    def __init__(self, dropout: float = 0.3, width: int = 12, layer: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.body = nn.Sequential(nn.Linear(width, width), layer(width), nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(width, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.patches(pixels).flatten(2).mean(2)
        return normalize(self.head(self.body(features)), dim=1)


def batch(images: int = 6, views: int = 4, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    groups = torch.arange(images).repeat_interleave(views)
    pixels = torch.randn(images, 3, size, size, generator=generator)[groups]
    return (pixels + 0.5 * torch.randn(len(groups), 3, size, size, generator=generator)).double(), groups


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def in_slices(model, pixels, loss_fn, micro_batch):
    """The uncached step that the cached one must equal: same slices, so the same dropout, but one graph."""
    loss = loss_fn(torch.cat([model(piece) for piece in pixels.split(micro_batch)]))
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("micro_batch", [1, 5, 24, 100])
def test_equals_uncached_with_dropout(micro_batch):
    pixels, groups = batch()
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    plain, cached = Backbone().double(), Backbone().double()
    torch.manual_seed(7)
    expected = in_slices(plain, pixels, loss_fn, micro_batch)
    after = torch.rand(3)
    torch.manual_seed(7)
    step = cached_backward(cached, pixels, loss_fn, micro_batch=micro_batch)
    torch.testing.assert_close(step.loss, expected, rtol=1e-12, atol=0)
    assert (gradients(cached) - gradients(plain)).norm() < 1e-6 * gradients(plain).norm()
    assert torch.equal(torch.rand(3), after)  # the random stream goes on as if nothing were done twice
    assert step.embeddings.shape == (24, 8)
    assert not step.loss.requires_grad
    assert not step.embeddings.requires_grad


def test_dropout_differs_between_slices_and_steps():
    pixels, groups = batch()
    model = Backbone(dropout=0.5).double()
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    first, second = (cached_backward(model, pixels, loss_fn, micro_batch=5).embeddings for _ in range(2))
    assert not torch.allclose(first, second)


def test_without_dropout_equals_the_whole_batch_at_once():
    pixels, groups = batch()
    plain, cached = Backbone(0).double(), Backbone(0).double()
    SmoothAPLoss(0.1)(plain(pixels), groups).backward()
    cached_backward(cached, pixels, lambda z: SmoothAPLoss(0.1)(z, groups), micro_batch=7)
    assert (gradients(cached) - gradients(plain)).norm() < 1e-6 * gradients(plain).norm()


def test_gradients_accumulate():
    pixels, groups = batch()
    model = Backbone(0).double()
    for _ in range(2):
        cached_backward(model, pixels, lambda z: SmoothAPLoss(0.1)(z, groups), micro_batch=7)
    once = Backbone(0).double()
    cached_backward(once, pixels, lambda z: SmoothAPLoss(0.1)(z, groups), micro_batch=7)
    torch.testing.assert_close(gradients(model), 2 * gradients(once))


def test_crops_of_several_sizes():
    (large, groups), (small, _) = batch(views=2), batch(views=3, size=4)
    all_groups = torch.cat([groups, torch.arange(6).repeat_interleave(3)])
    queries = torch.arange(len(all_groups)) < len(large)
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, all_groups, query_mask=queries)  # noqa: E731
    plain, cached = Backbone(0).double(), Backbone(0).double()
    loss_fn(torch.cat([plain(large), plain(small)])).backward()
    cached_backward(cached, [large, small], loss_fn, micro_batch=[5, 8])
    assert (gradients(cached) - gradients(plain)).norm() < 1e-6 * gradients(plain).norm()


class Trainer:
    """A loop with the model as an attribute, and a method that embeds."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels)


@pytest.mark.parametrize(
    "given",
    [
        lambda model: model,
        lambda model: lambda pixels: model(pixels),
        lambda model: functools.partial(lambda first, pixels: first(pixels), model),
        lambda model: Trainer(model).embed,
        lambda model: lambda pixels, trainer=Trainer(model): trainer.embed(pixels),  # noqa: B008
        lambda model: lambda pixels, all_of={"encoders": [[model]]}: all_of["encoders"][0][0](pixels),
    ],
    ids=["module", "closure", "partial", "method", "attribute", "item"],
)
def test_batch_norm_uses_and_counts_each_slice_once(given):
    pixels, groups = batch()
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    plain, cached = (Backbone(0, layer=nn.BatchNorm1d).double() for _ in range(2))
    in_slices(plain, pixels, loss_fn, 8)
    cached_backward(given(cached), pixels, loss_fn, micro_batch=8)
    assert (gradients(cached) - gradients(plain)).norm() < 1e-6 * gradients(plain).norm()
    for found, expected in zip(cached.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("error:Using `torch.compile")
@pytest.mark.parametrize("kind", ["wrapped", "in place", "function"])
def test_a_function_of_a_compiled_model_is_compiled_once(kind):
    pixels, groups = batch()
    plain, cached = (Backbone(0, layer=nn.BatchNorm1d).double() for _ in range(2))
    graphs: list[object] = []

    def counted(graph, _inputs):  # type: ignore[no-untyped-def]
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile((lambda pixels: cached(pixels)) if kind == "function" else cached, backend=counted)
    if kind == "in place":
        compiled = cached
        cached.compile(backend=counted)
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    after = []
    for _ in range(3):
        in_slices(plain, pixels, loss_fn, 8)
        cached_backward(lambda pixels, of=[[compiled]]: of[0][0](pixels), pixels, loss_fn, micro_batch=8)
        after.append(len(graphs))
    assert after[0] == after[2]
    for found, expected in zip(cached.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_under_autocast():
    pixels, groups = batch()
    plain, cached = Backbone(), Backbone()
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(7)
        in_slices(plain, pixels.float(), loss_fn, 5)
        torch.manual_seed(7)
        cached_backward(cached, pixels.float(), loss_fn, micro_batch=5)
    # A weight shared by slices is cast, and its gradient rounded to bfloat16, once there and once a slice here.
    assert (gradients(cached) - gradients(plain)).norm() < 0.02 * gradients(plain).norm()


@pytest.mark.parametrize("scale", [2.0**12, 2.0**16])
def test_small_gradients_survive_float16(scale):
    """Of embeddings in float16 they used to be rounded before they were scaled, and the scale itself overflowed."""
    torch.manual_seed(0)
    pixels, groups = torch.randn(1024, 16), torch.arange(128).repeat_interleave(8)
    loss = SmoothAPLoss()
    plain, cached = nn.Linear(16, 32), nn.Linear(16, 32)
    cached.load_state_dict(plain.state_dict())

    def loss_fn(z: torch.Tensor) -> torch.Tensor:
        return loss(normalize(z.float(), dim=1), groups) / 100

    def in_float16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return cached(x)

    loss_fn(plain(pixels)).backward()
    cached_backward(in_float16, pixels, loss_fn, micro_batch=256, backward=lambda value: (value * scale).backward())
    assert (gradients(cached) / scale - gradients(plain)).norm() < 0.01 * gradients(plain).norm()


def test_loss_scaling_applies_once():
    pixels, groups = batch()
    plain, cached = Backbone(0).double(), Backbone(0).double()
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    cached_backward(plain, pixels, loss_fn, micro_batch=7)
    cached_backward(cached, pixels, loss_fn, micro_batch=7, backward=lambda loss: (1024 * loss).backward())
    torch.testing.assert_close(gradients(cached), 1024 * gradients(plain))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_inside_fabric(precision):
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision)
    pixels, groups = batch()
    model = Backbone(0)
    plain = copy.deepcopy(model)
    wrapped = fabric.setup_module(model)
    loss_fn = lambda z: SmoothAPLoss(0.1)(z, groups)  # noqa: E731
    cached_backward(wrapped, pixels.float(), loss_fn, micro_batch=7, backward=fabric.backward)
    loss_fn(plain(pixels.float())).backward()
    tolerance = 1e-5 if precision == "32-true" else 0.05
    assert (gradients(model) - gradients(plain)).norm() < tolerance * gradients(plain).norm()


class Prototypes(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(torch.randn(5, 8, dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return -(z @ self.weight.T).log_softmax(1)[:, 0].mean()


def test_parameters_of_the_loss_get_their_gradient():
    pixels, _ = batch()
    plain, cached, loss, cached_loss = Backbone(0).double(), Backbone(0).double(), Prototypes(), Prototypes()
    loss(plain(pixels)).backward()
    cached_backward(cached, pixels, cached_loss, micro_batch=7)
    torch.testing.assert_close(cached_loss.weight.grad, loss.weight.grad)
    assert (gradients(cached) - gradients(plain)).norm() < 1e-6 * gradients(plain).norm()
    assert cached_loss.unused.grad is None


def test_forgotten_parameters_of_the_loss_are_an_error():
    pixels, _ = batch()
    loss = Prototypes()
    with pytest.raises(S2R2Error, match="loss_parameters"):
        cached_backward(Backbone().double(), pixels, lambda z: loss(z), micro_batch=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 0}, "micro_batch"),
        ({"micro_batch": [3, 4]}, "micro_batch"),
        ({"micro_batch": 4.0}, "micro_batch"),
        ({"micro_batch": None}, "micro_batch"),
        ({"micro_batch": True}, "micro_batch"),
        ({"inputs": torch.zeros(8, 3).numpy()}, "inputs is ndarray"),
        ({"inputs": {"pixels": torch.zeros(8, 3)}}, "inputs is dict"),
        ({"loss_fn": lambda z: 1.0}, "returned float"),
        ({"model": Backbone().double().requires_grad_(False)}, "set requires_grad"),
        ({"inputs": torch.zeros(0, 3, 8, 8).double()}, "empty"),
        ({"model": lambda x: x}, "must return embeddings"),
        ({"loss_fn": lambda z: z.sum(1)}, "one number"),
        ({"loss_fn": lambda z: z.detach().sum()}, "one number"),
    ],
)
def test_bad_use_is_said(options, message):
    pixels, groups = batch()
    arguments = {
        "model": Backbone().double(),
        "inputs": pixels,
        "loss_fn": lambda z: SmoothAPLoss(0.1)(z, groups),
        "micro_batch": 4,
    } | options
    with pytest.raises(S2R2Error, match=message):
        cached_backward(
            arguments["model"], arguments["inputs"], arguments["loss_fn"], micro_batch=arguments["micro_batch"]
        )


RESIDENT = """
import re, sys, torch
from pathlib import Path
from torch import nn
from s2r2.losses import SmoothAPLoss
from s2r2.losses import cached_backward
torch.set_num_threads(1)
views = int(sys.argv[1])
groups = torch.arange(views // 8).repeat_interleave(8)
body = [layer for _ in range(8) for layer in (nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.1))]
model = nn.Sequential(nn.Linear(16, 256), *body, nn.Linear(256, 64))
pixels = torch.randn(views, 16, 16)
embed = lambda x: nn.functional.normalize(model(x).mean(1), dim=1)
loss = SmoothAPLoss(0.1)
cached_backward(embed, pixels[:16], lambda z: loss(z, groups[:16]), micro_batch=16)  # what libraries load once
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
cached_backward(embed, pixels, lambda z: loss(z, groups), micro_batch=256)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_of_4096_views_is_that_of_256():
    """Resident memory of real processes, besides what python and torch take without a batch."""
    # The allocator of the C library is told to give every large block back at once: what is measured is then what
    # tensors take, and not how it happens to reuse holes.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    extra = {}
    for views in (256, 4096):
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(views)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=280,
        )
        extra[views] = int(done.stdout)
    assert extra[256] > 50 * 1024  # kilobytes: a slice is large enough to measure
    assert extra[4096] < 1.3 * extra[256], extra
