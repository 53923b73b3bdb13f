"""Evidence: exactly K draws, the same score in any company, and error bars that hold."""

import json
import math
from functools import partial

import pytest
import torch
from scipy.stats import chi2

from latently import Data, Dequantized, Exact, FactorAnalysis, ImportanceSampling, evaluate, vae
from latently.data import Binarise
from latently.inference import Evidence
from latently.inference.methods import Enumeration
from latently.inference.methods.base import BLOCK_VALUES, MAX_BLOCK
from latently.inference.rows import Rows
from latently.models import VAE, Transformed
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Binomial,
    Gamma,
    Mixture,
    Normal,
    OneHot,
    Poisson,
)
from latently.probability.priors import Learned, VampPrior
from latently.probability.transforms import Log

FIELDS = (
    "kind method nats nats_stderr mc_stderr bits_per_dim ess k_hat n protocol given seed warnings"
).split()


def rows(n=9, columns=4, holes=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, columns, generator=generator).lt(0.5).float()
    if holes:
        x[torch.rand(n, columns, generator=generator) < 0.3] = math.nan
    return Data.from_array(x, family="Bernoulli", levels=2)


def bits_model(columns=4, latents=2, **options):
    return vae((columns,), latents=latents, net=partial(MLP, hidden=(5,)), **options)


def bits_of_bits(**options):
    """A model with discrete latents, and parameters that are nothing special."""
    torch.manual_seed(0)
    model = bits_model(posterior=Bernoulli, prior=Learned, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.7 * torch.randn_like(p))
    return model


