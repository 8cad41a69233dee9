"""What the losses refuse, and that the remedies which their messages name work."""

import copy

import pytest
import torch
from ranking_cases import make_batch

from s2r2.errors import S2R2Error
from s2r2.losses import (
    SURROGATES,
    GradedRankingLoss,
    MemoryBank,
    MVDHELLoss,
    NTXentLoss,
    RankingLoss,
    SmoothAPLoss,
    SpreadLoss,
    SwAVLoss,
    ranking_loss,
    sinkhorn,
    smooth_ap_definition,
    smooth_average_precision_loss,
)
from s2r2.losses.neighbors import with_neighbors

Z, GROUPS = make_batch([3] * 4, 0.5, 3)
LOSSES = [SmoothAPLoss(), SmoothAPLoss(reduction="none"), RankingLoss("sup-ap"), NTXentLoss(), SwAVLoss(6, 4)]


def definition(z):  # type: ignore[no-untyped-def]
    return smooth_ap_definition(z, GROUPS, 0.1)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_transforms_are_refused_in_one_line(loss):
    def total(z):  # type: ignore[no-untyped-def]
        return loss(z, GROUPS).sum()

    tries = [
        lambda: torch.func.grad(total)(Z),
        lambda: torch.func.jacrev(total)(Z),
        lambda: torch.func.vmap(total)(torch.stack([Z, Z])),
        lambda: torch.func.jvp(total, (Z,), (Z,)),
    ]
    for attempt in tries:
        with pytest.raises(S2R2Error, match="smooth_ap_definition") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(S2R2Error, match="smooth_ap_definition"):
        total(torch.autograd.forward_ad.make_dual(Z, Z))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["smooth-ap", "quantised-ap"])
def test_second_derivatives_are_refused_and_never_wrong(name, reduction):
    """Behind a layer the gradient used to pass as a constant, and the second derivative lacked the loss's own part."""
    loss, layer, z = RankingLoss(name, reduction=reduction), torch.nn.Linear(6, 6).double(), Z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(layer(z), GROUPS).sum(), z, create_graph=True)
    (plain,) = torch.autograd.grad(loss(layer(z), GROUPS).sum(), z)
    torch.testing.assert_close(gradient, plain)  # the first one is right, and may be had
    with pytest.raises(S2R2Error, match=r"no second derivative: use .*smooth_ap_definition"):
        gradient.square().sum().backward()
    (gradient,) = torch.autograd.grad(loss(z, GROUPS).sum(), z, create_graph=True)
    with pytest.raises(S2R2Error, match="no second derivative"):
        torch.autograd.grad(gradient.square().sum(), z)


def test_the_definition_does_what_the_others_refuse():
    z = Z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(definition(z), z, create_graph=True)
    torch.testing.assert_close(torch.func.grad(definition)(Z), expected.detach())
    torch.testing.assert_close(torch.func.vmap(definition)(torch.stack([Z, Z])), definition(Z).expand(2))
    assert torch.func.hessian(definition)(Z).isfinite().all()
    (second,) = torch.autograd.grad(expected.square().sum(), z)
    assert second.abs().sum() > 0
    compiled = torch.compile(definition, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(Z), definition(Z).detach())


@pytest.mark.parametrize("loss", [SmoothAPLoss(), smooth_average_precision_loss, NTXentLoss()])
def test_a_whole_graph_names_the_definition(loss):
    compiled = torch.compile(lambda z: loss(z, GROUPS), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="smooth_ap_definition"):
        compiled(Z)


@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), "nan", None, True])
@pytest.mark.parametrize("loss", [SmoothAPLoss, NTXentLoss, lambda: SwAVLoss(6, 4)])
def test_settings_are_checked_when_used(loss, value):
    made = loss()
    made.temperature = value
    with pytest.raises(S2R2Error, match="temperature is"):
        made(Z, GROUPS)


@pytest.mark.parametrize(("name", "value"), [("form", "x"), ("no_pairs", "x"), ("no_pairs", None)])
def test_other_settings_too(name, value):
    made = NTXentLoss()
    setattr(made, name, value)
    with pytest.raises(S2R2Error, match=name):
        made(Z, GROUPS)


