import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from latently import Data, ImportanceSampling, evaluate, impute, vae
from latently.inference.pareto import pareto_k, tail_length


def tops(log_w):
    """What importance sampling keeps: the M + 1 largest log-weights of each row."""
    return torch.from_numpy(log_w).topk(tail_length(log_w.shape[1]) + 1).values


@pytest.mark.parametrize("k", [0.0, 0.3, 0.7, 1.0])
def test_k_hat_finds_the_shape_of_generalised_pareto_weights(k):
    size, rows = 20_000, 40
    w = genpareto(k).rvs((rows, size), random_state=np.random.default_rng(1))
    found = pareto_k(tops(np.log(w)))
    m = tail_length(size)
    spread = (1 + k) / math.sqrt(m)  # the asymptotic deviation of the maximum likelihood
    wanted = (m * k + 5) / (m + 10)  # drawn weakly towards 1/2
    assert abs(found.mean() - wanted) < 5 * spread / math.sqrt(rows) + 0.02
    assert found.std() < 2 * spread


def test_k_hat_knows_no_scale():
    log_w = np.random.default_rng(0).normal(size=(3, 1000)) * 2
    near, far = pareto_k(tops(log_w)), pareto_k(tops(log_w - 5000))
    torch.testing.assert_close(near, far, rtol=1e-6, atol=1e-6)


def test_light_tails_are_below_and_heavy_tails_above_the_limit():
    rng = np.random.default_rng(0)
    assert pareto_k(tops(0.1 * rng.normal(size=(20, 5000)))).max() < 0.5
    assert pareto_k(tops(6 * rng.normal(size=(20, 5000)))).min() > 0.7


def test_equal_weights_have_no_tail():
    assert pareto_k(tops(np.full((2, 500), -3.0))).tolist() == [0, 0]


@pytest.mark.parametrize("size", [50, 1000, 5000])
@pytest.mark.parametrize("log_w", [-0.1, -100.0, -1e4])
@pytest.mark.parametrize("share", [1e-3, 0.01, 0.5])
def test_the_rounding_of_equal_weights_is_no_tail(size, log_w, share):
    rng, rows = np.random.default_rng(0), np.full((50, size), log_w, np.float32)
    steps = rng.integers(1, 3, rows.shape) * (rng.random(rows.shape) < share)
    rounded = rows + np.spacing(rows) * steps.astype(np.float32)
    assert (rounded != rows).any()
    assert (pareto_k(tops(rounded.astype(np.float64))) == 0).all()


def test_bounded_weights_are_as_good_as_equal_ones():
    w = genpareto(-0.5).rvs((20, 5000), random_state=np.random.default_rng(1))
    assert (pareto_k(tops(np.log(w))) == 0).all()


def test_one_weight_that_stands_out_is_a_tail_however_equal_the_others():
    log_w = np.zeros((1, 5000))
    log_w[0, :50] = np.linspace(0.1, 5, 50)
    assert float(pareto_k(tops(log_w))) > 0.7


def test_a_row_without_weights_has_no_number():
    assert pareto_k(tops(np.full((1, 500), -np.inf))).isnan().all()


def test_ties_and_a_single_large_weight_stay_numbers():
    log_w = np.zeros((1, 500))
    log_w[0, 0] = 10.0
    assert not pareto_k(tops(log_w)).isnan().any()
    assert pareto_k(torch.empty(0, 11)).shape == (0,)


def test_tail_length_is_min_of_a_fifth_and_three_roots():
    assert tail_length(5000) == math.ceil(3 * math.sqrt(5000))
    assert tail_length(100) == 20
    assert tail_length(1) == tail_length(20) == 0
    assert tail_length(25) == 5


@pytest.fixture
def collapsed():
    """A VAE in float32 whose latents say nothing, so that weights are equal but for rounding."""
    model = vae((784,), latents=20)
    with torch.no_grad():
        for part in (model.encoder.net, model.decoder.net):
            part.layers[-1].weight.zero_()
            part.layers[-1].bias.zero_()
        model.encoder.net.layers[-1].bias[:20] = 1e-7  # not the prior to the last bit
    x = (torch.rand(4, 784) < 0.5).float()
    x[1:, :10] = math.nan
    return model, Data.from_array(x)


def test_evidence_by_equal_weights_says_0_and_warns_of_nothing(collapsed):
    model, data = collapsed
    found = evaluate(model, data.rows([0]), ImportanceSampling(1000))
    assert found.to_dict()["k_hat"] == 0
    assert found.warnings == ()


def test_imputations_by_few_particles_do_not_know_k_hat(collapsed):
    model, data = collapsed
    assert impute(model, data, draws=2, samples=200).k_hat.tolist() == [0, 0, 0, 0]
    few = impute(model, data, draws=2, samples=10, sweeps=0).k_hat
    assert few[0] == 0  # nothing is missing
    assert few[1:].isnan().all()
