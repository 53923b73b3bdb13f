"""Diagnosis against closed forms, quadrature and enumeration; collapse named where it is."""

import json
import math
from functools import partial

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as TorchNormal

from latently import ELBO, Data, Dequantized, Transformed, Variational, fa, fit, ppca, vae
from latently.inference._aggregate import Mixture, infer
from latently.inference.diagnostics import diagnose
from latently.inference.particles import Particles, equal_shares
from latently.models import Model
from latently.nets import MLP
from latently.probability import families
from latently.probability.conditional import draw as draw_from
from latently.probability.priors import Learned, LearnedNormal, Standard, VampPrior
from latently.probability.transforms import Log

TINY = partial(MLP, hidden=(8,), activation=torch.nn.Tanh)
QUIET = {"progress": False, "device": "cpu"}


def near(number, truth, errors=4.5, floor=1e-9):
    """Within so many Monte Carlo errors of the truth for these rows."""
    assert abs(number.value - truth) < errors * number.mc_stderr + floor, (str(number), truth)


def normals(n=40, columns=3, seed=0):
    x = torch.randn(n, columns, generator=torch.Generator().manual_seed(seed)).double()
    return Data.from_array(x, family="Normal")


def bits(n=30, columns=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, columns, generator=generator).lt(0.5).float()
    return Data.from_array(x, levels=2)


def shaken(model, by=0.5):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model


def posterior(model, data):
    return infer(model, data.x, 1, data.mask, data.context, 0).q[-1]


# The parts of the ELBO.


def test_linear_gaussian_vae(gaussian_vae):
    """KL, distortion and rate in closed form; the parts add up."""
    case = gaussian_vae(shift=0.3, widen=0.2)
    data = Data(case.x.float(), "Normal", "rows")
    found = diagnose(case.model, data, samples=400)
    q = posterior(case.model, data)
    mean, deviation = q.mean.double(), q.base.scale.double()
    kl = (0.5 * (deviation**2 + mean**2 - 1) - deviation.log()).detach()
    assert found.rate.kind == "exact"
    assert found.rate.mc_stderr == 0
    assert found.rate.value == pytest.approx(float(kl.sum(1).mean()), rel=1e-5)
    for at, unit in enumerate(found.layers[0].dimensions):
        assert unit.kl.value == pytest.approx(float(kl[:, at].mean()), rel=1e-5)
        assert unit.variance.value == pytest.approx(float(mean[:, at].detach().var()), rel=0.12)
    near(found.elbo, float((case.log_p - case.gap).mean()), floor=1e-4)
    assert found.elbo.value == pytest.approx(-found.distortion.value - found.rate.value, rel=1e-9)
    layer = found.layers[0]
    parts = layer.information.value + layer.aggregate.value
    assert parts == pytest.approx(layer.rate.value, abs=1e-9)
    parts = layer.total_correlation.value + layer.dimension_wise.value
    assert parts == pytest.approx(layer.aggregate.value, abs=1e-9)


def test_exact_models_and_the_gaussian_channel():
    """Of an exact model of its own data q(z) is p(z): I(x; z) = 1/2 log |M|, as N grows."""
    torch.manual_seed(0)
    model = ppca((4,), latents=2)
    weight = torch.tensor([[1.0, 0.2], [0.0, 0.8], [0.5, 0.0], [0.0, 0.3]]).double()
    with torch.no_grad():
        model.weight.copy_(weight)
    data = Data(model.sample(1500, seed=1).detach(), "Normal", "own")
    found = diagnose(model, data, samples=4)
    truth = 0.5 * torch.logdet(torch.eye(2).double() + weight.T @ weight).item()
    assert abs(found.information.value - truth) < 4 * found.information.stderr + 0.01
    assert abs(found.aggregate.value) < 0.02
    assert found.layers[0].dimensions[0].kl is None
    assert found.elbo.kind == "exact"
    assert found.elbo.mc_stderr == 0.0  # and not what rounding leaves of it
    near(found.elbo, float(model.log_prob(data.x).detach().mean()))
    q = model.posterior(data.x)
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    near(found.rate, float(torch.distributions.kl_divergence(q, prior).mean()))


