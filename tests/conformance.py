"""One suite over the registries: a new component is tested here with no edit.

Every family, prior, bound, estimator, method, schedule, net and recipe that `latently.registry`
lists must keep the promises of its kind.
"""

import copy
import dataclasses
import inspect
import itertools
import math
from functools import partial

import pytest
import torch

from latently import Data, UserError, expr, fit, load, save, vae
from latently.inference import (
    ELBO,
    Evidence,
    ImportanceSampling,
    Particles,
    Reparam,
    evaluate,
)
from latently.inference.estimators import FEW_STATES, Score
from latently.inference.methods import Enumeration
from latently.inference.noise import seeded
from latently.inference.particles import equal_shares
from latently.nets import MLP
from latently.probability.conditional import Conditional
from latently.probability.families import FixedNormal, Normal
from latently.probability.priors import Standard
from latently.registry import KINDS, components, names
from latently.training import Variational

TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)


def every(kind):
    return pytest.mark.parametrize("name", KINDS[kind])


def required(target):
    """Values for the options that a component does not default, all numbers so far."""
    return {
        name: 0.5
        for name, p in inspect.signature(target).parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


# What everything has in common.


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in KINDS[k]])
def test_everything_is_documented_and_nameable(kind, name):
    member = KINDS[kind][name]
    assert member.__name__ == name
    assert names(kind)[name].endswith(".") or kind in ("activations", "optimizers")
    if kind == "recipes":
        return
    if dataclasses.is_dataclass(member):
        made = member(**required(member))
        assert expr.build(expr.show(made), components()) == made
    else:
        assert expr.build(expr.show(member), components()) is member


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("recipes", "activations")])
def test_names_are_unique_across_kinds(kind):
    for other in KINDS:
        assert other == kind or not KINDS[kind].keys() & KINDS[other].keys()


# Priors.


def prior_of(name, z_shape=(2,), contexts=0):
    encoder = Conditional(TINY, Normal(z_shape), (3,), contexts=contexts)
    return KINDS["priors"][name](z_shape, encoder).double()


def shaken(module, by):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn_like(p))
    return module


@every("priors")
@pytest.mark.parametrize("z_shape", [(1,), (3,), (2, 2)])
def test_prior_shapes_and_draws(name, z_shape):
    prior = prior_of(name, z_shape)
    d = prior()
    assert d.batch_shape == ()
    assert d.event_shape == z_shape
    z = d.sample((4, 5))
    assert z.shape == (4, 5, *z_shape)
    assert d.log_prob(z).shape == (4, 5)
    draws = prior().sample((4000,))
    second = prior().sample((4000,))
    assert (draws.mean(0) - second.mean(0)).abs().max() < 6 * draws.std() / math.sqrt(2000)


@pytest.mark.slow
@every("priors")
@pytest.mark.parametrize("by", [0.0, 0.5, 2.0])
def test_prior_integrates_to_one(name, by):
    z = torch.sinh(torch.linspace(-15, 15, 100_001).double())[:, None]
    for contexts, context in ((0, None), (4, torch.randn(3, 4).double())):
        prior = shaken(prior_of(name, (1,), contexts), by)
        log_p = prior(context).log_prob(z if context is None else z[:, None])
        total = torch.trapezoid(log_p.exp(), z[:, :1] if log_p.dim() > 1 else z[:, 0], dim=0)
        assert (total.detach() - 1).abs().max() < 1e-6


@every("priors")
def test_prior_takes_a_context_per_row(name):
    prior = prior_of(name, (2,), contexts=4)
    context, z = torch.randn(5, 4).double(), torch.randn(6, 5, 2).double()
    together = prior(context).log_prob(z)
    assert together.shape == (6, 5)
    for b in range(5):
        alone = prior(context[b : b + 1]).log_prob(z[:, b : b + 1])
        torch.testing.assert_close(together[:, b : b + 1], alone)


@every("priors")
def test_prior_wants_the_context_it_was_built_for_or_ignores_it(name, refused):
    with_context, without = prior_of(name, contexts=4), prior_of(name)
    context = torch.randn(5, 4).double()
    if not with_context(context).batch_shape:
        assert torch.equal(with_context().mean, with_context(context).mean)
        return
    with refused(name, "contexts=4"):
        with_context()
    with refused(name, "contexts=4", "(5, 3)"):
        with_context(context[:, :3])
    with refused(name, "contexts=0"):
        without(context)


# Transforms.


