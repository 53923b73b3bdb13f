"""Semi-amortised training: who learns from what, by gradients, by evidence and by refusals."""

from functools import partial

import pytest
import torch

from latently import (
    ELBO,
    IWAE,
    REBAR,
    VIMCO,
    Cosine,
    Data,
    Dequantized,
    Enumerate,
    GumbelSoftmax,
    Linear,
    Reparam,
    Score,
    SemiAmortised,
    Variational,
    expr,
    fit,
    ppca,
    train,
    vae,
)
from latently.inference import STL, DReG
from latently.inference.noise import seeded
from latently.nets import MLP
from latently.probability.families import FixedNormal, Normal, OneHot
from latently.probability.priors import Learned, VampPrior
from latently.registry import components

QUIET = {"progress": False, "device": "cpu"}
TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)
STEP = (torch.tensor(0), 1)


def small(**options):
    torch.manual_seed(0)
    return vae((4,), latents=2, net=TINY, **options).double()


def bits(n=6):
    return torch.rand(n, 4).lt(0.5).double()


def value(objective, model, x, mask=None, context=None, seed=1):
    with seeded(seed, x.device):
        return objective(model, x, mask, context, *STEP).bound


# What is learned from what.


@pytest.mark.parametrize("estimator", [Reparam(), Enumerate()])
def test_through_has_the_total_derivative(estimator):
    """Against finite differences of the bound at the end of the search, in every parameter."""
    discrete = isinstance(estimator, Enumerate)
    model = small(posterior=OneHot, prior=Learned) if discrete else small()
    objective, x = SemiAmortised(estimator=estimator, through=True, steps=3), bits(4)
    model.zero_grad()
    value(objective, model, x).sum().backward()
    for name, p in model.named_parameters():
        for at in (0, p.numel() // 2, p.numel() - 1):
            ends, step = [], 1e-5
            for sign in (1, -2):
                with torch.no_grad():
                    p.view(-1)[at] += sign * step
                ends.append(value(objective, model, x).sum().item())
            with torch.no_grad():
                p.view(-1)[at] += step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert p.grad.view(-1)[at].item() == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_the_search_itself_has_a_share_in_that_derivative():
    model, x = small(), bits()
    grads = []
    for through in (True, False):
        model.zero_grad()
        value(SemiAmortised(through=through, steps=3), model, x).sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name in grads[0]:
        assert not torch.allclose(grads[0][name], grads[1][name], rtol=1e-4), name


def test_in_parts_the_encoder_learns_by_its_own_bound():
    model, x = small(), bits()
    value(SemiAmortised(steps=3), model, x).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    value(Variational(), model, x).sum().backward()  # the search begins with the same draws
    for name, p in model.named_parameters():
        same = torch.equal(p.grad, found[name])
        assert same == name.startswith("encoder"), name


def test_in_parts_the_decoder_learns_at_the_refined_q():
    """By finite differences at local parameters that are held, as the search found them."""
    model, x, found = small(), bits(), []
    infer = model.infer
    model.infer = lambda *args, **how: found.append(how["local"]) or infer(*args, **how)
    objective = SemiAmortised(steps=3)
    value(objective, model, x).sum().backward()
    del model.infer
    layer, ends, step = model.decoder.net.layers[0].weight, [], 1e-6
    for sign in (1, -2):
        with seeded(1, x.device), torch.no_grad():
            layer.view(-1)[3] += sign * step
            for own in found[:-1]:  # the search's draws come before
                model.infer(x, 1, local=own)
            ends.append(ELBO()(model.infer(x, 1, local=found[-1])).sum().item())
    slope = (ends[0] - ends[1]) / (2 * step)
    assert layer.grad.view(-1)[3].item() == pytest.approx(slope, rel=1e-4)


def test_parameters_learn_again_afterwards():
    model = small()
    frozen = model.decoder.net.layers[0].bias
    frozen.requires_grad_(False)
    value(SemiAmortised(steps=2), model, bits()).sum().backward()
    assert frozen.grad is None
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


# What is reported.


@pytest.mark.slow
@pytest.mark.parametrize("through", [False, True])
def test_the_value_is_a_bound_and_above_the_encoders(gaussian_vae, through):
    case = gaussian_vae(shift=0.6, widen=0.5)
    objective = SemiAmortised(steps=20, learning_rate=0.1, samples=4, through=through)
    assert objective.is_bound
    values = torch.stack(
        [value(objective, case.model, case.x, seed=s).detach() for s in range(80)]
    )
    error = values.std(0) / 80**0.5
    assert (values.mean(0) < case.log_p + 4 * error).all()
    assert values.mean() > case.log_p.mean() - 0.5 * case.gap


def test_validation_is_of_the_refined_q_and_needs_no_gradients():
    model, x = small(), bits()
    with torch.no_grad():
        quiet = value(SemiAmortised(steps=4), model, x)
    assert not quiet.requires_grad
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(quiet, value(SemiAmortised(steps=4), model, x).detach())


def test_bounds_say_whether_they_are():
    assert SemiAmortised(IWAE(), samples=3).is_bound
    assert not SemiAmortised(ELBO(beta=2.0)).is_bound
    assert SemiAmortised(ELBO(free_bits=0.1)).couples


# Models and options.


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize(
    "objective",
    [SemiAmortised(steps=2), SemiAmortised(IWAE(), samples=3, steps=2)],
    ids=["elbo", "iwae"],
)
def test_masks_contexts_and_wrappers(objective, through):
    objective = expr.build(
        expr.show(objective).replace("steps=2", f"steps=2, through={through}"), components()
    )
    assert objective.through == through
    inner = small(sees_mask=True, contexts=2, likelihood=Normal)
    x, context = torch.randint(0, 4, (5, 4)).double(), torch.randn(5, 2).double()
    mask = torch.rand(5, 4) < 0.6
    for model in (inner, Dequantized(inner, levels=4)):
        model.zero_grad()
        found = value(objective, model, x, mask, context)
        assert found.shape == (5,)
        found.sum().backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
        hidden = torch.where(mask, x, 3.0)
        assert torch.equal(value(objective, model, hidden, mask, context), found)


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [
        (ELBO(), STL()),
        (IWAE(), DReG()),
        (ELBO(), Score()),
        (IWAE(), VIMCO()),
        (ELBO(), REBAR()),
        (ELBO(), Enumerate()),
        (ELBO(), GumbelSoftmax()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_estimators_of_either_kind_of_latents(bound, estimator):
    continuous = isinstance(estimator, STL | DReG)
    model = small() if continuous else small(posterior=OneHot, prior=Learned)
    value(SemiAmortised(bound, estimator, samples=3, steps=3), model, bits()).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_it_trains_with_schedules():
    data = Data.from_array(bits(20).float(), levels=2)
    objective = SemiAmortised(
        ELBO(beta=Linear(0.1, 1.0)), steps=2, learning_rate=Cosine(0.1), samples=2
    )
    found = fit(small().float(), data, objective, validation=data, epochs=2, **QUIET)
    assert "objective" in found.history[-1]
    assert found.history[-1]["validation"] < 0


def test_on_the_command_line_it_is_its_expression():
    text = "SemiAmortised(bound=IWAE, estimator=DReG, samples=5, steps=3)"
    made = expr.build(text, components())
    assert made == SemiAmortised(IWAE(), DReG(), samples=5, steps=3)
    assert expr.show(made) == text


def test_a_shared_encoder_learns_through_the_search_only(refused):
    model = small(prior=partial(VampPrior, components=3))
    with refused("SemiAmortised", "part of its prior", "through=True"):
        SemiAmortised().check_model(model)
    value(SemiAmortised(through=True, steps=2), model, bits()).sum().backward()
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, ("SemiAmortised", "steps=0")),
        ({"samples": 0}, ("SemiAmortised", "samples=0")),
        ({"learning_rate": -1.0}, ("learning_rate=-1.0", "positive")),
        ({"bound": IWAE}, ("bound=", "ELBO()")),
        ({"estimator": Reparam}, ("estimator=", "STL()")),
        ({"estimator": DReG()}, ("DReG is biased",)),
        ({"estimator": Score()}, ("samples=1", "at least 2")),
        ({"estimator": STL(), "through": True}, ("through=True", "STL", "Reparam")),
    ],
)
def test_bad_options_are_refused(options, words, refused):
    with refused(*words):
        SemiAmortised(**options)