def test_aggregate_and_information_by_quadrature():
    """One latent, few rows: the mixture is integrated on a grid."""
    torch.manual_seed(1)
    model = shaken(vae((3,), latents=1, net=TINY, likelihood=families.Normal)).double()
    data = normals(6)
    found = diagnose(model, data, samples=4000)
    q = posterior(model, data)
    mixture = MixtureSameFamily(
        Categorical(torch.ones(6).double()), TorchNormal(q.mean[:, 0], q.base.scale[:, 0])
    )
    z = torch.linspace(-60, 60, 200_001).double()
    density = mixture.log_prob(z).detach()
    log_p = TorchNormal(0.0, 1.0).log_prob(z)
    apart = torch.trapezoid(density.exp() * (density - log_p), z).item()
    near(found.aggregate, apart)
    near(found.information, found.rate.value - apart)
    near(found.layers[0].total_correlation, 0.0)
    near(found.layers[0].dimensions[0].information, found.rate.value - apart)


def test_dimension_wise_parts_by_quadrature():
    torch.manual_seed(2)
    model = shaken(vae((3,), latents=2, net=TINY, likelihood=families.Normal)).double()
    data = normals(5)
    layer = diagnose(model, data, samples=4000).layers[0]
    q = posterior(model, data)
    z = torch.linspace(-60, 60, 200_001).double()
    log_p, total = TorchNormal(0.0, 1.0).log_prob(z), 0.0
    for at in range(2):
        cells = TorchNormal(q.mean[:, at], q.base.scale[:, at]).log_prob(z[:, None]).detach()
        density = torch.logsumexp(cells, 1) - math.log(5)
        apart = torch.trapezoid(density.exp() * (density - log_p), z).item()
        near(layer.dimensions[at].information, layer.dimensions[at].kl.value - apart)
        total += apart
    near(layer.dimension_wise, total)


@pytest.mark.parametrize("family", [families.Bernoulli, families.OneHot])
def test_discrete_latents_by_enumeration(family):
    torch.manual_seed(3)
    shape = (3,) if family is families.Bernoulli else (2, 3)
    model = shaken(vae((5,), latents=shape, posterior=family, prior=Learned, net=TINY), 1.0)
    model, data = model.double(), bits(8)
    found = diagnose(model, data, samples=3000)
    q, prior = posterior(model, data), model.prior()
    states = q.states()
    log_q = q.log_prob(states.unsqueeze(1)).detach()
    log_p = prior.log_prob(states).detach()
    aggregate = torch.logsumexp(log_q, 1) - math.log(8)
    near(found.rate, float((log_q.exp() * (log_q - log_p[:, None])).sum(0).mean()))
    near(found.aggregate, float((aggregate.exp() * (aggregate - log_p)).sum()))
    near(found.information, float((log_q.exp() * (log_q - aggregate[:, None])).sum(0).mean()))
    cells = q.probs.detach() if family is families.OneHot else q.mean.detach()
    cells = cells if family is families.OneHot else torch.stack([1 - cells, cells], -1)
    mean = cells.mean(0)
    truth = (cells * (cells / mean).log()).sum(-1).mean(0)
    units = found.layers[0].dimensions
    assert len(units) == len(truth) == shape[0]
    for unit, of_unit in zip(units, truth, strict=True):
        near(unit.information, float(of_unit))
        assert unit.active == (unit.information.value > 0.01)


def test_one_categorical_variable_is_one_unit():
    torch.manual_seed(0)
    model = shaken(vae((5,), latents=4, posterior=families.OneHot, prior=Standard, net=TINY), 1.0)
    (unit,) = diagnose(model, bits()).layers[0].dimensions
    assert unit.index == ()
    assert unit.information.value > 0.01
    assert unit.active


def test_active_units_of_continuous_latents_are_those_of_burda():
    """Var E[z_d] of 0.0025 is not active, of 0.04 it is; whatever the scale of a learned prior."""
    x = normals(400, 2).x
    data = Data((x - x.mean(0)) / x.std(0), "Normal", "rows")
    for scale in (1.0, 30.0):
        options = {"likelihood": families.Normal, "prior": LearnedNormal}
        model = vae((2,), latents=2, net=partial(MLP, hidden=()), **options).double()
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
            model.encoder.net.layers[0].weight[0, 0] = 0.05 * scale
            model.encoder.net.layers[0].weight[1, 1] = 0.2 * scale
            model.prior.given.h[2:] = 10 * math.atanh(math.log(scale) / 10)
        units = diagnose(model, data).layers[0].dimensions
        assert [unit.active for unit in units] == [False, True]
        assert units[1].variance.value == pytest.approx(0.04, rel=0.12)


# Every kind of model.


