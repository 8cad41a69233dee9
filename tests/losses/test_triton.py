"""The CUDA kernels against the definition: on a GPU if there is one, else by triton's interpreter on the CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranking_cases import make_batch, value_and_gradient

from s2r2.losses import MemoryBank, RankingLoss, SmoothAPLoss, smooth_ap_definition

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
installed = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
interpreted = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1; another test starts it so"
)

SHAPES = [  # sizes of groups, width: widths that are no multiple of a block, P that is no power of two, many tiles
    ([4, 1, 3, 2, 2], 5),
    ([8] * 13, 64),
    ([3] * 40 + [1] * 3, 48),
    ([12, 5, 9, 1, 20], 130),
]


@pytest.mark.slow
@installed
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the inner process, or a GPU: the tests below run in it")
def test_kernels_under_the_interpreter():
    """Triton decides at import whether to interpret: the tests below marked so run in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


BACKENDS = pytest.mark.parametrize("backend", ["triton", "triton-split"])


def compare(loss, expected_loss, z, groups, temperature):
    expected, expected_gradient = value_and_gradient(expected_loss, z.double(), groups)
    found, gradient = value_and_gradient(loss, z.to(DEVICE), groups)
    assert abs(found.item() - expected.item()) < 1e-5
    assert (gradient.cpu() - expected_gradient).norm() < 1e-4 * expected_gradient.norm() + 2e-7 / temperature


@interpreted
@pytest.mark.parametrize("temperature", [0.01, 0.05])  # an exponential for each positive, or shared
@pytest.mark.parametrize("separation", [0.0, 1.0, float("inf")])
@pytest.mark.parametrize(("sizes", "width"), SHAPES)
@BACKENDS
def test_equals_definition(backend, sizes, width, separation, temperature):
    z, groups = make_batch(sizes, separation, 0, width=width, dtype=torch.float32)
    loss = SmoothAPLoss(temperature, backend=backend)
    compare(loss, lambda x, g: smooth_ap_definition(x, g, temperature), z, groups, temperature)


@interpreted
@pytest.mark.parametrize(
    "options",
    [{"include_self": True}, {"outer": "log"}, {"reduction": "none"}],
    ids=lambda options: next(iter(options)),
)
@BACKENDS
def test_options(backend, options):
    z, groups = make_batch([4, 1, 3, 9], 0.5, 1, width=20, dtype=torch.float32)
    weights = torch.linspace(0.5, 2, len(z)) if "reduction" in options else torch.ones(())
    triton, plain = (SmoothAPLoss(0.1, backend=name, **options) for name in (backend, "torch"))
    total = lambda loss: lambda x, g: (loss(x, g) * weights.to(x)).sum()  # noqa: E731
    compare(total(triton), total(plain), z, groups, 0.1)


@interpreted
@BACKENDS
def test_recall_at_k(backend):
    z, groups = make_batch([4, 1, 3, 9], 0.5, 1, width=20, dtype=torch.float32)
    triton, plain = (RankingLoss("recall-at-k", temperature=0.1, backend=name) for name in (backend, "torch"))
    compare(triton, plain, z, groups, 0.1)


