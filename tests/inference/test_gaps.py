"""Gaps: their parts in closed form, by enumeration, and what each number says it is."""

import json
import math
from functools import partial

import pytest
import torch

from latently import Data, Dequantized, Exact, ImportanceSampling, fa, ppca, vae
from latently.inference import Refined, compare_gaps, gaps
from latently.inference.methods import Enumeration, Method, Scores
from latently.inference.number import Number
from latently.nets import MLP
from latently.probability.families import Bernoulli, Normal, OneHot
from latently.probability.priors import Learned

TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)
NAMES = ["log_p", "elbo", "refined_elbo", "total", "approximation", "amortisation"]


def z_score(number, truth):
    return (number.value - truth) / number.mc_stderr


class Known(Method):
    """log p(x) from outside."""

    kind = "exact"
    name = "known"

    def __init__(self, log_p):
        self.log_p = log_p.double().cpu()

    def scores(self, model, rows, *, seed=0, progress=None):
        return Scores(self.log_p, torch.zeros_like(self.log_p), None, None)


def oblique(case):
    """Columns of W that are not orthogonal: the best q of independent cells falls short.

    Returns what the gaps are, in closed form: log p(x), KL of the best q, KL of the encoder's.
    """
    layer, std = case.model.decoder.net.layers[0], case.model.decoder.family.std
    with torch.no_grad():
        layer.weight[:, 1] += 0.8 * layer.weight[:, 0]
    weight, loc = layer.weight.detach().double(), layer.bias.detach().double()
    precision = torch.eye(weight.shape[1]).to(weight) + weight.T @ weight / std**2
    covariance = weight @ weight.T + std**2 * torch.eye(len(loc)).to(weight)
    log_p = torch.distributions.MultivariateNormal(loc, covariance).log_prob(case.x.double())
    mean = torch.linalg.solve(precision, weight.T @ (case.x.double() - loc).T / std**2).T
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    embedded = case.model.decoder.family.embed(case.x)
    with torch.no_grad():
        q = case.model.encoder(embedded)
    q = torch.distributions.MultivariateNormal(
        q.mean.double(), torch.diag_embed(q.variance.double())
    )
    total = torch.distributions.kl_divergence(q, posterior)
    best = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    return log_p, best, total


def nearly_the_best(case):
    """Gives an oblique case the encoder of the best q, a tenth too wide."""
    layer, std = case.model.decoder.net.layers[0], case.model.decoder.family.std
    own = case.model.encoder.net.layers[0]
    with torch.no_grad():
        weight, loc = layer.weight, layer.bias
        precision = torch.eye(weight.shape[1]).to(weight) + weight.T @ weight / std**2
        gain = torch.linalg.solve(precision, weight.T / std**2)
        log_scale = 0.1 - 0.5 * precision.diagonal().log()
        own.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        own.bias.copy_(torch.cat([-gain @ loc, 10 * torch.atanh(log_scale / 10)]))


# In closed form.


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_parts_are_the_closed_forms(gaussian_vae, shift):
    case = gaussian_vae(shift=shift, widen=0.4)
    log_p, best, total = oblique(case)
    found = gaps(case.model, Data.from_array(case.x), method=Known(log_p), samples=3000)
    assert abs(z_score(found.total, float(total.mean()))) < 4
    assert abs(z_score(found.elbo, float((log_p - total).mean()))) < 4
    error = 4 * found.approximation.mc_stderr
    assert -error < found.approximation.value - float(best) < error + 0.01  # short by 0.01
    whole = found.approximation.value + found.amortisation.value
    assert whole == pytest.approx(found.total.value, abs=1e-9)
    assert abs(whole - float(total.mean())) < 4 * found.total.mc_stderr


def test_common_draws_take_the_noise_out_of_the_amortisation_gap(gaussian_vae):
    shares = []
    for seed in range(6):
        torch.manual_seed(seed)  # other rows
        case = gaussian_vae()
        log_p, _, _ = oblique(case)
        nearly_the_best(case)
        found = gaps(case.model, Data.from_array(case.x), method=Known(log_p), samples=1000)
        apart = math.hypot(found.elbo.mc_stderr, found.refined_elbo.mc_stderr)
        shares.append(found.amortisation.mc_stderr / apart)
    assert 0 < min(shares)
    assert sum(shares) / len(shares) < 0.4