class TwoLayers(Model):
    """Two layers of bits: p(a) p(b|a) p(x|b), q(a|x) q(b|a,x), all by tables."""

    density = "bound"
    discrete = True

    def __init__(self):
        super().__init__()
        self.shape = (2,)
        torch.manual_seed(4)
        self.of_a, self.of_b = (torch.nn.Parameter(torch.randn(n).double()) for n in (3, 4))
        self.of_x = torch.nn.Parameter(torch.randn(3).double())

    def infer(self, x, samples=1, mask=None, context=None, *, draw=draw_from, z=None, **_):
        q_a = self._bits((x @ self.of_a[:2] + self.of_a[2])[:, None])
        a = draw(q_a, samples) if z is None else z[0]
        q_b = self._bits(x[None, :, :1] * self.of_b[0] + a * self.of_b[1] + self.of_b[2])
        b = draw(q_b, 1)[0] if z is None else z[1]
        log_lik = self.likelihood((a, b)).log_prob(x)
        p_b = self._bits(self.of_b[3] * (a - 0.5))
        return Particles(
            z=(a, b),
            log_lik=log_lik,
            log_prior=(self._bits(torch.zeros_like(a)).log_prob(a), p_b.log_prob(b)),
            log_q=(q_a.log_prob(a), q_b.log_prob(b)),
            kl=(None, None),
            log_pi=equal_shares(log_lik),
        )

    def likelihood(self, z, context=None):
        h = self.of_x[:2] * z[1] + self.of_x[2] * z[0]
        return self._bits(h)

    def latents(self, n, context=None, given=()):
        a = self._bits(torch.zeros(1, n, 1).double()).sample()
        return a, self._bits(self.of_b[3] * (a - 0.5)).sample()

    def misfit(self, x, mask=None):
        return (x != 0) & (x != 1), "0 and 1"

    def latent_constraints(self):
        return (None, None)

    @staticmethod
    def _bits(logits):
        return families.Bernoulli((logits.shape[-1],))(logits)


def test_several_layers_by_enumeration():
    """Given the layers above: information and aggregate of each, which add up."""
    model = TwoLayers()
    data = Data(torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [1, 1]]).double(), "B", "rows")
    found = diagnose(model, data, samples=4000)
    a, b = (t.reshape(4, 1, 1).double() for t in torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]))
    p = model.infer(data.x, z=(a.expand(4, 5, 1), b.expand(4, 5, 1)))
    log_q = torch.stack(p.log_q).cumsum(0).detach()  # of a, and of both
    log_p = torch.stack(p.log_prior).cumsum(0).detach()
    aggregate = torch.logsumexp(log_q, 2) - math.log(5)
    share = log_q[1].exp() / 5
    information = (share * (log_q - aggregate[..., None])).sum((1, 2))
    rate = (share * (log_q - log_p)).sum((1, 2))
    top, bottom = found.layers
    assert (top.name, bottom.name) == ("z1", "z2")
    near(top.information, float(information[0]))
    near(bottom.information, float(information[1] - information[0]))
    near(found.information, float(information[1]))
    near(top.rate, float(rate[0]))
    near(bottom.rate, float(rate[1] - rate[0]))
    near(found.aggregate, float(rate[1] - information[1]))
    assert found.layers[0].total_correlation is None
    assert "z2|z1" in str(found)
    json.dumps(found.to_dict())


WRAPPED = {
    "transformed": lambda: Transformed(_continuous(), Log()),
    "dequantized": lambda: Dequantized(_continuous(), levels=4),
    "masked": lambda: _continuous(sees_mask=True),
    "fa": lambda: fa((3,), latents=2),
    "integers": lambda: fa((3,), latents=2, levels=4),
    "dirichlet": lambda: _continuous(posterior=families.Dirichlet, prior=Standard, latents=3),
    "flow": lambda: _continuous(posterior=families.FlowNormal),
    "mixture": lambda: _continuous(posterior=families.Mixture),
    "full": lambda: _continuous(posterior=families.MultivariateNormal),
    "heavy": lambda: _continuous(posterior=families.StudentT, prior=Standard),
    "vamp": lambda: _continuous(prior=VampPrior),
}