@pytest.mark.parametrize(
    "loss",
    [
        SmoothAPLoss(no_pairs="zero"),
        SmoothAPLoss(no_pairs="zero", reduction="none", backend="torch"),
        RankingLoss("quantised-ap", no_pairs="zero"),
        NTXentLoss(no_pairs="zero"),
        SmoothAPLoss(no_pairs="zero", bank=MemoryBank(20, 6)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("count", [12, 1, 0])
def test_a_batch_without_pairs_may_count_nothing(loss, count):
    layer = torch.nn.Linear(6, 6)
    value = loss(layer(torch.randn(count, 6)), torch.arange(count))
    value.sum().backward()
    assert value.sum().item() == 0
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_the_remedy_for_no_pairs_works():
    with pytest.raises(S2R2Error, match='no_pairs="zero"'):
        SmoothAPLoss()(Z, torch.arange(12))
    assert SmoothAPLoss(no_pairs="zero")(Z, torch.arange(12)) == 0
    with pytest.raises(S2R2Error, match="no group occurs twice"):
        smooth_ap_definition(Z, torch.arange(12))


@pytest.mark.parametrize(
    ("z", "groups"),
    [(Z.to_sparse(), GROUPS), (Z.to("meta"), GROUPS), (Z, GROUPS.to("meta")), (Z, GROUPS.numpy()), (Z, ["a"] * 12)],
)
@pytest.mark.parametrize("loss", [SmoothAPLoss(), NTXentLoss(), SwAVLoss(6, 4)])
def test_other_tensors_are_refused_in_one_line(loss, z, groups):
    with pytest.raises(S2R2Error) as caught:
        loss(z, groups)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_nothing_global_is_changed(loss):
    def everything():  # type: ignore[no-untyped-def]
        matmul = [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]
        state = [torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), *matmul]
        return [*state, torch.get_rng_state().tolist()]

    before = everything()
    loss(Z.clone().requires_grad_(), GROUPS).sum().backward()
    with pytest.raises(S2R2Error):
        loss(Z * float("nan"), GROUPS)
    assert everything() == before


@pytest.mark.parametrize(
    ("loss", "groups"),
    [
        *[(loss, GROUPS) for loss in (*LOSSES, SmoothAPLoss(backend="torch"), SpreadLoss(), MVDHELLoss())],
        (SmoothAPLoss(0.02, bank=MemoryBank(20, 6, positives=True)), GROUPS),
        (RankingLoss("quantised-ap"), GROUPS),
        (GradedRankingLoss("ndcg"), torch.stack([GROUPS, GROUPS // 2], dim=1)),
    ],
    ids=repr,
)
def test_another_default_device_changes_nothing(loss, groups):
    """Such as torch.set_default_device("cuda") with embeddings on the CPU, or groups there as is advised."""
    z = Z.float().requires_grad_()
    expected = copy.deepcopy(loss)(z, groups)
    with torch.device("meta"):
        found = [loss(z, groups), loss(z, groups)][0]  # the second with what the bank remembers
        found.sum().backward()
    torch.testing.assert_close(found, expected)


def test_neighbors_are_the_same_under_autocast_and_another_default_device():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(400, 6) * 0.01 + torch.randn(6), dim=1)
    images, found = torch.arange(200), []
    for settings in (torch.device("cpu"), torch.device("meta"), torch.autocast("cpu", torch.bfloat16)):
        recent = MemoryBank(300, 6)
        recent.add(z[200:], torch.zeros(200, dtype=torch.int64))
        with settings:
            found.append(with_neighbors(z[:200], images, recent).groups)
    assert len(found[0]) > 220
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*SURROGATES, "nt-xent", "swav"])
def test_embeddings_too_large_to_multiply_are_a_line(name, dtype):
    width = Z.shape[1]
    loss = {"nt-xent": NTXentLoss(), "swav": SwAVLoss(width, 4)}.get(name) or RankingLoss(name)
    z = Z.to(dtype).clone()
    assert torch.isfinite(loss(z * (1e130 if dtype == torch.float64 else 1e12), GROUPS))
    z[2, 1] = 1e200 if dtype == torch.float64 else 1e30
    with pytest.raises(S2R2Error, match="normalize embeddings first") as caught:
        loss(z, GROUPS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_embeddings_without_numbers_are_a_line(loss):
    with pytest.raises(S2R2Error, match="nothing to compare"):
        loss(torch.zeros(4, 0), torch.tensor([0, 0, 1, 1]))


def test_settings_of_another_type_are_a_line():
    for name, make in (
        ("no graded loss", lambda: GradedRankingLoss(["h-ap"])),
        ("no ranking loss", lambda: RankingLoss(["smooth-ap"])),
        ("no ranking loss", lambda: ranking_loss(Z, GROUPS, None, temperature=0.1)),
        ("weights is 1.0", lambda: GradedRankingLoss(weights=1.0)),
        ("embeddings must be", lambda: SpreadLoss()(Z.tolist(), GROUPS)),
        ("embeddings must be", lambda: MVDHELLoss()(Z.tolist(), GROUPS)),
        ("epsilon is 0", lambda: sinkhorn(Z, epsilon=0)),
        ("iterations is 1.5", lambda: sinkhorn(Z, iterations=1.5)),
        ("groups is ", lambda: smooth_ap_definition(Z, GROUPS[:5])),
        ("groups must be", lambda: smooth_ap_definition(Z, GROUPS.tolist())),
        ("chunk is 2.5", lambda: smooth_ap_definition(Z, GROUPS, chunk=2.5)),
    ):
        with pytest.raises(S2R2Error, match=name):
            make()
    assert ranking_loss(Z, GROUPS, "smooth-ap", temperature=0.05) == SmoothAPLoss(0.05)(Z, GROUPS)
    for settings in ({"include_self": "no"}, {"check_finite": 1}, {"distributed": "x"}, {"distributed": 3}):
        with pytest.raises(S2R2Error, match=next(iter(settings))):
            SmoothAPLoss(**settings)(Z, GROUPS)
    with pytest.raises(S2R2Error, match=r"query_mask is .*list"):
        SmoothAPLoss()(Z, GROUPS, query_mask=[True] * len(Z))
    for settings in ({"width": "x"}, {"prototypes": 2.5}, {"iterations": 1.5}, {"queue": -1}, {"epsilon": "x"}):
        with pytest.raises(S2R2Error, match=next(iter(settings))):
            SwAVLoss(**{"width": 6, "prototypes": 4, **settings})
