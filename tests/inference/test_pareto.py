import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

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


def test_constant_weights_have_no_tail():
    assert pareto_k(tops(np.full((2, 500), -3.0))).tolist() == [-math.inf] * 2


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
