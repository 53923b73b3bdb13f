"""Flows in both directions against the Jacobian of autograd, quadrature and brute force."""

import copy
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform
from torch.func import functional_call

from latently import load, save, vae
from latently.inference import ELBO, IWAE, DReG, Reparam
from latently.nets import MLP
from latently.probability.conditional import Conditional, draw
from latently.probability.families import FlowNormal, Normal
from latently.probability.flows import MAF, NSF, FlowDistribution, RealNVP
from latently.probability.priors import FlowPrior
from latently.registry import KINDS

from .oracles import shaken

VECTORS = {name: kind for name, kind in KINDS["flows"].items() if hasattr(kind, "transforms")}
FLOWS = {
    **{n: kind(transforms=2, hidden=(8,)) for n, kind in VECTORS.items() if n != "Zuko"},
    "NSF coupling": NSF(transforms=2, hidden=(8,), coupling=True),
}
every = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)


def built(flow, features, context=0):
    return shaken(flow.build(features, context).double())


def log_det(function, x):
    jacobian = torch.autograd.functional.jacobian(function, x)
    return torch.linalg.slogdet(jacobian)[1]


# The bijection.


@every
@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 3), (2, 0), (4, 3)])
def test_log_det_is_that_of_the_jacobian_in_both_directions(flow, features, context):
    f = built(flow, features, context)
    c = torch.randn(3).double() if context else None
    for x in 2 * torch.randn(2, features).double():
        y, found = f(x, c)
        wanted = log_det(lambda x: f(x, c)[0], x)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
        back = log_det(lambda y: f.inverse(y, c), y)
        torch.testing.assert_close(found, -back, rtol=0, atol=1e-8)