def transform_of(name):
    """One that holds 0 and 1, by those of its options that make room."""
    kind = KINDS["transforms"][name]
    room = {"shift": 1.0, "low": -1.0, "high": 2.0}
    return kind(**{k: v for k, v in room.items() if k in inspect.signature(kind).parameters})


@every("transforms")
def test_transform_is_an_increasing_bijection(name):
    transform, y = transform_of(name), torch.linspace(-12, 12, 4001).double()
    x = transform.inverse(y).requires_grad_(True)
    assert not transform.misfit(x).any()
    assert transform.support
    torch.testing.assert_close(transform.forward(x), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(transform.inverse(transform.forward(x)), x, rtol=1e-13, atol=1e-13)
    (slope,) = torch.autograd.grad(transform.forward(x).sum(), x)
    torch.testing.assert_close(transform.log_slope(x), slope.log(), rtol=1e-9, atol=1e-9)
    assert (x.diff() > 0).all()


@every("transforms")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transform_stays_inside_its_support_at_any_value(name, dtype):
    y = torch.tensor([-math.inf, -1e30, -800, -90, -20, 0, 20, 90, 800, 1e30, math.inf])
    for transform in (transform_of(name), KINDS["transforms"][name]()):
        x = transform.inverse(y.to(dtype))
        assert x.dtype == dtype
        assert not transform.misfit(x).any()
        assert transform.forward(x).isfinite().all()
        assert transform.log_slope(x).isfinite().all()
        assert (x.diff() >= 0).all()
        outside = torch.tensor([math.nan, math.inf, -math.inf, *transform.bounds], dtype=dtype)
        assert transform.misfit(outside).all()
        assert not transform.misfit(transform.clip(outside[1:])).any()


# Bounds and estimators, alone and in pairs with every prior.


POSTERIORS = {
    "continuous": {"latents": 2},
    "discrete": {"latents": 3, "posterior": KINDS["families"]["OneHot"]},
}


def model_of(prior="StandardNormal", latents="continuous", **options):
    prior = KINDS["priors"][prior]
    return vae((4,), net=TINY, prior=prior, **POSTERIORS[latents], **options).double()


def sized(kind, name):
    """A member whose groups, if it has any, are two: they divide the draws made here."""
    member = KINDS[kind][name]
    return member(groups=2) if "groups" in inspect.signature(member).parameters else member()


def pairs():
    """Bounds with the estimators that accept them, for either kind of latents."""
    for bound, estimator in itertools.product(KINDS["bounds"], KINDS["estimators"]):
        name = f"{bound}-{estimator}"
        bound, estimator = sized("bounds", bound), sized("estimators", estimator)
        try:
            estimator.check(bound)
        except UserError:
            continue
        for latents in POSTERIORS:
            if estimator.latents in ("any", latents):
                yield pytest.param(bound, estimator, latents, id=f"{name}-{latents}")


def priors_that_fit():
    """Every prior with every kind of latents it is over."""
    for name, latents in itertools.product(KINDS["priors"], POSTERIORS):
        try:
            model_of(name, latents)
        except UserError:
            continue
        yield name, latents


def inferred(model, x, samples, estimator, **options):
    return model.infer(x, samples, gradient=estimator.gradient, draw=estimator.draw, **options)


def bits(n=5, shape=(4,)):
    return torch.rand(n, *shape).lt(0.5).double()


@every("bounds")
def test_bound_is_log_p_where_the_posterior_is_exact(name, gaussian_vae, exactly):
    case = gaussian_vae()
    p = case.model.infer(case.x, 6)
    p = p._replace(kl=(None,))  # the closed form adds the noise of log p(x|z)
    bound = sized("bounds", name)(p)
    assert bound.shape == (6,)
    exactly(bound, case.log_p, 1e-8)


@every("bounds")
def test_bound_is_below_log_p_on_average(name, gaussian_vae):
    case = gaussian_vae(shift=0.4, widen=0.3)
    with torch.no_grad():
        p = case.model.infer(case.x[:1].expand(4000, -1), 6)
        values = sized("bounds", name)(p)
    assert values.mean() < case.log_p[0] + 4 * values.std() / math.sqrt(4000)


FITTING = sorted(priors_that_fit())


@pytest.mark.parametrize("contexts", [0, 3])
@pytest.mark.parametrize(("bound", "estimator", "latents"), list(pairs()))
def test_pair_has_the_bounds_value_and_reaches_every_parameter(
    bound, estimator, latents, contexts
):
    for name in (prior for prior, kind in FITTING if kind == latents):
        model = model_of(name, latents, contexts=contexts)
        context = torch.randn(5, contexts).double() if contexts else None
        p = inferred(model, bits(), 4, estimator, context=context)
        surrogate = estimator(bound, p)
        torch.testing.assert_close(surrogate, bound(estimator.drawn(p)))
        surrogate.sum().backward()
        for parameter, q in model.named_parameters():
            assert q.grad is not None, (name, parameter)
            assert q.grad.isfinite().all(), (name, parameter)
            assert q.grad.abs().sum() > 0, (name, parameter)


def small_model(latents):
    """One row's gradient is known to it: by another estimator, or by all tuples of states."""
    if latents == "discrete":
        return model_of("Standard", latents)
    return vae((4,), latents=1, net=partial(MLP, hidden=()), likelihood=FixedNormal).double()


def gradient_of(model, value):
    found = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([g.flatten() for g in found])


def mean_gradient(model, x, bound, estimator, turns=80, rows=500):
    """The mean over draws, and its standard error."""
    x = x.expand(rows, -1)
    found = torch.stack(
        [
            gradient_of(model, estimator(bound, inferred(model, x, 4, estimator)).mean())
            for _ in range(turns)
        ]
    )
    return found.mean(0), found.std(0) / math.sqrt(turns)


def true_gradient(model, x, bound):
    """Of the mean of the bound with 4 draws, over all 4-tuples of states."""
    states = inferred(model, x, 1, KINDS["estimators"]["Enumerate"]()).z[0][:, 0]
    index = torch.cartesian_prod(*[torch.arange(len(states))] * 4)
    p = model.infer(x.expand(len(index), -1), z=(states[index.T],))
    return gradient_of(model, (p.log_q[0].sum(0).exp() * bound(p)).sum())


def is_unbiased(estimator):
    """Of those to be tested; `Reparam` is what the others are compared with."""
    return estimator.unbiased and estimator.gradient != "exact" and estimator != Reparam()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "estimator", "latents"), [pair for pair in pairs() if is_unbiased(pair.values[1])]
)
def test_pair_is_unbiased(bound, estimator, latents):
    torch.manual_seed(4)
    model = small_model(latents)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]]).double()
    found, error = mean_gradient(model, x, bound, estimator)
    if latents == "discrete":
        wanted = true_gradient(model, x, bound)
    else:
        wanted, its_error = mean_gradient(model, x, bound, Reparam())
        error = (error**2 + its_error**2).sqrt()
    assert ((found - wanted).abs() <= 4.5 * error + 1e-9).all()