class Spy(torch.nn.Module):
    """A model that counts what is asked of the one inside."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls, self.modes = model, [], set()
        self.density, self.discrete = model.density, model.discrete
        self.shape, self.check, self.numerical = model.shape, model.check, model.numerical
        self.check_context = model.check_context

    def infer(self, x, samples=1, *args, **keywords):
        self.calls.append(len(x) * samples)
        self.modes.add((self.model.training, torch.is_grad_enabled()))
        return self.model.infer(x, samples, *args, **keywords)


@pytest.mark.parametrize("samples", [1, 2, 7, 150, 5000])
def test_exactly_k_draws_reach_the_decoder(samples):
    model, decoded = bits_model(), []
    model.decoder.net.register_forward_hook(lambda net, inputs, out: decoded.append(len(out)))
    evidence = evaluate(model, rows(3), ImportanceSampling(samples))
    assert sum(decoded) == 3 * samples
    assert max(decoded) <= MAX_BLOCK
    assert evidence.samples == samples


def test_memory_is_bounded_whatever_k_is():
    wide = BLOCK_VALUES // 50
    model = Spy(vae((wide,), latents=1, net=partial(MLP, hidden=())))
    data = Data.from_array(torch.zeros(1, wide), levels=2)
    evaluate(model, data, ImportanceSampling(120))
    assert sum(model.calls) == 120
    assert max(model.calls) * wide <= BLOCK_VALUES


@pytest.mark.parametrize("options", [{}, {"prior": partial(VampPrior, components=3)}])
@pytest.mark.parametrize("holes", [False, True])
def test_a_row_scores_the_same_in_any_company(options, holes):
    model, data = bits_model(**options), rows(holes=holes)
    method = ImportanceSampling(200)
    whole = evaluate(model, data, method)
    for index in ([4], [8, 0, 3], list(range(8, -1, -1)), [2, 2, 2]):
        part = evaluate(model, data.rows(index), method)
        for name in ("values", "mc_variance", "ess", "k_hat"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[index]), name


def test_exact_scores_do_not_depend_on_the_company_either():
    data = Data.from_array(torch.randn(300, 4).double())
    model = FactorAnalysis((4,), 2)
    with torch.no_grad():
        model.weight.normal_()
    whole = evaluate(model, data).values
    part = evaluate(model, data.rows([299, 0, 7])).values
    torch.testing.assert_close(part, whole[[299, 0, 7]], rtol=0, atol=1e-9)
    torch.testing.assert_close(
        evaluate(model, data, Exact(block=7)).values, whole, rtol=0, atol=1e-9
    )


def test_scores_depend_on_the_seed_and_on_nothing_global(untouched):
    model, data = bits_model(), rows()
    with untouched():
        first = evaluate(model, data, ImportanceSampling(50), seed=1)
    torch.manual_seed(99)
    again = evaluate(model, data, ImportanceSampling(50), seed=1)
    other = evaluate(model, data, ImportanceSampling(50), seed=2)
    assert torch.equal(first.values, again.values)
    assert (first.values != other.values).all()


def test_whole_blocks_of_draws_are_shared_by_any_two_k():
    model, data = bits_model(), rows(1)
    method = ImportanceSampling(MAX_BLOCK + 100)
    long = method.log_weights(model, Rows(data.x), 0)
    short = ImportanceSampling(MAX_BLOCK).log_weights(model, Rows(data.x), 0)
    assert torch.equal(long[:MAX_BLOCK], short)
    assert len(long.unique()) > 0.99 * len(long)


def test_rows_have_noise_of_their_own():
    model = bits_model()
    data = Data.from_array(torch.eye(4), levels=2)
    errors = torch.stack(
        [evaluate(model, data, ImportanceSampling(20), seed=s).values for s in range(400)]
    )
    correlation = torch.corrcoef((errors - errors.mean(0)).T)
    assert (correlation - torch.eye(4)).abs().max() < 5 / math.sqrt(400)


def test_monte_carlo_error_is_the_spread_over_seeds(gaussian_vae):
    case = gaussian_vae(shift=0.15, widen=0.1)
    data = Data.from_array(case.x.cpu())
    model, repeats = case.model.cpu(), 150
    found = [evaluate(model, data, ImportanceSampling(400), seed=s) for s in range(repeats)]
    means = torch.tensor([e.nats for e in found], dtype=torch.float64)
    claimed = torch.tensor([e.mc_stderr for e in found]).square().mean().sqrt()
    ratio = float((means.std() / claimed) ** 2) * (repeats - 1)
    assert chi2.ppf(1e-3, repeats - 1) < ratio < 1.15 * chi2.ppf(1 - 1e-3, repeats - 1)
    assert (
        abs(means.mean() - case.log_p.cpu().mean()) < 5 * means.std() / math.sqrt(repeats) + 1e-3
    )


def test_one_draw_claims_no_error_bar():
    evidence = evaluate(bits_model(), rows(), ImportanceSampling(1))
    assert math.isnan(evidence.mc_stderr)
    assert evidence.to_dict()["mc_stderr"] is None
    assert evidence.method == "ELBO, one draw"


def test_exact_posterior_gives_the_truth_with_no_error(gaussian_vae, exactly):
    case = gaussian_vae()
    evidence = evaluate(
        case.model, Data.from_array(case.x.cpu()).to(case.x.device), ImportanceSampling(50)
    )
    exactly(evidence.values, case.log_p, 1e-9)
    assert evidence.mc_stderr < 1e-7
    exactly(evidence.ess, torch.full((6,), 50.0), 1e-6)


def test_sum_over_all_x_of_a_small_vae_is_one():
    model = bits_model().double()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).double()
    evidence = evaluate(model, Data.from_array(every, levels=2), ImportanceSampling(40_000))
    p = evidence.values.exp()
    error = (p.square() * evidence.mc_variance).sum().sqrt()
    assert abs(p.sum() - 1) < 5 * error
    assert error < 0.02


def test_kind_method_and_units_are_stated():
    data = rows()
    bound = evaluate(bits_model(), data, ImportanceSampling(50))
    assert (bound.kind, bound.method, bound.discrete) == ("lower_bound", "IWAE K=50", True)
    assert bound.bits_per_dim == pytest.approx(-bound.nats / (4 * math.log(2)))
    assert "lower bound, IWAE K=50" in str(bound)
    assert ">=" in str(bound)
    assert "bits/dim" in str(bound)
    exact = evaluate(FactorAnalysis((4,), 1), data.to(dtype=torch.float64))
    assert (exact.kind, exact.method, exact.mc_stderr) == ("exact", "exact", 0)
    assert exact.bits_per_dim is None
    assert str(exact).startswith("log p(x) = ")
    assert evaluate(bits_model(), rows(holes=True), ImportanceSampling(5)).bits_per_dim is None


def test_exact_models_stay_exact_by_importance_sampling(exactly):
    model, data = FactorAnalysis((4,), 1), rows().to(dtype=torch.float64)
    for samples in (1, 30):
        found = evaluate(model, data, ImportanceSampling(samples))
        assert (found.kind, found.method, found.mc_stderr) == ("exact", "exact", 0)
        torch.testing.assert_close(found.values, evaluate(model, data).values)


def test_exact_is_refused_where_there_is_none(refused):
    with refused("no exact density", "ImportanceSampling"):
        evaluate(bits_model(), rows(), Exact())
    with refused("samples=0"):
        ImportanceSampling(0)


def log_sum(model, x, mask=None, context=None):
    """log p(x) of each row, summed over every value of three bits, one at a time."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for z in torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3):
        p_x = model.likelihood((z.expand(1, len(x), 3),), context)
        terms = torch.distributions.Bernoulli(logits=p_x.base.logits[0]).log_prob(x.nan_to_num())
        log_lik = terms.sum(-1) if mask is None else (terms * mask).sum(-1)
        total += (model.prior(context).log_prob(z) + log_lik).exp()
    return total.log()