def test_error_bars_hold(gaussian_vae):
    """The spread over seeds is the Monte Carlo error that is stated, for every number."""
    case = gaussian_vae(shift=0.5, widen=0.3)
    oblique(case)
    data = Data.from_array(case.x[:2])
    runs = [gaps(case.model, data, samples=300, steps=10, seed=seed) for seed in range(30)]
    for name in NAMES:
        values = torch.tensor([getattr(run, name).value for run in runs]).double()
        stated = (
            torch.tensor([getattr(run, name).mc_stderr for run in runs]).square().mean().sqrt()
        )
        assert 0.6 < float(values.std() / stated) < 1.7, name


def test_without_a_method_log_p_is_bounded_from_the_refined_q(gaussian_vae):
    case = gaussian_vae(shift=0.6, widen=0.4)
    log_p, best, _ = oblique(case)
    data = Data.from_array(case.x)
    found = gaps(case.model, data, samples=400, steps=40)
    assert found.log_p.kind == found.total.kind == found.approximation.kind == "lower_bound"
    assert found.elbo.kind == found.amortisation.kind == "estimate"
    assert found.log_p.method == "refined IWAE K=400"
    assert found.log_p.value < float(log_p.mean()) + 4 * found.log_p.mc_stderr
    assert found.approximation.value < float(best) + 4 * found.approximation.mc_stderr + 0.05
    other = gaps(case.model, data, samples=400, steps=40, method=Refined(400, 40))
    torch.testing.assert_close(other.values["log_p"], found.values["log_p"])


# By enumeration.


@pytest.mark.parametrize("posterior", [OneHot, Bernoulli])
def test_discrete_latents_are_summed(posterior):
    torch.manual_seed(1)
    model = vae((4,), latents=3, net=TINY, posterior=posterior, prior=Learned).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.8 * torch.randn_like(p))
    x = torch.rand(5, 4).lt(0.5).double()
    data = Data.from_array(x, levels=2)
    found = gaps(model, data, steps=150)
    torch.testing.assert_close(found.values["log_p"], Enumeration()(model, x).values)
    assert {number.kind for number in found.numbers.values()} == {"exact"}
    assert {number.mc_stderr for number in found.numbers.values()} == {0.0}
    assert found.samples == 0
    assert (found.values["amortisation"] > 0).all()
    assert (found.values["approximation"] > -1e-9).all()
    if posterior is OneHot:  # a q of every row's own can be p(z|x)
        assert found.approximation.value < 5e-3
    torch.manual_seed(2)
    with torch.no_grad():
        log_w = model.infer(x, 20_000).log_w
    error = 4 * log_w.std(0) / math.sqrt(len(log_w))
    assert ((found.values["elbo"] - log_w.mean(0)).abs() < error).all()


# Models of all kinds.


def test_exact_models_have_no_gaps():
    data = Data.from_array(torch.randn(5, 4))
    found = gaps(ppca((4,), latents=2), data)
    assert {number.kind for number in found.numbers.values()} == {"exact"}
    for name in ("total", "approximation", "amortisation"):
        assert torch.equal(found.values[name], torch.zeros(5).double())
    assert found.log_p.value == found.elbo.value
    for samples in (1, 5):
        weighted = gaps(fa((4,), latents=2), data, method=ImportanceSampling(samples))
        assert weighted.total.kind == "exact"
        assert weighted.total.value == weighted.total.mc_stderr == 0
    low = Known(found.values["log_p"] - 0.5)
    low.kind = "lower_bound"
    loose = gaps(ppca((4,), latents=2), data, method=low)
    assert loose.elbo.kind == "exact"
    assert loose.elbo.value == pytest.approx(found.elbo.value)
    assert loose.total.kind == "lower_bound"
    assert loose.total.value == pytest.approx(-0.5)