@pytest.mark.parametrize(
    ("bound", "estimator", "latents"),
    [pair for pair in pairs() if pair.values[1].gradient == "exact"],
)
def test_exact_gradient_is_the_limit_of_many_draws(bound, estimator, latents):
    torch.manual_seed(4)
    model = small_model(latents)
    x = bits(1)
    exact = bound(inferred(model, x, 1, estimator)).detach()
    with torch.no_grad():
        values = bound(model.infer(x.expand(50, -1), 2000))
    spread = values.std()  # the bias of K draws is about half its square
    assert (values.mean() - exact).abs() < 4.5 * spread / math.sqrt(50) + spread**2
    first, second = (estimator(bound, inferred(model, x, n, estimator)) for n in (1, 7))
    assert torch.equal(gradient_of(model, first.sum()), gradient_of(model, second.sum()))


@every("estimators")
def test_estimator_refuses_or_handles_a_hierarchy(name):
    estimator, path = sized("estimators", name), KINDS["estimators"][name].latents != "any"
    bound = next(pair.values[0] for pair in pairs() if type(pair.values[1]).__name__ == name)
    z = tuple(torch.randn(6, 3, 2, dtype=torch.float64, requires_grad=path) for _ in range(2))
    terms = tuple(layer.square().sum(-1) for layer in z)
    p = Particles(z, sum(terms), terms, terms, (None, None), equal_shares(terms[0]))
    try:
        value = estimator(bound, p)
    except UserError as error:
        assert "2 latent layers" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(value, bound(p))


# Schedules and nets.


@every("schedules")
def test_schedule_is_a_function_of_the_step(name):
    kind = KINDS["schedules"][name]
    schedule = kind(**required(kind))
    for step in (0, 1, 50, 99, 100, 1000):
        value = schedule(torch.tensor(step), 100)
        assert isinstance(value, torch.Tensor)
        assert value.shape == ()
        assert value.isfinite()
        assert value == schedule(torch.tensor(step), 100)
    assert expr.build(expr.show(schedule), components()) == schedule
    objective = ELBO(beta=schedule)
    assert expr.build(expr.show(objective), components()) == objective


