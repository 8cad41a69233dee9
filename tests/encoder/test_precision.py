"""float32 or bfloat16: how near their vectors are, and when ``auto`` takes which."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from s2r2.encoder import Encoder, load, precision
from s2r2.encoder.precision import choose_precision, has_bfloat16, least_recall, recall_of, vectors_fingerprint
from s2r2.errors import ArgumentError
from s2r2.images import open_source

GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_resnet")


def test_vectors_in_bfloat16_are_near_those_in_float32(encoder: Encoder) -> None:
    images = [GENERATOR.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(4)]
    exact, fast = encoder.embed(images), encoder.embed(images, precision="bfloat16")
    assert fast.dtype == np.float32
    assert not np.array_equal(exact, fast)
    np.testing.assert_allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-6)
    assert (exact * fast).sum(1).min() > 0.999
    assert next(encoder.parameters()).dtype == torch.float32
    np.testing.assert_array_equal(encoder.embed(images), exact)  # nothing is left behind
    np.testing.assert_array_equal(encoder.embed(images, precision="auto"), exact)  # few images: not tried
    with pytest.raises(ArgumentError, match="`precision='half'` is not known"):
        encoder.embed(images, precision="half")  # type: ignore[arg-type]


def test_vectors_of_another_precision_are_others() -> None:
    assert vectors_fingerprint("0" * 24, "float32") == "0" * 24
    other = vectors_fingerprint("0" * 24, "bfloat16")
    assert len(other) == 24
    assert other != "0" * 24


def test_recall_counts_what_is_as_near_as_the_tenth() -> None:
    vectors = GENERATOR.standard_normal((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert recall_of(vectors, vectors) == 1
    assert recall_of(np.repeat(vectors[:2], 20, axis=0), np.repeat(vectors[:2], 20, axis=0)[::-1]) == 1  # copies
    assert recall_of(vectors, GENERATOR.permutation(vectors)) < 0.6
    nearly = vectors + GENERATOR.normal(0, 0.02, vectors.shape).astype(np.float32)
    true, found = vectors @ vectors.T, nearly @ nearly.T
    for similarities in (true, found):
        np.fill_diagonal(similarities, -2)
    pairs = zip(np.argsort(-true)[:, :10], np.argsort(-found)[:, :10], strict=True)
    assert recall_of(vectors, nearly) == pytest.approx(np.mean([len({*a} & {*b}) / 10 for a, b in pairs]))


class Pretended:
    """An encoder that takes a stated time in each precision, and errs in bfloat16."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faster: float, error: float) -> None:
        self.faster, self.error, self.now = faster, error, 0.0
        self.vectors = np.random.default_rng(1).standard_normal((4096, 16)).astype(np.float32)
        monkeypatch.setattr(precision.time, "process_time", lambda: self.now)
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)

    def embed_pixels(self, numbers: np.ndarray, output: str, precision: str) -> np.ndarray:
        self.now += 1 if precision == "float32" else 1 / self.faster
        vectors = self.vectors[numbers]
        if precision == "bfloat16":
            vectors = vectors + np.random.default_rng(2).normal(0, self.error, vectors.shape)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def chosen(encoder: Pretended, count: int = 4000, readable: int = 4000) -> tuple[str, str]:
    def batches(sample: Sequence[int]) -> Iterator[np.ndarray]:
        assert sample[0] == 0
        assert sample[-1] == count - 1
        there = [number for number in sample if number < readable]
        yield from (np.array(there[start : start + 64]) for start in range(0, len(there), 64))

    found = choose_precision("auto", encoder, count, batches)  # type: ignore[arg-type]
    return found.precision, found.note


def test_auto_takes_bfloat16_where_it_is_faster_and_ranks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    name, why = chosen(Pretended(monkeypatch, 2, 1e-5))
    assert name == "bfloat16"
    assert why.startswith("precision bfloat16: 2.0 times as fast, recall@10 1.000 against float32 among 500 photos, ")
    assert why.endswith("so at least 1.000 expected among 4,000")
    assert chosen(Pretended(monkeypatch, 1.05, 1e-5))[0] == "float32"
    name, why = chosen(Pretended(monkeypatch, 2, 0.05))
    assert name == "float32"
    assert "bfloat16 would be 2.0 times as fast, recall@10 0." in why
    assert "from 1,000 photos on" in chosen(Pretended(monkeypatch, 2, 0), 999)[1]
    assert "too few photos can be read" in chosen(Pretended(monkeypatch, 2, 0), readable=300)[1]
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert choose_precision("auto", load("untrained:test_resnet"), 4000, lambda some: iter(())).note == (
        "precision float32: this processor has no instructions for bfloat16"
    )


def test_what_is_asked_for_is_done_and_slowness_said(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(some: Sequence[int]) -> Iterator[np.ndarray]:
        raise AssertionError("nothing is tried")

    assert choose_precision("float32", encoder, 4000, none).note == ""
    for there in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, there=there: there)
        found = choose_precision("bfloat16", encoder, 4000, none)
        assert found.precision == "bfloat16"
        assert ("float32 would be faster" in found.note) is not there


def test_torch_says_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, there in (({"avx512_bf16": True}, True), ({"bf16": True, "neon": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert has_bfloat16(torch.device("cpu")) is there


def test_more_is_missed_among_more_photos() -> None:
    """A sample on the good side of .99 of a folder that is not."""
    vectors = np.random.default_rng(5).standard_normal((2400, 12)).astype(np.float32)
    noise = np.random.default_rng(6).normal(0, 0.005, vectors.shape).astype(np.float32)
    exact, fast = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, vectors + noise))
    sample = np.linspace(0, len(exact) - 1, 256).astype(int)
    assert recall_of(exact[sample], fast[sample]) > 0.99
    assert recall_of(exact, fast) < 0.99
    assert least_recall(exact[sample], fast[sample], len(exact)) < recall_of(exact, fast)
    assert least_recall(exact, exact, 10**6) == 1


@pytest.mark.slow
def test_real_photos_are_ranked_nearly_alike(real_weights: str, photos: Path) -> None:
    source = open_source(photos / "intel_scenes_test.tar")
    encoder = load(real_weights)
    pictures = [source.read(index, 256) for index in range(0, len(source), len(source) // 31)]
    exact, fast = encoder.embed(pictures), encoder.embed(pictures, precision="bfloat16")
    assert (exact * fast).sum(1).mean() > 0.997
    assert recall_of(exact, fast) > 0.93  # small networks lose most; for this one auto stays with float32