@pytest.mark.parametrize("posterior", ["Gamma", "Beta", "Dirichlet", "StudentT"])
def test_draws_by_way_of_gammas_have_no_second_derivative(posterior, refused):
    """The backward pass was an error of torch: "derivative for '_standard_gamma_grad'"."""
    latents = {"posterior": components()[posterior], "prior": Learned}
    data = Data(bits(), "bits", "bits")
    with refused("through=True", "second derivatives", "use through=False"):
        fit(small(**latents), data, SemiAmortised(through=True), steps=1, **QUIET)
    found = fit(small(**latents), data, SemiAmortised(steps=2), steps=2, **QUIET)
    assert found.history[-1]["non_finite"] == 0


def test_exact_models_are_refused_before_the_first_step(refused):
    model, data = ppca((4,), latents=2), Data.from_array(torch.randn(8, 4))
    with refused("SemiAmortised", "PPCA is exact", "Variational"):
        next(train(model, data, SemiAmortised(), epochs=1, device="cpu"))


# What it is for.


@torch.no_grad()
def log_p_of_affine(model, x, std):
    """Exact: `N(mean, W W' + std^2)`, the decoder read off at 0 and unit vectors."""
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    means = model.likelihood((points[None],)).mean[0].double()
    weight = (means[1:] - means[0]).T
    covariance = weight @ weight.T + std**2 * torch.eye(len(weight)).double()
    return torch.distributions.MultivariateNormal(means[0], covariance).log_prob(x.double())


@pytest.mark.slow
def test_a_weak_encoder_teaches_the_decoder_less_of_its_faults():
    """The encoder is one unit wide: what p(x) learns shows in its exact evidence."""
    torch.manual_seed(0)
    weight = 2 * torch.randn(3, 8)
    data = Data.from_array(torch.randn(400, 3) @ weight + 0.5 * torch.randn(400, 8))
    reached = []
    for objective in (Variational(), SemiAmortised(steps=10, learning_rate=0.2)):
        torch.manual_seed(0)
        model = vae(
            (8,),
            latents=3,
            net=partial(MLP, hidden=(1,)),
            decoder_net=partial(MLP, hidden=()),
            likelihood=partial(FixedNormal, std=0.5),
        )
        fit(model, data, objective, epochs=20, batch_size=50, learning_rate=0.02, **QUIET)
        reached.append(log_p_of_affine(model, data.x, 0.5))
    gain = reached[1] - reached[0]
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    assert gain.mean() > 0.5