IMAGE = (2, 5, 3)
SHAPES = [((3,), (2,)), ((1, 8, 8), (7,)), ((6,), (2, 5, 3)), (IMAGE, (4, 5, 3))]
SHAPES += [(IMAGE, (4, 3, 2)), ((4, 3, 2), IMAGE), ((5, 3), (7,)), ((6,), (5, 3))]


def nets_of(name):
    """The net between every pair of shapes that it takes: of images, or of all."""
    kind = KINDS["nets"][name]
    for in_shape, out_shape in SHAPES:
        if len(in_shape) == len(out_shape) == 1 and getattr(kind, "reads_images", False):
            with pytest.raises(UserError, match="MLP"):
                kind(in_shape, out_shape)
        else:
            yield kind(in_shape, out_shape), in_shape, out_shape


@every("nets")
def test_net_maps_shapes(name):
    for net, in_shape, out_shape in nets_of(name):
        out = net(torch.randn(5, *in_shape))
        assert out.shape == (5, *out_shape)
        assert net(torch.randn(0, *in_shape)).shape == (0, *out_shape)
        out.sum().backward()
        assert all(p.grad is not None for p in net.parameters())
        with torch.device("meta"):
            planned = KINDS["nets"][name](in_shape, out_shape)
        for p, q in zip(planned.parameters(), net.parameters(), strict=True):
            assert p.is_meta
            assert p.shape == q.shape


@every("nets")
@pytest.mark.parametrize("training", [True, False])
def test_net_keeps_rows_apart_and_repeats(name, training):
    for net, in_shape, _ in nets_of(name):
        net.double().train(training)
        x = torch.randn(4, *in_shape).double()
        together = net(x)
        assert together.dtype == torch.float64
        assert torch.equal(net(x), together)
        torch.testing.assert_close(torch.cat([net(row[None]) for row in x]), together)


@every("activations")
def test_activation_is_a_constructor_without_arguments(name):
    assert KINDS["activations"][name]()(torch.zeros(3)).shape == (3,)


# Recipes, with everything that models promise, and methods on them.


def of_few_levels(name):
    """A family, with four levels where it has any: what sums over them is then quick."""
    kind = KINDS["families"][name]
    few = "levels" in inspect.signature(kind).parameters
    return partial(kind, levels=4) if few else kind


def component_of(name):
    kind = KINDS["components"][name]
    return kind(**small(kind))


def narrow(net):
    """A network that is shaken without overflowing."""
    return partial(net, channels=(2,)) if getattr(net, "reads_images", False) else net


RECIPE_MODELS = {
    **{
        name: lambda make=make: make((4,), **small(make))
        for name, make in KINDS["recipes"].items()
    },
    **{
        f"mixture {name}": lambda name=name: KINDS["recipes"]["mixture"](
            (4,), components=2, family=component_of(name)
        )
        for name in KINDS["components"]
    },
    "fa of levels": lambda: KINDS["recipes"]["fa"]((4,), latents=1, levels=2),
    "fa of levels Logit": lambda: KINDS["recipes"]["fa"](
        (4,), latents=1, levels=2, transform=KINDS["transforms"]["Logit"](high=2)
    ),
    **{
        f"ppca {name}": lambda name=name: KINDS["recipes"]["ppca"](
            (4,), latents=2, transform=transform_of(name)
        )
        for name in KINDS["transforms"]
    },
    **{
        f"vae {name}": lambda name=name: vae(
            (4,), latents=2, net=TINY, likelihood=Normal, transform=transform_of(name)
        )
        for name in KINDS["transforms"]
    },
    **{
        f"vae {family}": lambda family=family: vae(
            (4,), latents=2, net=TINY, likelihood=of_few_levels(family)
        )
        for family in KINDS["families"]
    },
    **{
        f"vae q {family}": lambda family=family: vae(
            (4,), latents=2, net=TINY, posterior=of_few_levels(family), prior=Standard
        )
        for family in KINDS["families"]
    },
    "ae with a density of codes": lambda: KINDS["recipes"]["ae"](
        (4,), latents=2, net=TINY, codes=partial(KINDS["recipes"]["mixture"], components=2)
    ),
    **{
        f"ae of images {net}": lambda net=net: KINDS["recipes"]["ae"](
            IMAGE, latents=2, net=narrow(KINDS["nets"][net]), sees_mask=True
        )
        for net in KINDS["nets"]
    },
    **{
        f"vae of images {net}": lambda net=net: vae(
            IMAGE, latents=2, net=KINDS["nets"][net], sees_mask=True
        )
        for net in KINDS["nets"]
    },
    **{
        f"vae of images to images {net}": lambda net=net: vae(
            IMAGE, latents=(2, 3, 2), net=KINDS["nets"][net], likelihood=of_few_levels("Ordinal")
        )
        for net in KINDS["nets"]
    },
    **{
        f"vae {prior}": lambda prior=prior: vae(
            (4,), latents=2, net=TINY, prior=KINDS["priors"][prior], sees_mask=True
        )
        for prior in KINDS["priors"]
    },
}