def _continuous(latents=2, **options):
    torch.manual_seed(0)
    return shaken(vae((3,), latents=latents, net=TINY, likelihood=families.Normal, **options), 0.1)


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_every_kind_of_model(make, untouched):
    """The parts add up, nothing is below what it can be, and JSON takes all of it."""
    model = make()
    x = torch.randint(1, 4, (40, 3), generator=torch.Generator().manual_seed(1)).float()
    mask = torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.8
    data = Data(x.masked_fill(~mask, 0), "Normal", "rows", mask=mask, levels=4)
    with untouched():
        found = diagnose(model, data, samples=30)
    assert model.training
    layer = found.layers[0]
    errors = 5 * (layer.rate.mc_stderr + layer.information.mc_stderr)
    assert -errors <= layer.information.value <= math.log(40) + 1e-9
    assert layer.aggregate.value > -errors - 1e-6
    assert layer.rate.value == pytest.approx(
        layer.information.value + layer.aggregate.value, abs=1e-9
    )
    if layer.total_correlation is not None:
        assert layer.total_correlation.value > -5 * layer.total_correlation.mc_stderr - 1e-6
    assert found.elbo.value == pytest.approx(-found.distortion.value - found.rate.value)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["n"] == 40
    assert str(found).startswith("rows: 40 rows, 30 draws each")
    again = diagnose(make(), data, samples=30)
    assert again.to_dict() == found.to_dict()


def test_noise_of_the_model_is_held_for_the_aggregate():
    """Of a Dequantized model, rows with one draw of the noise each are the rows of q(z)."""
    model = WRAPPED["dequantized"]()
    data = Data.from_array(torch.randint(0, 4, (30, 3)).float().tolist(), levels=4)
    found = diagnose(model, data, samples=300)
    whole = model.infer(data.x, 3000)
    kl = whole.kl[0].double().detach().mean()
    near(found.rate, float(kl), floor=0.02)
    assert found.rate.kind == "estimate"


def test_contexts_with_and_without_a_prior_of_their_own():
    data = bits(40)
    data = Data(data.x, "Bernoulli", "rows", context=torch.eye(2).repeat(20, 1), levels=2)
    torch.manual_seed(0)
    one = shaken(vae((5,), latents=2, net=TINY, contexts=2))
    assert diagnose(one, data).aggregate is not None
    own = shaken(vae((5,), latents=2, net=TINY, contexts=2, prior=LearnedNormal))
    found = diagnose(own, data)
    assert found.aggregate is None
    assert found.layers[0].dimension_wise is None
    assert found.layers[0].total_correlation is not None
    assert found.information is not None


FAMILIES = sorted(set(families.__all__) - {"Family"})


@pytest.mark.parametrize("name", FAMILIES)
def test_mixtures_of_every_family_are_sums_over_rows(name):
    """Blocks of rows and draws give what a loop over pairs gives."""
    torch.manual_seed(0)
    shape = (1, 3, 2) if "Discretized" in name and "Mixture" in name else (3,)
    options = {"levels": 4} if name in ("Categorical", "Ordinal", "Binomial") else {}
    options = {"levels": 4} if name.startswith("Discretized") else options
    options = {"std": 0.5} if name == "FixedNormal" else options
    family = getattr(families, name)(shape, **options)
    q = [family(torch.randn(n, *family.param_shape)) for n in (3, 4)]
    mixture = Mixture(q)
    z = mixture.sample(2, seed=0)
    joint, cells = mixture.log_prob(z.flatten(0, 1))
    for found, row in zip(joint, z.flatten(0, 1), strict=True):
        terms = torch.cat([part.log_prob(row.expand(part.batch_shape + row.shape)) for part in q])
        truth = torch.logsumexp(terms.double(), 0) - math.log(7)
        torch.testing.assert_close(found, truth.detach(), rtol=1e-4, atol=1e-4)
    if cells is not None and name not in ("OneHot",):
        assert cells.shape == z.flatten(0, 1).shape
    own, own_cells = mixture.own(z)
    assert (own.exp() / 7 <= joint.view(2, 7).exp() * (1 + 1e-4)).all()
    if own_cells is not None:
        torch.testing.assert_close(own_cells.reshape(2, 7, -1).sum(2), own)


def test_blocks_do_not_change_the_sums(monkeypatch):
    model, data = _continuous(), normals(50)
    whole = diagnose(model, data, samples=4, seed=3)
    monkeypatch.setattr("latently.inference._aggregate._PAIRS", 64)
    parts = diagnose(model, data, samples=4, seed=3)
    assert parts.information.value == pytest.approx(whole.information.value, abs=1e-6)
    seen = []
    monkeypatch.setattr("latently.inference._aggregate._DECODED", 64)
    other = diagnose(model, data, samples=4, seed=3, progress=lambda *at: seen.append(at))
    near(other.information, whole.information.value, errors=8)
    assert seen[-1] == (50 * 5, 50 * 5)
    assert seen == sorted(seen)


# Findings.