def test_noise_of_an_exact_model_is_no_fault_of_an_encoder():
    model = Dequantized(ppca((4,), latents=1), levels=4)
    data = Data.from_array(torch.randint(0, 4, (3, 4)).float(), family="Normal")
    found = gaps(model, data, samples=50)
    assert found.amortisation.value == 0
    assert found.approximation.value == found.total.value > 0


def test_masks_contexts_and_dequantized_rows(untouched):
    inner = vae((4,), latents=2, net=TINY, sees_mask=True, contexts=2, likelihood=Normal)
    x = torch.randint(0, 4, (4, 4)).float()
    mask = torch.rand(4, 4) < 0.7
    data = Data(x=x, mask=mask, context=torch.randn(4, 2), family="Normal", protocol="here/test")
    for model in (inner, Dequantized(inner, levels=4)):
        model.train()
        with untouched():
            found = gaps(model, data, samples=100, steps=30)
        assert model.training
        assert found.amortisation.value > 0
        assert found.protocol == "here/test"
        total = found.values["approximation"] + found.values["amortisation"]
        torch.testing.assert_close(total, found.values["total"])


def test_rows_are_the_same_in_any_company():
    model = vae((4,), latents=2, net=TINY, likelihood=Normal)
    x = torch.randn(4, 4)
    whole = gaps(model, Data.from_array(x), samples=50, steps=5)
    part = gaps(model, Data.from_array(x[[2, 0]]), samples=50, steps=5)
    for name in NAMES:
        assert torch.equal(part.values[name], whole.values[name][[2, 0]])


def test_equal_rows_share_their_draws():
    model = vae((4,), latents=2, net=TINY, likelihood=Normal)
    x = torch.randn(1, 4)
    one, four = (gaps(model, Data.from_array(x.expand(n, 4)), samples=50, steps=5) for n in (1, 4))
    assert four.elbo.mc_stderr == pytest.approx(one.elbo.mc_stderr)


# What is said of them.


def test_they_are_told_in_a_table_and_as_json():
    model = vae((4,), latents=2, net=TINY, likelihood=Normal)
    calls = []
    found = gaps(
        model,
        Data.from_array(torch.randn(3, 4)),
        samples=50,
        steps=5,
        progress=lambda done, rows: calls.append((done, rows)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert len(found) == 3
    lines = str(found).splitlines()
    assert len(lines) == 7
    assert "3 rows" in lines[0]
    assert lines[1].startswith("log p(x)")
    assert ">=" in lines[1]
    assert "refined IWAE K=50" in lines[1]
    assert lines[6].startswith("amortisation gap")
    stored = json.loads(json.dumps(found.to_dict()))
    assert [name for name in stored if name in NAMES] == NAMES
    assert stored["amortisation"]["value"] == found.amortisation.value
    assert stored["n"] == 3


def test_generalisation_is_test_minus_train():
    model = vae((4,), latents=2, net=TINY, likelihood=Normal)
    train, test = (
        gaps(model, Data(x=torch.randn(6, 4), family="Normal", protocol=name), samples=50, steps=5)
        for name in ("here/train", "here/test")
    )
    found = compare_gaps(train, test)
    assert list(found) == ["total", "approximation", "amortisation"]
    for name, number in found.items():
        assert isinstance(number, Number)
        here, there = getattr(test, name), getattr(train, name)
        assert number.value == here.value - there.value
        assert number.stderr == pytest.approx(math.hypot(here.stderr, there.stderr))
        assert number.mc_stderr == pytest.approx(math.hypot(here.mc_stderr, there.mc_stderr))
        assert number.kind == "estimate"


# What is refused.


def test_bad_options_are_refused(refused):
    model, data = vae((4,), latents=2, net=TINY), Data.from_array(torch.zeros(2, 4), levels=2)
    with refused("gaps", "samples=1", "at least 2"):
        gaps(model, data, samples=1)
    with refused("gaps", "steps=0", "at least 1"):
        gaps(model, data, steps=0)
    with refused("no exact density"):
        gaps(model, data, method=Exact())
    found = gaps(model, data, samples=5, steps=1)
    with refused("compare_gaps", "train and test"):
        compare_gaps(found, found)