@pytest.mark.parametrize("holes", [False, True])
def test_few_states_are_summed_exactly_unless_draws_are_asked_for(holes, exactly):
    model, data = bits_of_bits(latents=3), rows(holes=holes).to(dtype=torch.float64)
    found = evaluate(model, data)
    assert (found.kind, found.method, found.samples) == ("exact", "exact", 0)
    assert found.mc_stderr == 0
    assert found.ess is found.k_hat is None
    assert str(found).startswith("log p(x) = ")
    exactly(found.values, log_sum(model, data.x, data.mask), 1e-12)
    drawn = evaluate(model, data, ImportanceSampling(2000))
    assert (drawn.kind, drawn.samples) == ("lower_bound", 2000)
    error = drawn.mc_variance.sqrt()
    assert ((drawn.values - found.values).abs() < 6 * error + 1e-9).all()


def test_exact_probabilities_of_all_rows_sum_to_one():
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).double()
    found = evaluate(bits_of_bits(latents=5), Data.from_array(every, levels=2))
    assert float(found.values.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_few_states_given_a_context(exactly):
    model, x = bits_of_bits(latents=3, contexts=2), rows().x.double()
    c = torch.randn(len(x), 2).double()
    found = evaluate(model, Data(x, "Bernoulli", "given", context=c, levels=2))
    assert found.kind == "exact"
    exactly(found.values, log_sum(model, x, context=c), 1e-12)


@pytest.mark.parametrize(
    ("posterior", "latents", "states"),
    [
        (Bernoulli, 3, 8),
        (Bernoulli, (2, 2), 16),
        (Bernoulli, 12, 4096),
        (Bernoulli, 13, None),
        (Bernoulli, 1000, None),
        (OneHot, 10, 10),
        (OneHot, (3, 4), 64),
        (partial(Binomial, levels=6), 2, 36),
        (partial(Mixture, family=Bernoulli, components=2), 4, 16),
        (Poisson, 1, None),
        (Normal, 1, None),
    ],
)
def test_a_model_counts_the_states_of_its_latents(posterior, latents, states):
    model = bits_model(latents=latents, posterior=posterior, prior=Learned)
    assert model.latent_states() == states


@pytest.mark.parametrize(("bits", "method"), [(10, "exact"), (11, "IWAE K=1000")])
def test_the_sum_is_the_default_where_it_costs_no_more_than_the_draws(bits, method):
    found = evaluate(bits_of_bits(latents=bits), rows(2).to(dtype=torch.float64))
    assert found.method == method


def test_wrappers_answer_for_the_states_inside(exactly):
    def inside(family):
        return bits_of_bits(columns=2, latents=3, likelihood=family)

    x = torch.rand(5, 2).double() + 0.5
    found = evaluate(Transformed(model := inside(Normal), Log()), Data.from_array(x))
    assert found.kind == "exact"
    plain = evaluate(model, Data.from_array(x.log())).values
    exactly(found.values, plain - x.log().sum(1), 1e-12)
    noisy = Dequantized(inside(Gamma), levels=2)
    assert noisy.latent_states() is None  # the noise has infinitely many
    counts = Data.from_array(x.round().clamp(max=1), levels=2)
    assert evaluate(noisy, counts).kind == "lower_bound"


def test_enumeration_holds_a_block_of_states_at_once(exactly):
    wide = BLOCK_VALUES // 50
    options = {"latents": 7, "net": partial(MLP, hidden=())}
    model = vae((wide,), posterior=Bernoulli, prior=Learned, **options)
    decoded = []
    model.decoder.net.register_forward_hook(lambda net, inputs, out: decoded.append(len(out)))
    x = torch.ones(1, wide)
    found = evaluate(model, Data.from_array(x, levels=2))
    assert decoded == [50, 50, 28]
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 7)
    log_lik = model.likelihood((z[:, None],)).log_prob(x)[:, 0]
    whole = torch.logsumexp((log_lik + model.prior(None).log_prob(z)).double(), 0)
    torch.testing.assert_close(found.values[0], whole, rtol=1e-6, atol=0)