@interpreted
@BACKENDS
def test_gallery_mask_and_bank(backend):
    z, groups = make_batch([4, 1, 3, 5], 0.5, 2, width=20, dtype=torch.float32)
    gallery, gallery_groups = make_batch([2, 7, 3, 12], 0.5, 2, width=20, dtype=torch.float32)
    z, gallery = z.to(DEVICE), gallery.to(DEVICE)
    bank = MemoryBank(20, 20).to(DEVICE)
    bank.add(gallery, gallery_groups)
    uses = [({}, {"query_mask": torch.arange(len(z)) % 3 > 0}), ({"bank": bank.state_dict()}, {})]
    uses += [({}, {"gallery": gallery, "gallery_groups": gallery_groups})]
    for options, arguments in uses:
        found = []
        for name in (backend, "torch"):
            kept = MemoryBank(20, 20).to(DEVICE) if options else None
            if kept is not None:
                kept.load_state_dict(options["bank"])
            leaves = {key: value.clone().requires_grad_() for key, value in arguments.items() if key == "gallery"}
            leaf = z.clone().requires_grad_()
            loss = SmoothAPLoss(0.1, backend=name, bank=kept)(leaf, groups, **{**arguments, **leaves})
            found.append((loss, *torch.autograd.grad(loss, [leaf, *leaves.values()])))
        for a, b in zip(*found, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


@interpreted
@pytest.mark.parametrize(
    ("sizes", "separation", "temperature", "scale"),
    [([8] * 9, 5.0, 0.05, 1.0), ([8] * 5, 20.0, 0.01, 1.0), ([10, 3, 13], 1.0, 0.05, 1.0), ([4] * 9, 2.0, 0.05, 5.0)],
    ids=["nearly-perfect", "perfect-and-cold", "unequal", "no-cosines"],
)
def test_split_kernels_are_right_relative_to_the_smallest_loss(sizes, separation, temperature, scale):
    z, groups = make_batch(sizes, separation, 3, width=32, dtype=torch.float32)
    plain, split = (SmoothAPLoss(temperature, backend=name) for name in ("torch", "triton-split"))
    expected, slope = value_and_gradient(plain, (z * scale).double(), groups)
    found, gradient = value_and_gradient(split, (z * scale).to(DEVICE), groups)
    rounding = 2e-6 + 1e-7 * scale**2 / temperature  # float32's similarities alone
    assert abs(found.item() / expected.item() - 1) < rounding
    assert (gradient.cpu() - slope).norm() < 2 * rounding * slope.norm()


@interpreted
@BACKENDS
def test_collapsed_embeddings_are_finite(backend):
    z = torch.nn.functional.normalize(torch.ones(12, 5, device=DEVICE), dim=1)
    _, gradient = value_and_gradient(SmoothAPLoss(0.005, backend=backend), z, torch.arange(4).repeat(3))
    assert gradient.isfinite().all()


@installed
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="compiles instead")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_cuda(capability, shared, tmp_path):
    """For machines without a GPU: types and shapes are right for the real compiler, and a tile fits."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from s2r2.losses.backends import triton_cuda as room

    constants = {
        "PB": 8,
        "BM": room.rows_of_tile(capability),
        "BN": room._COLUMNS,
        "BK": room._DEPTH,
        "BD": room._WIDTH,
        "SHARED": shared,
    }
    for kernel in (room._count, room._pull_queries, room._pull_candidates):
        kinds = {}
        for name in kernel.arg_names:
            if name.isupper():
                kinds[name] = "constexpr"
            elif name == "scale":
                kinds[name] = "fp32"
            elif name.endswith("_ids"):
                kinds[name] = "*i32"
            else:
                kinds[name] = "i32" if name.startswith("n_") or name == "depth" else "*fp32"
        values = {name: constants.get(name, room.PRECISION) for name, kind in kinds.items() if kind == "constexpr"}
        target = GPUTarget("cuda", capability, 32)
        built = compile(ASTSource(kernel, kinds, values), target=target, options=room._LAUNCH)
        assert len(built.asm["cubin"]) > 0
        assert built.metadata.shared <= 96 * 1024


@installed
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="compiles instead")
def test_split_kernels_keep_their_number_of_instructions(monkeypatch):
    """Compiled for an H100, without one: what a change costs on a GPU is seen before it has run on any."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import triton_code

    codes = {case.name: case for case in triton_code.cases(90)}
    if not (triton_code.TOOLS / "nvdisasm").exists():
        pytest.skip("this triton comes without a disassembler")
    for name, slots in (("triton-split: count", 2100), ("triton-split: pull both", 4000)):
        code = triton_code.measure(codes[name], 90)
        assert 500 < code.issue_slots < slots
        assert code.spilled < 100
    assert triton_code.compiled(codes["triton-split: pull both, wide"], 80).asm["cubin"]  # for an A100
