"""Flows of Zuko by name, in both directions, against the Jacobian of autograd and quadrature."""

import copy
from functools import partial

import pytest
import torch

from latently import expr, load, save, vae
from latently.nets import MLP
from latently.probability.flows import FlowDistribution, Zuko
from latently.probability.priors import FlowPrior
from latently.registry import components

from .oracles import shaken

ZUKO = {
    **{n: Zuko(n, transforms=2, hidden=(8,)) for n in ("MAF", "NSF", "NICE", "RealNVP")},
    "MAF coupling": Zuko("MAF", passes=2, hidden=(8,)),
    "NAF": Zuko("NAF", transforms=2, hidden=(8,), signal=4),
    "UNAF": Zuko("UNAF", transforms=2, hidden=(8,), signal=4),
    "SOSPF": Zuko("SOSPF", transforms=2, hidden=(8,), degree=2, polynomials=2),
    "BPF": Zuko("BPF", transforms=2, hidden=(8,), degree=6),
    "GF": Zuko("GF", transforms=2, hidden=(8,), components=3),
    "CNF": Zuko("CNF", hidden=(8,), freqs=2),
}
every = pytest.mark.parametrize("flow", ZUKO.values(), ids=ZUKO)


def built(flow, features, context=0, by=0.1):
    return shaken(flow.build(features, context).double(), by)


def log_det(function, x):
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(function, x))[1]


def solved(flow):
    """Whether a differential equation is solved to a tolerance."""
    return getattr(flow, "name", "") == "CNF"


@pytest.mark.slow
@every
@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 3), (3, 0), (3, 3)])
def test_log_det_is_that_of_the_jacobian_in_both_directions(flow, features, context):
    f = built(flow, features, context)
    c = torch.randn(3).double() if context else None
    tolerance = 5e-4 if solved(flow) else 1e-8  # the adjoint is solved, too
    x = 2 * torch.randn(features).double()
    y, found = f(x, c)
    wanted = log_det(lambda x: f(x, c)[0], x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    back = log_det(lambda y: f.inverse(y, c), y)
    torch.testing.assert_close(found, -back, rtol=0, atol=tolerance)


@pytest.mark.slow
@every
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_inverse_of_zuko_undoes_it(flow, scale):
    f = built(flow, 3)
    x = scale * torch.randn(10, 3).double()
    tolerance = 1e-5 if solved(flow) else 1e-7
    torch.testing.assert_close(f.inverse(f(x)[0]), x, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(f(f.inverse(x))[0], x, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@every
def test_density_of_zuko_integrates_to_one_on_the_line(flow):
    f = built(flow, 1)
    d = FlowDistribution(f, torch.zeros(1).double(), 1)
    y = torch.linspace(-6, 6, 501 if solved(flow) else 10_001).double()
    with torch.no_grad():
        p = d.log_prob(y.sinh()[:, None]).exp()
    assert torch.trapezoid(p * y.cosh(), y) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@every
def test_gradients_reach_all_parameters_both_ways(flow):
    f = built(flow, 3, 2, by=0.2)
    x, c = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    for value in (f(x, c)[0].square().sum() + f(x, c)[1].sum(), f.inverse(x, c).square().sum()):
        for name, parameter in f.named_parameters():
            (slope,) = torch.autograd.grad(value, parameter, retain_graph=True)
            assert slope.isfinite().all(), name
            assert slope.any(), name


@pytest.mark.parametrize("name", ["NAF", "SOSPF", "BPF", "GF", "UNAF"])
def test_maps_found_by_search_are_of_all_real_numbers(name):
    """Zuko's own are not: noise far out comes from rows far out, and rows are not lost."""
    f = built(ZUKO[name], 2, by=0.2)
    for size in (1.0, 1e4):
        eps = size * torch.randn(5, 2).double()
        x = f.inverse(eps)
        assert x.isfinite().all()
        torch.testing.assert_close(f(x)[0], eps, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert not f(eps)[0].requires_grad


def test_flows_of_zuko_go_by_name(refused):
    with refused("Zuko", "'MAFF'", "did you mean MAF"):
        Zuko("MAFF")
    with refused("0.5", "known"):
        Zuko(0.5)
    with refused("NCSF", "circles", "NSF"):
        Zuko("NCSF")
    with refused("MAF takes no option 'bins'", "transforms, hidden, passes"):
        Zuko("MAF", bins=4)
    with refused("CNF takes no option 'transforms'"):
        Zuko("CNF", transforms=2)
    with refused("bins=1", "at least 2"):
        Zuko("NSF", bins=1)
    flow = Zuko("SOSPF", degree=2, polynomials=2)
    assert expr.build(expr.show(flow), components()) == flow


@every
def test_it_is_built_without_memory_copied_and_saved(flow, tmp_path):
    with torch.device("meta"):
        assert all(p.is_meta for p in flow.build((2, 1), 2).parameters())
    f = built(flow, 2, 2)
    x, c = torch.randn(3, 2).double(), torch.randn(3, 2).double()
    assert torch.equal(copy.deepcopy(f)(x, c)[0], f(x, c)[0])
    net = partial(MLP, hidden=(5,))
    model = vae((4,), latents=2, net=net, prior=partial(FlowPrior, flow=flow)).eval()
    shaken(model, 0.1)
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m").sample(3, seed=0), model.sample(3, seed=0))


def test_too_many_weights_are_refused(refused):
    for name in ("CNF", "NAF", "GF", "NSF"):
        with refused("Zuko", name, "weights", "smaller hidden"):
            Zuko(name, hidden=(10**6, 10**6)).build(4)
