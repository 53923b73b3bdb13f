"""Refinement: the best q where it is known, rows by themselves, evidence that stays a bound."""

import math
from functools import partial

import pytest
import torch

from latently import (
    ELBO,
    IWAE,
    Data,
    Dequantized,
    Enumerate,
    Linear,
    Reparam,
    Score,
    evaluate,
    fa,
    ppca,
    vae,
)
from latently.expr import build
from latently.inference import STL, DReG, ImportanceSampling, Refined, refine
from latently.inference.methods import Enumeration
from latently.nets import MLP
from latently.probability.families import Bernoulli, FixedNormal, Normal, OneHot
from latently.probability.priors import Learned, VampPrior
from latently.registry import components

TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)


def elbos(model, x, local=None, draws=4000, **given):
    """Per-row means of log w, and their standard errors."""
    torch.manual_seed(7)
    with torch.no_grad():
        log_w = model.infer(x, draws, **given, local=local).log_w
    return log_w.mean(0), log_w.std(0) / math.sqrt(draws)


def oblique(case):
    """The case with columns of W that are not orthogonal: no q of independent cells is exact.

    Returns the weight, the posterior's precision and the evidence of the rows, in closed form.
    """
    layer, std = case.model.decoder.net.layers[0], case.model.decoder.family.std
    with torch.no_grad():
        layer.weight[:, 1] += 0.8 * layer.weight[:, 0]
    weight, loc = layer.weight.detach().double(), layer.bias.detach().double()
    precision = torch.eye(weight.shape[1]).to(weight) + weight.T @ weight / std**2
    covariance = weight @ weight.T + std**2 * torch.eye(len(loc)).to(weight)
    truth = torch.distributions.MultivariateNormal(loc, covariance)
    mean = torch.linalg.solve(precision, weight.T @ (case.x.double() - loc).T / std**2).T
    # the best q has the mean of the posterior, and the diagonal of its precision
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    return mean, precision, truth.log_prob(case.x.double()), float(gap)


# The best q in closed form.


def test_refined_q_is_the_closed_form_optimum(gaussian_vae):
    case = gaussian_vae(shift=0.6, widen=0.5)
    mean, precision, log_p, gap = oblique(case)
    local = refine(case.model, case.x, steps=300)
    q = case.model.encoder.family(
        case.model.encoder.params(case.model.decoder.family.embed(case.x)) + local[0]
    )
    scale = precision.diagonal().rsqrt()
    assert ((q.mean.double() - mean) / scale).abs().max() < 0.1
    assert (q.variance.double().sqrt() / scale - 1).abs().max() < 0.1
    found, error = elbos(case.model, case.x, local)
    best = log_p - gap
    assert ((found - best).abs() < 4 * error + 0.01).all()  # 0.01 nats short at most
    assert (found < best + 4 * error).all()


def test_an_exact_posterior_is_reached_where_the_family_holds_it(gaussian_vae, exactly):
    case = gaussian_vae(shift=0.6, widen=0.5)
    found, _ = elbos(case.model, case.x, refine(case.model, case.x))
    before, _ = elbos(case.model, case.x)
    assert (case.log_p - before > 0.3).all()
    exactly(found, case.log_p, 5e-3)


def test_a_row_at_its_optimum_stays_there(gaussian_vae):
    case = gaussian_vae()
    (local,) = refine(case.model, case.x, bound=ELBO(), estimator=Reparam(), steps=20)
    found, error = elbos(case.model, case.x, (local,))
    assert (found > case.log_p - 4 * error - 1e-6).all()


def test_steps_that_lead_astray_are_taken_back(gaussian_vae):
    """A rate so high that the end is far worse: the rows stay with the encoder's q."""
    case = gaussian_vae()
    (local,) = refine(case.model, case.x, learning_rate=50.0, steps=3)
    assert torch.equal(local, torch.zeros_like(local))


