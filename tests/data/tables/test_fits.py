import numpy as np
import pytest
from scipy import stats

from latently.data.tables import fits

RNG = np.random.default_rng(0)


def penalty(free, n):
    return free / 2 * np.log(n)


def test_normal_and_log_normal_are_the_maximum_of_the_likelihood():
    values = RNG.normal(3, 2, 200)
    exact = stats.norm(*stats.norm.fit(values)).logpdf(values).sum()
    assert fits.normal(values) == pytest.approx(exact - penalty(2, 200))
    logs = np.log(np.exp(values))
    exact = stats.lognorm(s=logs.std(), scale=np.exp(logs.mean())).logpdf(np.exp(values)).sum()
    assert fits.log_normal(np.exp(values)) == pytest.approx(exact - penalty(2, 200))


@pytest.mark.parametrize("shape", [0.3, 1.0, 20.0])
def test_gamma_is_within_a_thousandth_of_the_maximum(shape):
    values = RNG.gamma(shape, 3.0, 500)
    a, _, scale = stats.gamma.fit(values, floc=0)
    exact = stats.gamma(a, scale=scale).logpdf(values).sum() - penalty(2, 500)
    assert exact - 0.5 <= fits.gamma(values) <= exact + 1e-6


@pytest.mark.parametrize("degrees", [2.0, 5.0])
def test_student_t_is_near_the_maximum_at_its_degrees(degrees):
    values = 10 + 0.1 * RNG.standard_t(degrees, 1000)
    fit = stats.t.fit(values, f0=degrees, loc=10, scale=0.1)
    exact = stats.t(*fit).logpdf(values).sum() - penalty(3, 1000)
    assert (
        exact - 0.01 < fits.student_t(values) < exact + 0.5
    )  # a neighbour in the grid may be better


def test_negative_binomial_is_the_one_of_its_moments():
    values = RNG.negative_binomial(2.5, 0.2, 300)
    mean, variance = values.mean(), values.var()
    size = mean**2 / (variance - mean)
    exact = stats.nbinom(size, size / (size + mean)).logpmf(values).sum()
    found = fits.negative_binomial(*np.unique(values, return_counts=True))
    assert found == pytest.approx(exact - penalty(2, 300))
    share = fits.zeros_explained(*np.unique(values, return_counts=True))
    assert share == pytest.approx(stats.nbinom(size, size / (size + mean)).pmf(0))


def test_even_counts_are_poisson():
    values = np.array([3, 4, 5, 4, 4, 3, 5])
    exact = stats.poisson(values.mean()).logpmf(values).sum()
    found = fits.negative_binomial(*np.unique(values, return_counts=True))
    assert found == pytest.approx(exact - penalty(2, 7))


def test_histogram_is_the_entropy_of_the_shares():
    counts = np.array([10, 30, 60])
    exact = -100 * stats.entropy(counts / 100)
    assert fits.histogram(counts) == pytest.approx(exact - penalty(2, 100))