def small(make):
    options = inspect.signature(make).parameters
    return {k: v for k, v in {"latents": 2, "net": TINY}.items() if k in options}


@pytest.fixture(params=RECIPE_MODELS)
def model(request):
    made = RECIPE_MODELS[request.param]().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def test_model_is_described_by_its_call(model, tmp_path):
    assert model.call is not None
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert str(back.call) == str(model.call)
    x = rows_of(model)
    answer = "encode" if model.invertible else "reconstruct"
    assert all(map(torch.equal, getattr(back, answer)(x), getattr(model, answer)(x)))
    if draws_rows(model):
        assert torch.equal(back.sample(3, seed=0), model.sample(3, seed=0))
    assert model.shape in ((4,), IMAGE)
    assert model.density in ("exact", "bound", None)
    assert isinstance(model.discrete, bool)


def draws_rows(model):
    """Whether it has something to draw latents from; without a density it may lack it."""
    if model.density is None:
        with pytest.raises(UserError) as caught:
            model.log_prob(rows_of(model))
        assert str(caught.value) == model.no_density
    return model.density is not None or model.codes is not None


def rows_of(model, n=5):
    """Bits where a model holds them, else its own draws."""
    x = bits(n, model.shape).to(model.dtype)
    return model.sample(n, seed=0).to(model.dtype) if model.misfit(x)[0].any() else x


def holes_of(model, x):
    """Holes that a model can leave out: any cells, else whole rows, of three of the five."""
    mask = torch.rand(5, *model.shape) < 0.6
    try:
        model.infer(x, 1, mask)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        pytest.skip("has no marginals; masks are refused")
    return mask


def test_model_particles_are_consistent(model):
    x = rows_of(model)
    p = model.infer(x, 3)
    count = 3 * (model.contexts if model.context_optional else 1)  # a class is summed
    assert p.log_w.shape == p.log_lik.shape == p.log_pi.shape == (count, 5)
    assert len(p.z) == len(p.log_prior) == len(p.log_q) == len(p.kl)
    torch.testing.assert_close(p.log_pi.exp().sum(0), torch.ones(5, dtype=p.log_pi.dtype))
    for z in p.z:
        assert z.shape[:2] == (count, 5)
        if not z.requires_grad:
            assert None in model.latent_constraints()  # they are counted
            continue
        (gradient,) = torch.autograd.grad(p.log_w.sum(), z, retain_graph=True)
        assert gradient.isfinite().all()  # z is upstream of log_w: estimators act on it
    scored = []
    for gradient in ("total", "path"):
        torch.manual_seed(1)  # a dequantised model draws more than z
        scored.append(model.infer(x, 3, z=p.z, gradient=gradient))
    again, held = scored
    torch.testing.assert_close(sum(again.log_prior), sum(p.log_prior))
    torch.testing.assert_close(sum(held.log_q), sum(again.log_q))


@pytest.mark.slow
def test_model_answers_have_their_shapes_and_repeat(model, untouched):
    x, draws = rows_of(model), draws_rows(model)
    with untouched():
        assert all(map(torch.equal, model.encode(x), model.encode(x)))
        assert torch.equal(model.reconstruct(x), model.reconstruct(x))
        if draws:
            assert model.sample(6, seed=1).shape == (6, *model.shape)
            assert torch.equal(model.sample(6, seed=1), model.sample(6, seed=1))
    assert model.anomaly_score(x).shape == (5,)
    assert model.errors(x).shape == model.contributions(x).shape == x.shape
    if model.density is not None:
        assert model.log_prob(x).shape == (5,)
    mask = holes_of(model, x)
    with untouched():
        for z in model.encode(x, mask):
            assert len(z) == 5
        assert model.reconstruct(x, mask).shape == (5, *model.shape)
        if model.density is None:
            with pytest.raises(UserError):
                model.impute(x, mask)
            return
        drawn = model.impute(x, mask, draws=2, samples=20, seed=1)
    assert drawn.shape == (2, 5, *model.shape)
    assert torch.equal(drawn[:, mask], x[mask].expand(2, -1))
    assert not model.misfit(drawn.flatten(0, 1))[0].any()