def test_enumeration_is_of_one_layer(refused):
    class TwoLayers(VAE):
        def infer(self, x, samples=1, mask=None, context=None, *, draw, **how):
            draw(self.encoder(x), samples)
            return super().infer(x, samples, mask, context, draw=draw, **how)

    one = bits_of_bits(latents=3)
    with refused("TwoLayers has several layers", "ImportanceSampling"):
        evaluate(TwoLayers(one.encoder, one.decoder, one.prior), rows(), Enumeration())


def test_statistics_are_those_of_the_rows():
    values = torch.tensor([-1.0, -2.0, -4.5], dtype=torch.float64)
    e = Evidence(values, "lower_bound", "m", "d", torch.tensor([0.01, 0.04, 0.04]).double())
    assert e.nats == pytest.approx(-2.5)
    assert e.nats_stderr == pytest.approx(float(values.std()) / math.sqrt(3))
    assert e.mc_stderr == pytest.approx(0.3 / 3)
    assert len(e) == 3


def test_json_has_the_fixed_fields_and_no_nan():
    for n in (1, 5):
        for samples in (1, 100):
            fields = evaluate(bits_model(), rows(n), ImportanceSampling(samples), seed=4).to_dict()
            assert list(fields) == FIELDS
            assert fields["n"] == n
            assert fields["seed"] == 4
            json.dumps(fields, allow_nan=False)


def test_what_tells_no_error_is_shown_without_one():
    for n in (1, 5):
        for samples in (1, 100):
            told = str(evaluate(bits_model(), rows(n), ImportanceSampling(samples)))
            assert "nan" not in told
            assert ("+- " in told) == (n > 1)
            assert ("MC +-" in told) == (samples > 1)
            assert ("one row" in told) == (n == 1)


def test_paired_difference_is_by_row():
    data = rows(30)
    a, b = (evaluate(bits_model(), data, ImportanceSampling(20)) for _ in range(2))
    mean, error = a.paired(b)
    assert mean == pytest.approx(a.nats - b.nats)
    assert error == pytest.approx(float((a.values - b.values).std()) / math.sqrt(30))
    assert a.paired(a) == (0, 0)


def test_unlike_data_are_not_paired(refused):
    data = rows()
    e = evaluate(bits_model(), data, ImportanceSampling(5))
    other = Data.from_array(data.x, levels=2, protocol="other")
    with refused("cannot pair", "other"):
        e.paired(evaluate(bits_model(), other, ImportanceSampling(5)))
    with refused("5 rows"):
        e.paired(evaluate(bits_model(), data.rows(range(5)), ImportanceSampling(5)))
    density = evaluate(FactorAnalysis((4,), 1), data.to(dtype=torch.float64))
    with refused("densities", "Dequantized"):
        e.paired(density)