def rows_of_two_factors(n=256, seed=0):
    """Ten bits that follow two hidden ones, with a flip in ten."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(n, 2, generator=generator).lt(0.5).repeat_interleave(5, 1)
    flipped = torch.rand(n, 10, generator=generator) < 0.1
    return Data.from_array((hidden ^ flipped).float(), levels=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_collapse_is_named_and_health_is_not(seed):
    data, held = rows_of_two_factors(), rows_of_two_factors(seed=1)

    def fitted(beta):
        torch.manual_seed(seed)
        model = vae((10,), latents=3, net=partial(MLP, hidden=(16,)))
        objective = Variational(bound=ELBO(beta=beta))
        fit(model, data, objective, epochs=40, learning_rate=2e-2, seed=seed, **QUIET)
        return diagnose(model, held, seed=seed, train=data)

    well, ill = fitted(1.0), fitted(50.0)
    assert [one.name for one in well.alarms if one.name != "rows of the fit"] == []
    assert well.layers[0].active >= 2
    (alarm,) = (one for one in ill.alarms if one.name != "rows of the fit")
    assert alarm.name == "posterior collapse"
    assert ill.layers[0].active == 0
    assert "ELBO(beta=Warmup(1.0))" in alarm.text
    assert "\n" not in str(alarm)


def test_a_decoder_that_ignores_z_is_named():
    """The encoder pays for a code that nobody reads."""
    model = _continuous()
    with torch.no_grad():
        model.decoder.net.layers[0].weight.zero_()
        model.encoder.net.layers[-1].weight.mul_(20)
    found = diagnose(model, normals())
    assert [one.name for one in found.alarms] == ["the decoder ignores z"]
    assert found.decoder.value == pytest.approx(0, abs=1e-5)
    assert found.rate.value > 0.5


def test_a_code_that_is_constant_has_collapsed_whatever_it_costs():
    """q(z|x) is the same for all rows, far from the prior: a rate without information."""
    model = _continuous()
    with torch.no_grad():
        model.encoder.net.layers[-1].weight.zero_()
        model.encoder.net.layers[-1].bias.fill_(2.0)
    found = diagnose(model, normals())
    assert found.rate.value > 1
    assert found.alarms[0].name == "posterior collapse"


def test_limits_of_few_rows_are_told():
    model = _continuous()
    with torch.no_grad():
        model.encoder.net.layers[-1].weight.mul_(50)
    data = normals(100)
    found = diagnose(model, data, rows=20)
    assert (found.information.kind, found.aggregate.kind) == ("lower_bound", "upper_bound")
    assert found.information.value <= math.log(20) + 1e-9
    note = {one.name: one.text for one in found.findings}
    assert "20 of 100 rows" in note["rows"]
    assert "log N = 3.00" in note["rows"]
    assert "prior mismatch" in note  # by sum_d KL(q(z_d) || p(z_d)), which is in reach
    assert "sum_d" in note["prior mismatch"]


def test_rows_are_capped_by_default(monkeypatch):
    monkeypatch.setattr("latently.inference._latents.MOST_ROWS", 60)
    found = diagnose(_continuous(), normals(100))
    assert found.rows == 60
    assert any("60 of 100 rows" in one.text for one in found.findings)


def test_rows_of_the_fit_are_found():
    train, test = bits(50, 12), bits(20, 12, seed=9)
    mixed = Data(torch.cat([test.x, train.x[:3]]), "Bernoulli", "mixed", levels=2)
    model = vae((12,), latents=2, net=TINY)
    assert not [one for one in diagnose(model, test, train=train).alarms if "fit" in one.name]
    (alarm,) = (one for one in diagnose(model, mixed, train=train).alarms if "fit" in one.name)
    assert "3 of 23 rows" in alarm.text


def test_refusals(refused):
    model, data = _continuous(), normals()
    for options in ({"samples": 1}, {"samples": 2.5}, {"rows": 1}):
        with refused("diagnose", str(next(iter(options.values()))), "at least 2"):
            diagnose(model, data, **options)
    with refused("rows=1"):
        diagnose(model, data.rows([0]))
    with refused("shape"):
        diagnose(model, normals(columns=4))
    model.density = None
    with refused("no density"):
        diagnose(model, data)


class NoLatents(TwoLayers):
    """A density without latents."""

    def infer(self, x, samples=1, mask=None, context=None, **_):
        log_p = torch.zeros(samples, len(x)).double()
        return Particles((), log_p, (), (), (), equal_shares(log_p))


def test_a_model_without_latents_is_refused(refused):
    with refused("NoLatents has no latents"):
        diagnose(NoLatents(), bits(4, 2))