@every
@pytest.mark.parametrize("scale", [1.0, 5.0, 50.0])
def test_inverse_undoes_it_everywhere(flow, scale):
    f = built(flow, 4)
    x = scale * torch.randn(200, 4).double()
    torch.testing.assert_close(f.inverse(f(x)[0]), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(f(f.inverse(x))[0], x, rtol=1e-6, atol=1e-6)


@every
def test_it_starts_near_the_identity(flow):
    f = flow.build(6, 2)
    x, c = torch.randn(100, 6), torch.randn(100, 2)
    assert (f(x, c)[0] - x).abs().max() < 0.2
    assert f(x, c)[1].abs().max() < 0.2


@every
def test_every_feature_reaches_every_other_or_those_it_should(flow):
    """Some value of each feature moves with some other one: the chain mixes."""
    f = built(flow, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: f(x)[0], torch.randn(4).double())
    off = (jacobian - jacobian.diag().diag()).abs() > 1e-9
    assert off.any(0).all()
    assert off.any(1).all()


@every
def test_it_is_built_without_memory_and_copied(flow):
    with torch.device("meta"):
        assert all(p.is_meta for p in flow.build(5, 2).parameters())
    f = built(flow, 5, 2)
    x, c = torch.randn(7, 5).double(), torch.randn(7, 2).double()
    other = copy.deepcopy(f)
    assert torch.equal(other(x, c)[0], f(x, c)[0])
    shaken(other)
    assert not torch.equal(other(x, c)[0], f(x, c)[0])


@pytest.mark.parametrize("kind", VECTORS.values())
def test_bad_options_are_refused(kind, refused):
    with refused(kind.__name__, "transforms=0"):
        kind(transforms=0)
    with refused("hidden=-1"):
        kind(hidden=(4, -1))
    with refused("weights", "smaller hidden"):
        kind(hidden=(10**6, 10**6)).build(4)
    assert kind(hidden=7) == kind(hidden=[7])


@every
def test_rows_of_a_shape_are_taken_as_vectors(flow):
    sizes = [p.shape for p in flow.build((2, 3)).parameters()]
    assert sizes == [p.shape for p in flow.build(6).parameters()]


def test_no_flow_is_refused(refused):
    with refused("bins=1"):
        NSF(bins=1)
    with refused("FlowPrior", "flow=3"):
        FlowPrior((2,), flow=3)
    with refused("FlowNormal", "flow='MAF'"):
        FlowNormal((2,), flow="MAF")
    with refused("FlowNormal", "context=-1"):
        FlowNormal((2,), context=-1)


# The host.


@pytest.mark.slow
def test_importing_latently_does_not_import_zuko():
    code = "import sys, latently.interfaces.cli, latently.registry; print('zuko' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_torch_is_as_it_was_after_a_flow_is_built():
    code = (
        "from torch.distributions import Distribution as D\n"
        "from torch.distributions.transforms import _InverseTransform as I\n"
        "def state(): return D._validate_args, D.__dict__['arg_constraints'], I.__name__\n"
        "before = state()\n"
        "import latently.probability.flows as flows\n"
        "flows.MAF().build(3)\n"
        "import sys, zuko\n"
        "print(before == state(), before[0], 'zuko' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "True True True", found.stderr


def test_torch_is_as_it_was_in_this_process_too():
    before = Distribution._validate_args  # compiling a step switches it off for good
    MAF().build(2)
    assert Distribution._validate_args is before
    assert isinstance(Distribution.__dict__["arg_constraints"], property)
    assert _InverseTransform.__name__ == "_InverseTransform"
    assert issubclass(_InverseTransform, Transform)


# The prior.


def prior_of(flow, z_shape=(2,), contexts=0, by=0.3):
    encoder = Conditional(TINY, Normal(z_shape), (3,), contexts=contexts)
    return shaken(FlowPrior(z_shape, encoder, flow=flow).double(), by)


@pytest.mark.slow
@every
@pytest.mark.parametrize("contexts", [0, 2])
def test_prior_integrates_to_one_in_the_plane(flow, contexts):
    prior = prior_of(flow, (2,), contexts)
    d = prior(torch.randn(1, 2).double() if contexts else None)
    y = torch.linspace(-4.5, 4.5, 401).double()
    axis, weight = y.sinh(), y.cosh()
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[:, None] if contexts else grid
    with torch.no_grad():
        log_p = d.log_prob(grid).view(401, 401)
    inner = torch.trapezoid(log_p.exp() * weight, y)
    assert torch.trapezoid(inner * weight, y) == pytest.approx(1, abs=1e-3)


@every
def test_prior_is_the_change_of_variables(flow):
    prior = prior_of(flow, (2, 2), 3)
    c, z = torch.randn(3, 3).double(), torch.randn(3, 2, 2).double()
    found = prior(c).log_prob(z)
    for b in range(3):

        def noise(z, b=b):
            return prior.bijection(z, c[b])[0]

        eps = noise(z[b].flatten())
        wanted = -0.5 * eps.square().sum() - 2 * math.log(2 * math.pi)
        wanted = wanted + log_det(noise, z[b].flatten())
        torch.testing.assert_close(found[b], wanted, rtol=0, atol=1e-8)


@every
def test_draws_of_the_prior_follow_its_density(flow):
    """Of draws, `f(z)` is N(0, I); the mean and variance are theirs."""
    d = prior_of(flow, (3,), by=0.15)()
    z = d.sample((20_000,))
    eps = d.bijection(z)[0]
    assert eps.mean(0).abs().max() < 5 / math.sqrt(20_000)
    assert (eps.T.cov() - torch.eye(3)).abs().max() < 0.06
    assert ((z.mean(0) - d.mean).abs() < 5 * z.std(0) / math.sqrt(20_000) + 0.1 * z.std(0)).all()
    assert (z.var(0) / d.variance - 1).abs().max() < 0.3
    assert torch.equal(d.mean, d.mean)
    torch.manual_seed(3)
    again = d.rsample((5,))
    torch.manual_seed(3)
    assert torch.equal(d.sample((5,)), again)
    assert again.requires_grad


@pytest.mark.parametrize("size", [1, 5, 63])
def test_moments_of_a_linear_flow_are_exact(size):
    prior = FlowPrior((size,), flow=MAF(transforms=1, hidden=())).double()
    d = shaken(prior, 0.05)()
    with torch.no_grad():  # no scale reads a value: f is affine
        rows = d.bijection.layers[0].hyper[-1].weight.view(size, 2, -1) if size > 1 else None
        if rows is not None:
            rows[:, 1] = 0
        centre = d.bijection.inverse(torch.zeros(size).double())
        jacobian = d.bijection.inverse(torch.eye(size).double()) - centre
    torch.testing.assert_close(d.mean, centre)
    torch.testing.assert_close(d.variance, jacobian.square().sum(0))


@every
def test_a_model_with_flows_is_saved_and_read_again(flow, tmp_path):
    model = vae(
        (4,),
        latents=(2, 1),
        net=TINY,
        prior=partial(FlowPrior, flow=flow),
        posterior=partial(FlowNormal, flow=flow, context=3),
        contexts=2,
    ).eval()
    shaken(model, 0.2)
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    c = torch.randn(1, 2)
    assert torch.equal(back.sample(3, c, seed=0), model.sample(3, c, seed=0))
    assert str(back.call) == str(model.call)


# The posterior.


def posterior_of(flow, shape=(2,), context=3):
    family = shaken(FlowNormal(shape, flow=flow, context=context).double(), 0.3)
    family.unscaled()
    return family


@every
@pytest.mark.parametrize("context", [0, 3])
def test_log_q_of_a_draw_is_the_one_that_is_found_by_the_inverse(flow, context):
    family = posterior_of(flow, (3,), context)
    h = torch.randn(5, *family.param_shape).double().requires_grad_(True)
    d = family(h)
    z = draw(d, 4)
    remembered, found = d.log_prob(z), d.log_prob(z + 0)
    torch.testing.assert_close(remembered, found, rtol=0, atol=1e-8)
    leaves = [h, *family.parameters()]
    slopes = [torch.autograd.grad(v.sum(), leaves, retain_graph=True) for v in (remembered, found)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@every
def test_log_q_is_the_change_of_variables(flow):
    family = posterior_of(flow, (3,))
    h = torch.randn(*family.param_shape).double()
    d = family(h)
    eps = torch.randn(3).double()
    wanted = -0.5 * eps.square().sum() - 1.5 * math.log(2 * math.pi) - log_det(d._from_noise, eps)
    found = d.log_prob(d._from_noise(eps))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.slow
@every
def test_posterior_integrates_to_one_in_the_plane(flow):
    family = posterior_of(flow)
    d = family(0.5 * torch.randn(*family.param_shape).double())
    y = torch.linspace(-4.5, 4.5, 401).double()
    axis, weight = y.sinh(), y.cosh()
    with torch.no_grad():
        log_p = d.log_prob(torch.cartesian_prod(axis, axis)).view(401, 401)
    total = torch.trapezoid(torch.trapezoid(log_p.exp() * weight, y) * weight, y)
    assert total == pytest.approx(1, abs=1e-3)


def test_what_is_remembered_is_not_taken_for_another_gradient():
    family = posterior_of(MAF(transforms=2))
    h = torch.randn(*family.param_shape).double().requires_grad_(True)
    d = family(h)
    z = d.sample((3,))
    with torch.no_grad():
        value = d.log_prob(z)
    scored = d.log_prob(z)
    assert scored.requires_grad
    torch.testing.assert_close(scored, value)
    (slope,) = torch.autograd.grad(scored.sum(), h)
    step = 1e-6 * torch.randn_like(h)
    up, down = (family(h.detach() + sign * step).log_prob(z).sum() for sign in (1, -1))
    torch.testing.assert_close((up - down) / 2, (slope * step).sum(), rtol=1e-5, atol=1e-12)


@every
def test_held_log_prob_has_the_gradient_of_the_value_alone(flow):
    encoder = Conditional(TINY, posterior_of(flow), (3,)).double()
    x = torch.randn(4, 3).double()
    h = encoder.params(x)
    z = draw(encoder.family(h), 2)
    held = encoder.held_log_prob(h, z)
    torch.testing.assert_close(held, encoder.family(h).log_prob(z.detach()), rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(held.sum(), z)
    step = 1e-6 * torch.randn_like(z)
    d = encoder.family(h.detach())
    up, down = (d.log_prob(z.detach() + sign * step) for sign in (1, -1))
    torch.testing.assert_close(((up - down) / 2).sum(), (slope * step).sum(), rtol=1e-5, atol=0)
    parameters = list(encoder.family.parameters())
    assert all(
        g is None or not g.any()
        for g in torch.autograd.grad(
            encoder.held_log_prob(h, z.detach().requires_grad_(True)).sum(),
            parameters,
            allow_unused=True,
        )
    )


def test_functional_call_puts_other_weights_in():
    family = posterior_of(MAF(transforms=2))
    other = shaken(copy.deepcopy(family))
    h, z = torch.randn(*family.param_shape).double(), torch.randn(2).double()

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.family = family

        def forward(self, z):
            return self.family(h).log_prob(z)

    weights = {f"family.{name}": p for name, p in other.named_parameters()}
    found = functional_call(Score(), weights, (z,))
    torch.testing.assert_close(found, other(h).log_prob(z))
    assert not torch.equal(found, family(h).log_prob(z))


@pytest.mark.parametrize(("bound", "estimator"), [(ELBO(), Reparam()), (IWAE(), DReG())])
def test_gradients_are_those_of_an_integral(bound, estimator):
    """One latent: the mean gradient against that of the bound by quadrature over the noise."""
    torch.manual_seed(1)
    model = vae(
        (2,),
        latents=1,
        net=partial(MLP, hidden=()),
        posterior=partial(FlowNormal, flow=NSF(transforms=1, bins=3, hidden=(4,)), context=2),
        prior=partial(FlowPrior, flow=MAF(transforms=1)),
    ).double()
    shaken(model, 0.4)
    x = torch.tensor([[1.0, 0.0]]).double()
    parameters = dict(model.named_parameters())
    samples = 2 if isinstance(bound, IWAE) else 1
    exact = torch.autograd.grad(by_quadrature(model, x, samples), parameters.values())
    found = []
    many = x.expand(400, 2)
    for _ in range(60):
        p = model.infer(many, samples, gradient=estimator.gradient)
        value = estimator(bound, p).mean()
        found.append(torch.autograd.grad(value, parameters.values()))
    for name, wanted, *draws in zip(parameters, exact, *found, strict=True):
        drawn = torch.stack(draws)
        error = drawn.std(0) / math.sqrt(len(draws))
        assert ((drawn.mean(0) - wanted).abs() < 5 * error + 1e-4).all(), name


def by_quadrature(model, x, samples):
    """E over N(0, 1) noise of the log mean weight of `samples` draws."""
    eps = torch.linspace(-7, 7, 701).double()
    share = torch.exp(-0.5 * eps.square()) / math.sqrt(2 * math.pi) * (eps[1] - eps[0])
    d = model.encoder(x)
    bent, log_slope = d.bijection(eps[:, None, None], d.context)
    z = d.loc + d.scale * bent
    log_q = -0.5 * eps.square()[:, None] - 0.5 * math.log(2 * math.pi) - log_slope
    log_q = log_q - d.log_scale.sum(-1)
    log_w = model.prior().log_prob(z) + model.likelihood((z,)).log_prob(x) - log_q
    log_w = log_w[:, 0]
    if samples == 1:
        return share @ log_w
    pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    return share @ pairs @ share


def test_elbo_is_unbiased_for_log_p_less_the_kl():
    """With f exact for the posterior the bound is log p; here: below it, and equal by numbers."""
    model = vae((2,), latents=1, net=TINY, posterior=partial(FlowNormal, flow=MAF())).double()
    shaken(model, 0.3)
    x = torch.tensor([[1.0, 0.0]]).double()
    with torch.no_grad():
        values = ELBO()(model.infer(x.expand(20_000, 2), 1))
        wanted = by_quadrature(model, x, 1)
    assert (values.mean() - wanted).abs() < 5 * values.std() / math.sqrt(20_000)


def test_a_spline_posterior_learns_two_modes():
    """p(z|x) of z^2 seen in noise has two modes, which no normal can follow."""
    torch.manual_seed(0)
    gaps = {}
    z = torch.linspace(-4, 4, 4001).double()

    def log_joint(z):
        return -0.5 * z.square() - 0.5 * ((z.square() - 1) / 0.5).square()

    log_p = torch.logsumexp(log_joint(z), 0) + math.log(8 / 4000)
    for name, family in (
        ("normal", Normal((1,))),
        ("flow", FlowNormal((1,), flow=NSF(transforms=1, bins=12), context=2)),
    ):
        family = family.double()
        family.unscaled()
        h = torch.nn.Parameter(torch.zeros(family.param_shape).double())
        optimizer = torch.optim.Adam([h, *family.parameters()], 1e-2)
        for _ in range(300):
            q = family(h)
            draws = draw(q, 128)
            loss = (q.log_prob(draws) - log_joint(draws[..., 0])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        q = family(h)
        with torch.no_grad():
            draws = draw(q, 4000)
            gaps[name] = log_p - (log_joint(draws[..., 0]) - q.log_prob(draws)).mean()
    assert gaps["normal"] > 0.4
    assert gaps["flow"] < 0.1


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posterior_is_finite_at_extreme_parameters(flow, dtype):
    family = FlowNormal((3,), flow=flow, context=2).to(dtype)
    for size in (30.0, 1e3, 1e6):
        h = size * torch.randn(50, *family.param_shape).to(dtype).requires_grad_(True)
        x = torch.randn(50, 3).to(dtype)
        log_p = family(h).log_prob(x)
        slope = torch.autograd.grad(log_p.sum(), h)[0]
        assert log_p.isfinite().all()
        assert slope.isfinite().all()


def test_columns_far_from_zero_keep_their_digits():
    family = FlowNormal((2,), flow=RealNVP(transforms=2))
    x = 1.7e9 + 60 * torch.arange(50.0).double()[:, None].expand(50, 2)
    with torch.no_grad():
        family.initialise(x)
        log_p = family(torch.zeros(50, *family.param_shape)).log_prob(x)
    assert log_p.unique().numel() > 20
    assert isinstance(family(torch.zeros(family.param_shape)), FlowDistribution)


def test_a_spline_bends_within_its_box_and_nowhere_else(refused):
    x = torch.tensor([[7.0, 0.0], [12.0, 0.0]]).double()
    for bound, bent in ((5.0, [False, False]), (10.0, [True, False])):
        f = NSF(transforms=1, hidden=(4,), bound=bound).build(2).double()
        with torch.no_grad():
            for p in f.parameters():
                p.add_(torch.randn_like(p))
        moved = (f(x)[0][:, 0] - x[:, 0]).abs() > 1e-6
        assert moved.tolist() == bent
    with refused("NSF", "bound=0"):
        NSF(bound=0)
