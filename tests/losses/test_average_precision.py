"""The objective against its definition: every backend, any groups, any temperature."""

import pytest
import torch
from hypothesis import given, settings
from ranking_cases import batches, make_batch, slow_ranking, value_and_gradient

from s2r2.errors import S2R2Error
from s2r2.losses import SmoothAPLoss, smooth_ap_definition, smooth_average_precision_loss
from s2r2.losses.backends import numba_cpu, torch_chunked

CPU_BACKENDS = ["torch", "numba"]
many = settings(max_examples=60, deadline=None)


def sigmoid_kernel(temperature):
    return lambda x, _: torch.sigmoid(x / temperature)


def test_definition_is_the_formula():
    z, groups = make_batch([3, 1, 4, 2], 1.0, 0)
    losses = []
    for q in range(len(z)):
        if (groups == groups[q]).sum() > 1:
            among, rank = slow_ranking(z, groups, q, sigmoid_kernel(0.1))
            losses.append(1 - (among / rank).mean())
    assert len(losses) == 9
    torch.testing.assert_close(smooth_ap_definition(z, groups, 0.1), torch.stack(losses).mean(), rtol=1e-12, atol=1e-14)


def test_small_temperature_gives_average_precision_itself():
    # One query by hand: candidates at cosines .9 (negative), .8 (positive), .7 (negative), .6 (positive).
    cosines = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    z = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    loss = SmoothAPLoss(1e-4)(z, torch.tensor([0, 1, 0, 1, 0]), query_mask=torch.tensor([True] + [False] * 4))
    assert loss.item() == pytest.approx(1 - (1 / 2 + 2 / 4) / 2, abs=1e-9)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@many
