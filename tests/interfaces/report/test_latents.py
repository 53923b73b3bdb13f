"""What latents cost, which are in use, and paths that stay among the values they can take."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

import latently as lt
from latently.inference.bounds import ELBO
from latently.interfaces.report.between import between, interpolations
from latently.interfaces.report.density import SHARES, only_prior, regions
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.kinds import kind_of, latent_family
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.paths import moves
from latently.interfaces.report.plane import planes
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import manifold, traversals
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Dirichlet,
    DiscretizedLogistic,
    Gamma,
    Laplace,
    LogisticNormal,
    LogNormal,
    LowRankMultivariateNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    OneHot,
    Poisson,
)
from latently.probability.priors import (
    LearnedNormal,
    NormalMixture,
    Standard,
    StandardNormal,
    VampPrior,
)
from latently.training import Variational
from latently.training.objectives import InfoVAE

KINDS = {
    "real": [Normal, Laplace, MultivariateNormal, Mixture],
    "range": [Beta, Gamma, LogNormal, ContinuousBernoulli],
    "shares": [Dirichlet, LogisticNormal],
    "categories": [OneHot, partial(Mixture, family=OneHot, components=2)],
    "levels": [Bernoulli, partial(Categorical, levels=4), Poisson],
}
PAIRS = [(kind, family) for kind, members in KINDS.items() for family in members]
SHAPES = [(4,), (3, 5)]


@pytest.fixture(scope="module")
def rows():
    return lt.data.load("digits/test").rows(slice(0, 60))


@pytest.fixture(scope="module")
def make(rows):
    """A model of digits, not trained, whose posteriors differ from row to row."""

    def made(latents, posterior=Normal, prior=Standard, data=rows, seed=0):
        torch.manual_seed(seed)
        likelihood, net = partial(DiscretizedLogistic, levels=17), partial(MLP, hidden=(8,))
        model = lt.vae(
            rows.shape,
            latents=latents,
            likelihood=likelihood,
            posterior=posterior,
            prior=prior,
            net=net,
        ).eval()
        model.initialise(rows.x)
        for parameter in model.encoder.parameters():
            parameter.data.mul_(3)
        return model

    return made


def subject(model, data):
    return Subject(model, data, "m", 0, 0, latent_layers(model, data), Frame.of(data))


def inside(model, z):
    """Whether all latents (n, *Z) are values of the posterior."""
    return not latent_family(model).misfit(z.float()).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "family"), PAIRS)
def test_no_path_leaves_the_latents_values(kind, family, shape, make, rows):
    model = make(shape, family)
    assert kind_of(model) == kind
    (layer,) = latent_layers(model, rows)
    layer = replace(layer, activity=torch.ones(layer.units))
    paths, stops = moves(layer, 7)
    assert len(paths) == min(8, layer.size if kind == "shares" else layer.units)
    for path in paths:
        assert path.z.shape == (len(stops), *shape)
        assert inside(model, path.z)
        others = path.z.reshape(len(stops), layer.units, -1)
        others = torch.cat([others[:, : path.unit], others[:, path.unit + 1 :]], 1)
        assert (others == others[0]).all()
    z = between(layer, 3, 9, 8)
    if kind == "categories" and shape == (4,):
        assert z is None
        return
    assert inside(model, z)
    torch.testing.assert_close(z[[0, -1]], layer.centres[[3, 9]])


def test_a_share_grows_at_the_same_cost_to_all_others(make, rows):
    model = make((4,), Dirichlet)
    (layer,) = latent_layers(model, rows)
    for path in moves(layer, 7)[0]:
        share = int(path.name.removeprefix("share "))
        torch.testing.assert_close(path.z.sum(-1), torch.ones(9, dtype=torch.float64))
        assert (path.z[:, share].diff() >= 0).all()
        kept = [j for j in range(4) if j != share]
        ratio = path.z[:, kept] / layer.centres[7, kept]
        torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3))


def test_categories_take_every_value(make, rows):
    model = make((3, 5), OneHot)
    (layer,) = latent_layers(model, rows)
    assert layer.units == 3
    paths, stops = moves(replace(layer, activity=torch.ones(3)), 7)
    assert stops == list("01234")
    assert [path.name for path in paths] == [f"variable {int(v)}" for v in layer.order]
    for path in paths:
        assert torch.equal(path.z[:, path.unit], torch.eye(5, dtype=torch.float64))


def test_discrete_latents_switch_one_after_the_other(make, rows):
    (layer,) = latent_layers(make((12,), Bernoulli), rows)
    centres = layer.centres.clone()
    centres[0], centres[1] = 0.0, 1.0
    z = between(replace(layer, centres=centres), 0, 1, 8)
    assert z.sum(1).tolist() == [round(12 * s / 7) for s in range(8)]
    assert ((z == 0) | (z == 1)).all()


def test_reconstructions_and_the_ends_of_interpolations_are_of_values(make, rows):
    for shape, family in (((12,), Bernoulli), ((3, 5), OneHot), ((4,), Dirichlet)):
        model = make(shape, family)
        at = subject(model, rows)
        shown = at.means(at.layers[0].centres)
        torch.testing.assert_close(model.reconstruct(rows.x).double(), shown.double())
        assert inside(model, at.layers[0].centres)


@pytest.mark.parametrize(
    ("shape", "family"),
    [((6,), Normal), ((6,), Bernoulli), ((3, 5), OneHot), ((3, 5), Dirichlet), ((5,), OneHot)],
)
def test_terms_sum_to_the_cost_of_a_row(shape, family, make, rows):
    model = make(shape, family)
    (layer,) = latent_layers(model, rows)
    with torch.no_grad():
        wanted = float(model.infer(rows.x, 1).kl[0].double().mean())
    assert layer.kl.shape == (layer.units,)
    assert float(layer.kl.sum()) == pytest.approx(wanted, rel=1e-4)
    assert layer.cost == (pytest.approx(wanted, rel=1e-4), None)


@pytest.mark.parametrize("family", [MultivariateNormal, LowRankMultivariateNormal])
def test_a_correlated_posterior_costs_more_than_its_marginals(family, make, rows):
    model = make((4,), family)
    (layer,) = latent_layers(model, rows)
    assert layer.marginal
    assert layer.cost.error is None
    assert layer.cost.nats > float(layer.kl.sum())


def test_the_terms_of_factor_analysis_are_in_closed_form():
    data = lt.Data(torch.randn(50, 4) @ torch.randn(4, 4), "Normal", "rows")
    model = lt.ppca((4,), latents=2)
    lt.fit(model, data, progress=False)
    (layer,) = latent_layers(model, data)
    assert layer.cost.error is None
    assert layer.cost.nats >= float(layer.kl.sum()) - 1e-6


@pytest.mark.parametrize("prior", [VampPrior, NormalMixture])
def test_a_cost_without_a_closed_form_is_an_estimate(prior, make, rows):
    model = make((3,), Normal, prior)
    (layer,) = latent_layers(model, rows)
    assert layer.kl is None
    torch.manual_seed(5)
    with torch.no_grad():
        wanted = model.infer(rows.x, 1000).divergence.double().mean()
    assert layer.cost.error > 0
    assert abs(layer.cost.nats - float(wanted)) < 5 * layer.cost.error


def test_categories_in_use_are_those_that_rows_take(make, rows):
    model = make((5,), OneHot)
    (layer,) = latent_layers(model, rows)
    torch.testing.assert_close(layer.use[0], layer.means.mean(0))
    torch.testing.assert_close(layer.expected[0], torch.full((5,), 0.2, dtype=torch.float64))
    use = torch.tensor([[0.5, 0.459, 0.021, 0.019, 0.001]])
    assert replace(layer, use=use).used.tolist() == [[True, True, True, False, False]]


def test_contours_hold_their_share_of_the_prior(make, rows):
    at = subject(make((2,), Normal, LearnedNormal), rows)
    found = regions(at, at.layers[0].flat)
    wanted = [-math.log(2 * math.pi) + math.log(1 - share) for share in SHARES]
    assert found.heights == pytest.approx(wanted, abs=0.15)
    at = subject(make((2,), Normal, VampPrior), rows)
    found, prior = regions(at, at.layers[0].flat), only_prior(at)
    with torch.no_grad():
        reached = prior.log_prob(prior.sample((20_000,)))
    held = [float((reached > height).double().mean()) for height in found.heights]
    assert held == pytest.approx(SHARES, abs=0.03)


def test_a_prior_shows_its_contours_its_circle_or_its_draws(make, rows):
    shown = {
        "circle": make((2,)),
        "contours": make((2,), Normal, NormalMixture),
        "draws": make((2,), Beta),
        "": make((5,), Normal),
    }
    for prior, model in shown.items():
        (plane,) = planes(subject(model, rows))
        assert plane.prior == prior
    (plane,) = planes(subject(make((2,), Gamma), rows))
    assert plane.prior == "contours"


def test_three_shares_are_a_triangle_and_two_are_one_number(make, rows):
    for family in (Dirichlet, OneHot):
        (plane,) = planes(subject(make((3,), family), rows))
        assert plane.triangle
        assert plane.shares is None
        assert planes(subject(make((2,), family), rows)) == []
    (plane,) = planes(subject(make((4,), Dirichlet), rows))
    assert not plane.triangle


def test_no_grid_over_latents_that_have_no_plane(make, rows):
    assert manifold(subject(make((2,), Beta), rows)) is not None
    for shape, family in (((2,), Dirichlet), ((2,), Bernoulli), ((2,), OneHot)):
        assert manifold(subject(make(shape, family), rows)) is None


def test_one_category_is_walked_but_not_interpolated(make, rows):
    at = subject(make((5,), OneHot), rows)
    walk = traversals(at)
    assert [name for _, name in walk.heads] == list("01234")
    assert [strip.title for strip in walk.strips] == ["category"]
    assert walk.start == ""
    assert interpolations(at) is None
    assert interpolations(subject(make((3, 5), OneHot), rows)).switches
    assert not interpolations(subject(make((3,), Dirichlet), rows)).switches


@pytest.mark.parametrize(
    ("objective", "bound"),
    [
        (Variational(), True),
        pytest.param(Variational(ELBO(free_bits=0.5)), False, marks=pytest.mark.slow),
        (InfoVAE(weight=100.0), False),
    ],
    ids=str,
)
def test_a_page_calls_a_bound_only_what_is_one(
    objective, bound, fitted, entry, page, make, rows, tmp_path
):
    saved = fitted(
        make((3,), prior=StandardNormal), rows, objective=objective, epochs=6, validation=rows
    )
    source, _ = page(tmp_path / "page.html", [entry("m", saved, rows)], rows)
    assert ("Bound on log p(x)" in source) is bound
    assert ("Objective, no bound on log p(x)" in source) is not bound


@pytest.mark.slow
def test_a_page_of_every_kind_of_latents(fitted, entry, page, make, rows, tmp_path):
    models = {
        "one category": make((5,), OneHot),
        "categories": make((3, 5), OneHot),
        "shares": make((3,), Dirichlet),
        "range": make((2,), Beta),
        "vamp": make((2,), Normal, VampPrior),
    }
    entries = [
        entry(name, lt.io.Saved(model, rows.to_schema(), {}), rows)
        for name, model in models.items()
    ]
    _, found = page(tmp_path / "page.html", entries, rows)
    text = " ".join("".join(found.text).split())
    assert "of 5 categories in use · KL = " in text
    assert "of 3 variables active, " in text
    assert "of 3 shares in use · KL = " in text
    assert " of 2 latents active · KL ≈ " in text
    assert "uniform" in text
    assert "holds 95 % of the prior and the solid one 50 %" in text
    assert "they switch from one row's likeliest values" in text