def test_model_ignores_what_is_missing(model):
    x = rows_of(model)
    mask, values = holes_of(model, x), []
    for bad in (0.0, math.nan, math.inf):
        torch.manual_seed(1)
        values.append(model.infer(torch.where(mask, x, bad), 3, mask).log_w)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def test_model_is_copied_whole(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.5)
    x = rows_of(model)
    answer = "encode" if model.invertible else "reconstruct"
    first, second = (getattr(m, answer)(x) for m in (model, other))
    assert not torch.equal(*((first[0], second[0]) if model.invertible else (first, second)))
    z = model.infer(x, 3).z
    scored = []
    for gradient in ("total", "path"):
        torch.manual_seed(1)
        p = other.infer(x, 3, z=z, gradient=gradient)
        scored.append(sum(p.log_q, p.log_lik.new_zeros(())))
    torch.testing.assert_close(*scored)  # what is held constant is the copy's own


def objective_for(model, x):
    """The usual one, or one for draws without a gradient."""
    with seeded(0):
        paths = all(z.requires_grad for z in model.infer(x[:1]).z)
    return None if paths or model.em(x) is not None else Variational(ELBO(), Score(), samples=2)


@pytest.mark.slow
def test_model_is_fitted_and_evaluated_by_the_same_call(model, untouched):
    x = rows_of(model, 30).float()
    data = Data.from_array(x, levels=2 if ((x == 0) | (x == 1)).all() else None)
    with untouched():
        if getattr(model, "codes", None) is not None:
            model.put_density(None)
        if model.context_optional:
            labels = torch.eye(model.contexts)[torch.arange(30) % model.contexts]
            data = dataclasses.replace(data, context=labels)
        found = fit(model, data, objective_for(model, x), steps=3, progress=False)
        assert found.history
        if model.density is None:
            with pytest.raises(UserError):
                evaluate(model, data.rows(range(4)))
            return
        evidence = evaluate(model, data.rows(range(4)))
    assert isinstance(evidence, Evidence)
    assert evidence.values.isfinite().all()
    states = model.latent_states()
    exact = model.density == "exact" or (states is not None and states <= FEW_STATES)
    assert evidence.kind == ("exact" if exact else "lower_bound")


def test_latents_that_are_counted_can_be_summed_over_and_no_others(model):
    data = Data.from_array(rows_of(model, 2).float())
    if model.latent_states() is None:
        with pytest.raises(UserError):
            evaluate(model, data, Enumeration())
    else:
        assert evaluate(model, data, Enumeration()).values.isfinite().all()


@every("methods")
def test_method_scores_rows_alike_in_any_company(name, untouched):
    kind = KINDS["methods"][name]
    quick = {"AIS": {"steps": 30}, "ImportanceSampling": {"samples": 30}}
    method = dataclasses.replace(kind(), **quick.get(name, {}))
    assert method.kind in ("exact", "lower_bound", "estimate")
    assert method.name
    x = torch.randn(8, 4).double()
    exact = KINDS["recipes"]["fa"]((4,), latents=2)
    for model in (exact, vae((4,), latents=2, net=TINY, likelihood=Normal).double()):
        with untouched():
            try:
                whole = method(model, x, seed=2)
            except UserError:
                continue
            part = method(model, x[[5, 1]], seed=2)
        assert whole.values.shape == whole.mc_variance.shape == (8,)
        assert whole.values.dtype == torch.float64
        torch.testing.assert_close(part.values, whole.values[[5, 1]], rtol=0, atol=1e-9)
        if model is exact:
            truth = evaluate(exact, Data.from_array(x)).values
            torch.testing.assert_close(whole.values, truth, rtol=0, atol=1e-8)


def test_default_method_depends_on_the_model():
    data = Data.from_array(torch.randn(3, 4).double())
    assert evaluate(KINDS["recipes"]["fa"]((4,), latents=2), data).method == "exact"
    found = evaluate(vae((4,), latents=2, net=TINY, likelihood=Normal), data)
    assert found.method == ImportanceSampling().name