@given(case=batches())
def test_float64_equals_definition(backend, case):
    z, groups, temperature = case
    expected, expected_gradient = value_and_gradient(smooth_ap_definition, z, groups, temperature)
    loss, gradient = value_and_gradient(SmoothAPLoss(temperature, backend=backend), z, groups)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    # Where contributions of size 1/T cancel to nothing, 1/T is what rounding is relative to.
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-13 / temperature)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@many
@given(case=batches())
def test_float32_is_close_to_definition(backend, case):
    z, groups, temperature = case
    z = z.float()
    expected, expected_gradient = value_and_gradient(smooth_ap_definition, z.double(), groups, temperature)
    loss, gradient = value_and_gradient(SmoothAPLoss(temperature, backend=backend), z, groups)
    assert loss.dtype == gradient.dtype == torch.float32
    strictness = 1 if temperature >= 0.01 else 2
    assert abs(loss - expected) <= strictness * 1e-5
    error = (gradient - expected_gradient).norm()
    assert error <= strictness * 1e-4 * expected_gradient.norm() + 2e-7 / temperature


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_float32_keeps_the_gradient_of_a_nearly_perfect_ranking(backend):
    z, groups = make_batch([8] * 12, 6.0, 1, width=32)
    expected, expected_gradient = value_and_gradient(smooth_ap_definition, z, groups, 0.02)
    assert 0 < expected < 1e-4  # far below what 1 - R+/R resolves in float32
    loss, gradient = value_and_gradient(SmoothAPLoss(0.02, backend=backend), z.float(), groups)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("outer", ["one-minus", "log"])
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradcheck(backend, include_self, outer, reduction):
    z, groups = make_batch([3, 1, 4, 2], 0.5, 3, width=4)
    loss = SmoothAPLoss(0.1, backend=backend, include_self=include_self, outer=outer, reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, groups), z.requires_grad_())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradcheck_of_gallery_and_queries(backend):
    z, groups = make_batch([3, 2, 1], 0.5, 3, width=4)
    gallery, gallery_groups = make_batch([3, 2, 4], 0.5, 3, width=4)
    loss = SmoothAPLoss(0.1, backend=backend)
    function = lambda x, y: loss(x, groups, gallery=y, gallery_groups=gallery_groups)  # noqa: E731
    assert torch.autograd.gradcheck(function, (z.requires_grad_(), gallery.requires_grad_()))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_order_and_names_of_groups_do_not_matter(backend):
    z, groups = make_batch([5, 1, 2, 4], 0.5, 4)
    loss = SmoothAPLoss(0.05, backend=backend)
    expected, expected_gradient = value_and_gradient(loss, z, groups)
    order = torch.randperm(len(z))
    renamed = torch.unique(groups, return_inverse=True)[1] * -(10**12) + 7
    value, gradient = value_and_gradient(loss, z[order], renamed[order])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient[order], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_shifting_all_similarities_changes_nothing(backend):
    z, groups = make_batch([3, 4, 2], 0.5, 5)
    shifted = torch.cat([z, torch.full_like(z[:, :1], 1.7)], dim=1)  # every similarity grows by 1.7 squared
    loss = SmoothAPLoss(0.05, backend=backend)
    (value, gradient), (expected, expected_gradient) = (value_and_gradient(loss, x, groups) for x in (shifted, z))
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient[:, :-1], expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_include_self_is_the_convention_of_smooth_ap(backend):
    images, views, temperature = 5, 4, 0.03
    z, groups = make_batch([views] * images, 0.5, 6)
    z, groups = z[groups.argsort()], groups.sort().values
    # Brown et al., equal contiguous groups: only j = i is left out of the sums, the query is one of its positives.
    s = z @ z.T
    above = torch.sigmoid((s[:, None, :] - s[:, :, None]) / temperature) * ~torch.eye(len(z), dtype=torch.bool)
    rank = 1 + above.sum(2)
    total = torch.zeros((), dtype=z.dtype)
    for g in range(images):
        block = slice(g * views, (g + 1) * views)
        total += ((1 + above[block, block, block].sum(2)) / rank[block, block]).sum() / views
    loss = SmoothAPLoss(temperature, include_self=True, backend=backend)(z, groups)
    torch.testing.assert_close(loss, 1 - total / len(z), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_log_precision(backend):
    z, groups = make_batch([3, 1, 4, 2], 0.5, 7)
    losses = SmoothAPLoss(0.1, outer="log", reduction="none", backend=backend)(z, groups)
    for q in range(len(z)):
        if (groups == groups[q]).sum() > 1:
            among, rank = slow_ranking(z, groups, q, sigmoid_kernel(0.1))
            torch.testing.assert_close(losses[q], -(among / rank).log().mean(), rtol=1e-12, atol=0)
        else:
            assert losses[q] == 0


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_no_reduction_weighs_queries(backend):
    z, groups = make_batch([3, 1, 4, 2], 0.5, 8)
    weights = torch.rand(len(z), dtype=z.dtype)
    per_query = SmoothAPLoss(0.1, reduction="none", backend=backend)
    losses, gradient = value_and_gradient(lambda x: (per_query(x, groups) * weights).sum(), z)
    torch.testing.assert_close(per_query(z, groups).sum() / 9, smooth_ap_definition(z, groups, 0.1), rtol=1e-12, atol=0)

    def slow(x):
        total = 0
        for q in range(len(x)):
            if (groups == groups[q]).sum() > 1:
                among, rank = slow_ranking(x, groups, q, sigmoid_kernel(0.1))
                total += weights[q] * (1 - (among / rank).mean())
        return total

    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(slow_with_graph(leaf, groups, weights), leaf)
    torch.testing.assert_close(losses, slow(z), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def slow_with_graph(z, groups, weights, temperature=0.1):
    s = z @ z.T
    total = 0
    for q in range(len(z)):
        positives = [k for k in range(len(z)) if groups[k] == groups[q] and k != q]
        for i in positives:
            h = {j: torch.sigmoid((s[q, j] - s[q, i]) / temperature) for j in range(len(z)) if j not in (i, q)}
            precision = (1 + sum(h[j] for j in positives if j != i)) / (1 + sum(h.values()))
            total = total + weights[q] * (1 - precision) / len(positives)
    return total


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_query_mask_leaves_candidates_in(backend):
    z, groups = make_batch([3, 1, 4, 2], 0.5, 9)
    mask = torch.rand(len(z)) < 0.6
    mask[(groups == groups.mode().values).nonzero()[0]] = True
    losses = SmoothAPLoss(0.1, reduction="none", backend=backend)(z, groups)
    valid = mask & ((groups[:, None] == groups).sum(1) > 1)
    masked = SmoothAPLoss(0.1, backend=backend)(z, groups, query_mask=mask)
    torch.testing.assert_close(masked, losses[valid].mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gallery_replaces_the_batch_as_candidates(backend):
    z, groups = make_batch([1, 1, 1], 0.5, 10)
    gallery, gallery_groups = make_batch([3, 2, 4], 0.5, 10)
    gallery_groups[gallery_groups == groups[0]] = 5000  # this query has no positive there
    losses = SmoothAPLoss(0.1, reduction="none", backend=backend)(
        z, groups, gallery=gallery, gallery_groups=gallery_groups
    )
    assert losses[0] == 0
    for q in (1, 2):
        joined, labels = torch.cat([z[q : q + 1], gallery]), torch.cat([groups[q : q + 1], gallery_groups])
        among, rank = slow_ranking(joined, labels, 0, sigmoid_kernel(0.1))
        torch.testing.assert_close(losses[q], 1 - (among / rank).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_one_giant_group_and_tiny_chunks(backend, monkeypatch):
    z, groups = make_batch([40, 2, 1, 7], 0.3, 11)
    expected, expected_gradient = value_and_gradient(smooth_ap_definition, z, groups, 0.05)
    monkeypatch.setattr(torch_chunked, "CPU_BUDGET", 120)  # 2 positives of one query at a time
    monkeypatch.setattr(numba_cpu, "_BUDGET", 120)
    loss, gradient = value_and_gradient(SmoothAPLoss(0.05, backend=backend), z, groups)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-13)


def test_backends_agree_on_a_batch_of_many_chunks():
    z, groups = make_batch([8] * 300 + [3] * 20 + [1] * 5, 1.0, 12, width=24, dtype=torch.float32)
    results = [value_and_gradient(SmoothAPLoss(0.05, backend=name), z, groups) for name in CPU_BACKENDS]
    assert abs(results[0][0] - results[1][0]) < 1e-6
    assert (results[0][1] - results[1][1]).norm() < 1e-5 * results[0][1].norm()


def test_threads_do_not_change_the_result():
    z, groups = make_batch([8] * 100, 1.0, 13, width=24, dtype=torch.float32)  # above the size for two threads
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(value_and_gradient(SmoothAPLoss(0.05, backend="numba"), z, groups)[1])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert (other - results[0]).norm() < 1e-6 * results[0].norm()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_collapsed_embeddings_are_finite(backend):
    z = torch.nn.functional.normalize(torch.ones(12, 5), dim=1)
    loss, gradient = value_and_gradient(SmoothAPLoss(0.005, backend=backend), z, torch.arange(4).repeat(3))
    expected = smooth_ap_definition(z.double(), torch.arange(4).repeat(3), 0.005)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)  # every comparison is a tie
    assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_unnormalised_embeddings_do_not_overflow(backend):
    z, groups = make_batch([4] * 6, 1.0, 14, dtype=torch.float32)
    loss, gradient = value_and_gradient(SmoothAPLoss(0.01, backend=backend), 40 * z, groups)
    expected = smooth_ap_definition(40 * z.double(), groups, 0.01)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_autocast_and_low_matmul_precision_change_nothing(backend):
    z, groups = make_batch([4] * 20, 0.5, 15, width=32, dtype=torch.float32)
    loss = SmoothAPLoss(0.01, backend=backend)
    expected = value_and_gradient(loss, z, groups)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = value_and_gradient(loss, z, groups)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_ranked_in_float32(dtype):
    z, groups = make_batch([4] * 6, 0.5, 16, dtype=dtype)
    loss, gradient = value_and_gradient(SmoothAPLoss(0.01), z, groups)
    expected = smooth_ap_definition(z.double(), groups, 0.01)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_temperature_is_an_attribute():
    z, groups = make_batch([4] * 6, 0.5, 17)
    loss = SmoothAPLoss(0.5)
    loss.temperature = 0.02
    assert torch.equal(loss(z, groups), smooth_average_precision_loss(z, groups, 0.02))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's remarks on what it leaves to Python
def test_compiled_step_gives_the_same():
    z, groups = make_batch([4] * 6, 0.5, 18)
    loss = SmoothAPLoss(0.1)
    expected, expected_gradient = value_and_gradient(loss, z, groups)
    compiled = torch.compile(lambda x, g: loss(2 * x / 2, g), backend="eager")
    found, gradient = value_and_gradient(compiled, z, groups)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_without_gradient_none_is_computed():
    z, groups = make_batch([4] * 6, 0.5, 19)
    assert not SmoothAPLoss(0.1)(z, groups).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_names_the_row(bad):
    z, groups = make_batch([4] * 6, 0.5, 20)
    z[13, 2] = bad
    with pytest.raises(S2R2Error, match="row 13"):
        SmoothAPLoss(check_finite=False)(z, groups)  # on the CPU the test is free, and always made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": torch.arange(24)}, "no query has a positive"),
        ({"query_mask": torch.zeros(24, dtype=torch.bool)}, "no query has a positive"),
        ({"groups": torch.zeros(23, dtype=torch.int64)}, "one integer per row"),
        ({"groups": torch.zeros(24)}, "tensor of integers"),
        ({"groups": [0] * 24}, "tensor of integers"),
        ({"embeddings": torch.zeros(24)}, "floating point tensor"),
        ({"embeddings": torch.zeros(24, 3, dtype=torch.int64)}, "floating point tensor"),
        ({"query_mask": torch.ones(24)}, "query_mask"),
        ({"gallery": torch.zeros(4, 6)}, "belong together"),
        ({"gallery": torch.zeros(4, 5), "gallery_groups": torch.zeros(4, dtype=torch.int64)}, "make width"),
    ],
)
def test_bad_input_is_said_in_one_line(change, message):
    z, groups = make_batch([4] * 6, 0.5, 21)
    arguments = {"embeddings": z, "groups": groups} | change
    with pytest.raises(S2R2Error, match=message) as caught:
        SmoothAPLoss()(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": float("nan")}, {"reduction": "sum"}, {"backend": "cuda"}, {"outer": "x"}],
)
def test_bad_options(options):
    z, groups = make_batch([4] * 6, 0.5, 22)
    with pytest.raises(S2R2Error):
        SmoothAPLoss(**options)(z, groups)