def test_other_bounds_are_raised_too(gaussian_vae):
    case = gaussian_vae(shift=0.8, widen=-0.5)
    bound = IWAE()

    def value(local):
        torch.manual_seed(3)
        with torch.no_grad():
            return torch.stack(
                [bound(case.model.infer(case.x, 8, local=local)) for _ in range(50)]
            )

    local = refine(case.model, case.x, bound=bound, samples=8, steps=60)
    assert (value(local).mean(0) > value(None).mean(0) + 0.1).all()


# Discrete latents.


def discrete(posterior, **options):
    torch.manual_seed(1)
    model = vae((4,), latents=3, net=TINY, posterior=posterior, prior=Learned, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.8 * torch.randn_like(p))
    return model


def bits(n=6):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 4, generator=generator).lt(0.5).double()


def test_one_hot_latents_reach_log_p():
    """A categorical q of every row's own can be p(z|x): its ELBO is then log p(x)."""
    model, x = discrete(OneHot), bits()
    local = refine(model, x, steps=200)
    p = model.infer(x, 1, gradient="exact", draw=Enumerate().draw, local=local)
    truth = Enumeration()(model, x).values
    torch.testing.assert_close((p.log_pi.exp() * p.log_w).sum(0), truth, rtol=0, atol=1e-3)


