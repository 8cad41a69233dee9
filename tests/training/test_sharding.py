"""An encoder in shards, in a group of one process: what is cut is put together again, and what cannot be is refused."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, create_encoder
from s2r2.errors import S2R2Error
from s2r2.training import TrainConfig, train
from s2r2.training.optimizer import build_optimizer
from s2r2.training.parallel.sharding import (
    _blocks,
    even_slices,
    load_optimizer,
    refuse_what_cannot_be_sharded,
    shard,
    total_norm,
    whole,
)

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")
CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    return create_encoder("test_vit", image_size=32, head_hidden=16, embedding_dimensions=8)


def step(encoder: Encoder, optimizer: torch.optim.Optimizer, seed: int) -> torch.Tensor:
    pixels = torch.randn(6, 3, 32, 32, generator=torch.manual_seed(seed))
    optimizer.zero_grad()
    (encoder(pixels) * torch.arange(8)).sum().backward()
    norm = total_norm(p.grad for p in encoder.parameters())
    optimizer.step()
    return norm


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_sharded_encoder_trains_embeds_saves_and_resumes_as_a_whole_one(name: str) -> None:
    encoders = [small_encoder() for _ in range(3)]
    shard(encoders[1], CPU, bf16=False)
    assert all(isinstance(p, DTensor) for p in encoders[1].parameters())
    pixels = torch.randn(4, 3, 32, 32)
    before = [encoder.embed_pixels(pixels) for encoder in encoders[:2]]  # of the backbone alone, before it is trained
    assert before[0] == pytest.approx(before[1], abs=1e-6)
    optimizers = [build_optimizer(encoder, 1e-3, 0.01, name) for encoder in encoders[:2]]
    for seed in range(3):
        norms = [step(encoder, optimizer, seed) for encoder, optimizer in zip(encoders, optimizers, strict=False)]
        torch.testing.assert_close(norms[1], norms[0], rtol=1e-4, atol=0)

    # In a group of one the whole may be the shard itself, which goes on changing.
    weights, state = (copy.deepcopy(whole(part.state_dict())) for part in (encoders[1], optimizers[1]))
    torch.testing.assert_close(weights, dict(encoders[0].state_dict()), rtol=1e-3, atol=1e-4)
    plain = optimizers[0].state_dict()
    assert state["state"].keys() == plain["state"].keys()
    assert state["param_groups"] == plain["param_groups"]

    # What one run has saved goes on in shards, and the other way round.
    encoders[2].load_state_dict(weights)
    shard(encoders[2], CPU, bf16=False)
    resumed = build_optimizer(encoders[2], 1e-3, 0.01, name)
    load_optimizer(resumed, copy.deepcopy(state))
    load_optimizer(optimizers[0], state)
    encoders[0].load_state_dict(weights)
    step(encoders[1], optimizers[1], 3)
    step(encoders[2], resumed, 3)
    step(encoders[0], optimizers[0], 3)
    ended = [whole(encoder.state_dict()) for encoder in encoders]
    for key, value in ended[1].items():
        assert torch.equal(value, ended[2][key])
        torch.testing.assert_close(value, ended[0][key], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("group")
def test_others_gather_but_do_not_keep() -> None:
    encoder = small_encoder()
    shard(encoder, CPU, bf16=False)
    assert all(value is None for name, value in whole(encoder.backbone.state_dict(), keep=False).items())


@pytest.mark.usefixtures("group")
def test_the_norm_counts_sharded_and_whole_gradients() -> None:
    encoder, extra = small_encoder(), nn.Parameter(torch.ones(3))
    extra.grad = torch.full((3,), 5.0)
    shard(encoder, CPU, bf16=False)
    encoder(torch.randn(4, 3, 32, 32)).square().sum().backward()
    gradients = [p.grad for p in [*encoder.parameters(), extra]]
    expected = get_total_norm([whole(g) for g in gradients if g is not None])
    torch.testing.assert_close(total_norm([*gradients, None]), expected)


def test_the_norm_of_whole_gradients_is_torchs() -> None:
    gradients = [torch.randn(3, 4), torch.randn(5)]
    assert torch.equal(total_norm([*gradients, None]), get_total_norm(gradients))


@pytest.mark.usefixtures("group")
def test_weights_are_gathered_in_bfloat16_but_not_those_of_batch_norm() -> None:
    for name, kind in (("test_vit", torch.bfloat16), ("test_resnet", torch.float32)):
        encoder = create_encoder(name, image_size=32, head_hidden=16, embedding_dimensions=8)
        shard(encoder, CPU, bf16=True)
        seen = []
        first = next(m for m in encoder.backbone.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(module.weight.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            encoder(torch.randn(4, 3, 32, 32)).sum().backward()
        assert seen == [kind]
        assert {p.grad.dtype for p in encoder.parameters() if p.grad is not None} == {torch.float32}
        assert encoder.embed_pixels(torch.randn(2, 3, 32, 32)).dtype == "float32"


@pytest.mark.usefixtures("group")
def test_a_backbone_that_cannot_be_shared_out_is_one_line() -> None:
    encoder = small_encoder()
    encoder.backbone.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(S2R2Error, match="cannot shard backbone test_vit"):
        shard(encoder, CPU, bf16=False)
    whole = small_encoder()  # without --strategy fsdp nothing is shared out
    whole.backbone.scale = nn.Parameter(torch.tensor(1.0))
    whole(torch.zeros(2, 3, whole.image_size, whole.image_size)).sum().backward()


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("vit_tiny_patch16_224", "Block", 12),
        ("swin_tiny_patch4_window7_224", "SwinTransformerBlock", 12),
        ("convnext_tiny", "ConvNeXtBlock", 18),
        ("eva02_tiny_patch14_224", "EvaBlock", 12),
    ],
)
def test_blocks_are_found_inner_ones_first(name: str, kind: str, count: int) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0)
    kinds = [type(block).__name__ for block in _blocks(backbone)]
    assert kinds.count(kind) == count
    assert len(set(kinds)) == 1 or kinds[-1] != kind


def test_slices_are_as_many_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (torch.arange(16.0).view(16, 1), torch.arange(6.0).view(6, 1))
    assert [len(part) for part in even_slices(pixels, 4, Processes())] == [4, 4, 4, 4, 4, 2]
    monkeypatch.setattr(Processes, "largest", lambda self, *counts: (5, 2))  # another has five slices of the first
    parts = even_slices(pixels, 4, Processes())
    assert [len(part) for part in parts] == [4, 3, 3, 3, 3, 4, 2]
    assert torch.equal(torch.cat(parts), torch.cat(pixels))


@pytest.mark.parametrize(
    ("settings", "count", "word"),
    [
        ({}, 1, "--devices N"),
        ({"optimizer": "lars"}, 2, "lars"),
        ({"precision": "16-mixed"}, 2, "16-mixed"),
        ({"micro_batch": "auto"}, 2, "micro_batch"),
    ],
)
def test_what_cannot_be_sharded_is_refused(settings: dict[str, str], count: int, word: str) -> None:
    processes = Processes(world_size=count)
    refuse_what_cannot_be_sharded(TrainConfig(**settings), processes)  # type: ignore[arg-type]
    with pytest.raises(S2R2Error, match=word):
        refuse_what_cannot_be_sharded(TrainConfig(strategy="fsdp", **settings), processes)  # type: ignore[arg-type]


def test_one_process_is_refused_before_anything_is_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match="`strategy='fsdp'` needs several processes"):
        train(
            tmp_path / "photos", TrainConfig(backbone="test_vit", image_size=32, strategy="fsdp"), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(S2R2Error, match="use ddp or fsdp"):
        TrainConfig(strategy="zero").checked()  # type: ignore[arg-type]