def test_heavy_weights_and_impossible_rows_are_named(gaussian_vae):
    case = gaussian_vae(columns=6, latents=5, shift=3.0, widen=-1.5, std=0.1)
    data = Data.from_array(case.x.cpu())
    evidence = evaluate(case.model.cpu(), data, ImportanceSampling(500))
    assert any("heavy importance weights" in w for w in evidence.warnings)
    assert evidence.ess.median() < 50
    values = torch.tensor([0.0, -math.inf]).double()
    broken = Evidence(values, "exact", "exact", "d", torch.zeros(2).double())
    assert any("row 1" in w for w in broken.warnings)
    json.dumps(broken.to_dict(), allow_nan=False)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_in_eval_mode_without_gradients(training):
    model = Spy(vae((4,), net=partial(MLP, dropout=0.5)))
    model.train(training)
    values = evaluate(model, rows(), ImportanceSampling(5)).values
    assert model.modes == {(False, False)}
    assert model.training is model.model.training is training
    assert not values.requires_grad
    assert torch.equal(values, evaluate(model, rows(), ImportanceSampling(5)).values)


def test_mode_is_restored_after_a_failure():
    model = bits_model()
    with pytest.raises(ValueError, match="no exact"):
        evaluate(model, rows(), Exact())
    assert model.training


def test_dynamic_data_are_drawn_once_before_scoring():
    grey = Data(torch.rand(6, 4), "Bernoulli", "grey", levels=2, redraw=Binarise())
    model = bits_model()
    found = evaluate(model, grey, ImportanceSampling(20))
    assert torch.equal(found.values, evaluate(model, grey.once(), ImportanceSampling(20)).values)


def test_rows_that_are_none_of_the_models_are_refused(refused):
    grey = Data(torch.rand(6, 4), "Normal", "grey")
    with refused("grey", "outside 0 and 1", "row 0"):
        evaluate(bits_model(), grey)
    with refused("(3,)", "(4,)"):
        evaluate(bits_model(), rows(columns=3))
    hidden = rows(holes=True)
    hidden.x[~hidden.mask] = 0.5
    evaluate(bits_model(), hidden, ImportanceSampling(2))


def test_dequantised_density_bounds_the_probability_of_its_box():
    model = Dequantized(FactorAnalysis((1,), 1), levels=4)
    with torch.no_grad():
        model.model.loc.fill_(1.7)
        model.model.weight.fill_(0.8)
    data = Data.from_array(torch.arange(4.0).view(-1, 1), levels=4)
    evidence = evaluate(model, data, ImportanceSampling(20_000))
    normal = torch.distributions.Normal(1.7, math.sqrt(1 + 0.8**2))
    x = torch.arange(4.0).double()
    wanted = (normal.cdf(x + 1) - normal.cdf(x)).log()
    assert ((evidence.values - wanted).abs() < 5 * evidence.mc_variance.sqrt()).all()
    assert evidence.kind == "lower_bound"
    assert evidence.bits_per_dim is not None


def test_vae_with_unequal_noise_is_below_the_truth_on_average(gaussian_vae):
    case = gaussian_vae(shift=0.5, widen=0.3)
    data = Data.from_array(case.x.cpu())
    values = [
        evaluate(case.model.cpu(), data, ImportanceSampling(k), seed=1).nats for k in (1, 10, 1000)
    ]
    truth = float(case.log_p.mean())
    assert values[2] == pytest.approx(truth, abs=0.05)
    assert values[0] < truth + 0.05


def test_float32_and_float64_agree_to_a_thousandth(gaussian_vae):
    case = gaussian_vae(shift=0.2)
    data = Data.from_array(case.x.cpu().double())
    same_x = data.to(dtype=torch.float32).to(dtype=torch.float64)
    wide = case.model.cpu().double()
    z = torch.randn(20, 6, 2)
    exact = wide.infer(same_x.x, 20, z=(z.double(),)).log_w
    rough = wide.float().infer(same_x.x.float(), 20, z=(z,)).log_w
    assert (rough.double() - exact).abs().max() < 1e-3