@pytest.mark.parametrize("estimator", [None, Enumerate(), Score()])
def test_bits_come_close_to_the_best_of_their_kind(estimator):
    model, x = discrete(Bernoulli), bits(3)
    kind = Enumerate()

    def elbo(local):
        return kind(ELBO(), model.infer(x, 1, gradient="exact", draw=kind.draw, local=local))

    local = tuple(part.requires_grad_() for part in model.local(3))
    best = torch.optim.LBFGS(local, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        best.zero_grad()
        loss = -elbo(local).sum()
        loss.backward()
        return loss

    best.step(closure)
    found = elbo(refine(model, x, estimator=estimator, steps=150))
    assert (found > elbo(model.local(3))).all()
    assert (elbo(local) - found).abs().max() < (0.03 if estimator == Score() else 0.005)


# Rows, models, wrappers.


@pytest.mark.parametrize("options", [{}, {"prior": partial(VampPrior, components=3)}])
def test_rows_do_not_depend_on_their_company(options, untouched):
    model = vae((4,), latents=2, net=TINY, **options)
    x = bits(7).float()
    with untouched():
        (whole,) = refine(model, x, steps=10)
    (part,) = refine(model, x[[5, 1]], steps=10)
    assert torch.equal(part, whole[[5, 1]])
    assert not torch.equal(whole, refine(model, x, steps=10, seed=1)[0])


def test_the_model_is_left_as_it_was():
    model, x = vae((4,), latents=2, net=TINY), bits().float()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (local,) = refine(model, x, steps=5)
    assert model.training
    assert not local.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_works_where_gradients_are_off():
    model, x = vae((4,), latents=2, net=TINY), bits().float()
    with torch.no_grad():
        inside = refine(model, x, steps=5)
    assert torch.equal(inside[0], refine(model, x, steps=5)[0])


def test_masks_and_contexts():
    model = vae((4,), latents=2, net=TINY, sees_mask=True, contexts=3, likelihood=Normal).double()
    x, context = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    mask = torch.rand(5, 4) < 0.6
    local = refine(model, x, mask, context)
    given = {"mask": mask, "context": context}
    after, error = elbos(model, x, local, **given)
    assert (after > elbos(model, x, **given)[0] - 4 * error).all()
    assert after.mean() > elbos(model, x, **given)[0].mean() + 0.05
    other = refine(model, x, mask, context[[1, 0, 2, 3, 4]])
    assert not torch.equal(other[0][:2], local[0][:2])


def test_dequantized_rows():
    inner = vae((4,), latents=2, net=TINY, likelihood=Normal)
    model, x = Dequantized(inner, levels=4), torch.randint(0, 4, (4, 4)).float()
    after, error = elbos(model, x, refine(model, x))
    assert (after > elbos(model, x)[0] - 4 * error).all()
    assert after.mean() > elbos(model, x)[0].mean() + 0.1


def test_exact_models_have_nothing_to_refine():
    model, data = fa((4,), latents=2), Data.from_array(torch.randn(5, 4))
    assert refine(model, data.x) == ()
    torch.testing.assert_close(
        Refined(samples=3)(model, data.x).values, evaluate(model, data).values
    )
    quantized = Dequantized(ppca((4,), latents=1), levels=4)
    x = torch.randint(0, 4, (3, 4)).float()
    assert torch.equal(
        Refined(samples=9)(quantized, x).values, ImportanceSampling(9)(quantized, x).values
    )


def test_no_rows_give_none():
    model = vae((4,), latents=2, net=TINY)
    assert refine(model, torch.zeros(0, 4))[0].shape == (0, 4)
    assert Refined(samples=9)(model, torch.zeros(0, 4)).values.shape == (0,)


# Evidence.


def test_refined_evidence_is_a_bound_and_tighter(gaussian_vae):
    case = gaussian_vae(shift=1.0, widen=0.4)
    _, _, log_p, _ = oblique(case)
    data = Data.from_array(case.x)
    seeds = range(6)
    at_q, at_refined = (
        torch.stack([evaluate(case.model, data, method, seed=s).values for s in seeds])
        for method in (ImportanceSampling(5), Refined(samples=5, steps=30))
    )
    error = at_refined.std(0) / math.sqrt(len(seeds))
    assert (at_refined.mean(0) < log_p.cpu() + 4 * error).all()
    assert at_refined.mean() > at_q.mean() + 0.3


def test_refined_evidence_says_what_it_is():
    model = vae((4,), latents=2, net=TINY)
    evidence = evaluate(model, Data.from_array(bits().float(), levels=2), Refined(samples=20))
    assert evidence.kind == "lower_bound"
    assert evidence.method == "refined IWAE K=20"
    assert evidence.samples == 20
    assert evidence.mc_stderr > 0
    assert len(evidence.ess) == 6
    assert build("Refined(samples=20, steps=7)", components()) == Refined(20, 7)


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, ("samples=0", "at least 1")),
        ({"steps": 0}, ("steps=0", "at least 1")),
        ({"learning_rate": 0.0}, ("learning_rate=0.0", "positive")),
        ({"learning_rate": Linear(0.1, 0.2)}, ("learning_rate=", "positive")),
        ({"bound": IWAE}, ("bound=", "ELBO()")),
        ({"estimator": STL}, ("estimator=", "STL()")),
        ({"bound": ELBO(free_bits=0.1)}, ("compares the rows", "bound=ELBO")),
        ({"bound": ELBO(beta=Linear(0.0, 1.0))}, ("beta", "no run to follow")),
        ({"bound": IWAE(), "estimator": STL()}, ("STL is biased",)),
        ({"estimator": DReG()}, ("DReG is biased",)),
        ({"estimator": Score(), "samples": 1}, ("samples=1", "at least 2")),
        ({"estimator": Enumerate()}, ("infinitely many",)),
    ],
)
def test_bad_options_are_refused(options, words, refused):
    with refused(*words):
        refine(vae((4,), latents=2, net=TINY), bits().float(), **options)


def test_bad_methods_are_refused(refused):
    with refused("Refined", "samples=0"):
        Refined(samples=0)
    with refused("Refined", "steps=1.5"):
        Refined(steps=1.5)


def test_a_path_that_is_not_there_is_refused(refused):
    model = vae((4,), latents=3, net=TINY, posterior=OneHot, prior=Learned)
    with refused("reparameterised", "Enumerate"):
        refine(model, bits().float(), estimator=Reparam())


def test_weights_of_the_likelihood_do_not_matter_to_the_search():
    """FixedNormal has no parameters: the search needs none of the model's to have gradients."""
    model = vae((4,), latents=2, net=TINY, likelihood=FixedNormal)
    for p in model.parameters():
        p.requires_grad_(False)
    x = torch.randn(3, 4)
    assert (elbos(model, x, refine(model, x))[0] > elbos(model, x)[0]).all()
