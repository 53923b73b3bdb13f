"""Distributions carried through a transform, against closed forms; the rest is in conformance."""

import math

import pytest
import torch
from scipy import integrate, stats

from latently.probability.distributions import Normal
from latently.probability.transforms import Asinh, Log, Logit, Transported

TRANSFORMS = [Log(), Log(shift=2.5), Logit(), Logit(low=-3.0, high=7.0), Asinh(), Asinh(scale=0.2)]


def normal(mu, sigma):
    mu, sigma = (torch.as_tensor(v, dtype=torch.float64) for v in (mu, sigma))
    return Normal(mu, sigma.log())


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (-2.0, 0.3), (1.0, 3.0), (0.5, 1e-3)])
def test_density_integrates_to_the_cdf(transform, mu, sigma):
    d = Transported(normal(mu, sigma), transform)
    ends = d.icdf(torch.tensor([1e-9, 0.2, 0.5, 0.8, 1 - 1e-9]).double())
    torch.testing.assert_close(d.cdf(ends[1:4]), torch.tensor([0.2, 0.5, 0.8]).double())
    x = d.icdf(stats_grid(sigma))
    total = torch.trapezoid(d.log_prob(x).exp(), x)
    assert total.item() == pytest.approx(1, abs=1e-5)
    assert d.cdf(ends[:1]).item() == pytest.approx(1e-9, rel=1e-4)


def stats_grid(sigma, nodes=200_001):
    """Probabilities at equally spaced values of the normal, 6 deviations to each side."""
    return torch.special.ndtr(torch.linspace(-6, 6, nodes).double())


def test_cdf_is_zero_below_and_one_above_the_support():
    d = Transported(normal(-30.0, 1.0), Logit(low=2.0, high=3.0))
    x = torch.tensor([-math.inf, 0, 2, 2.5, 3, 4, math.inf]).double()
    assert d.cdf(x).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert Transported(normal(0.0, 1.0), Log()).cdf(torch.tensor(-1.0).double()) == 0


def test_lognormal_moments_are_its_closed_form():
    mu, sigma = torch.meshgrid(
        torch.tensor([-5.0, 0, 3]).double(),
        torch.tensor([1e-3, 0.1, 0.5, 1, 1.5, 2.5]).double(),
        indexing="ij",
    )
    d = Transported(normal(mu, sigma), Log(shift=2.0))
    mean = (mu + sigma**2 / 2).exp()
    torch.testing.assert_close(d.mean + 2, mean, rtol=1e-9, atol=0)
    variance = mean.square() * torch.expm1(sigma**2)
    torch.testing.assert_close(d.variance, variance, rtol=1e-7, atol=0)
    single = Transported(Normal(mu.float(), sigma.log().float()), Log())
    torch.testing.assert_close(single.mean, mean.float(), rtol=1e-4, atol=0)


def test_moments_of_the_inverse_hyperbolic_sine_are_its_closed_form():
    mu, sigma = torch.tensor([-3.0, 0, 0.4]).double(), torch.tensor([1.2, 0.7, 0.1]).double()
    d = Transported(normal(mu, sigma), Asinh(scale=0.3))
    growth = (sigma**2).exp()
    mean = 0.3 * growth.sqrt() * mu.sinh()
    second = 0.3**2 / 2 * (growth**2 * (2 * mu).cosh() - 1)
    torch.testing.assert_close(d.mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(d.variance, second - mean**2, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("sigma", "error"), [(0.1, 1e-9), (1.5, 1e-9), (3.0, 1e-7), (5.0, 2e-5)])
def test_logit_normal_moments_are_those_of_quadrature(sigma, error):
    for mu in (-4.0, 0.3, 6.0):
        d = Transported(normal(mu, sigma), Logit())

        def moment(power, mu=mu):
            def term(t):
                x = 1 / (1 + math.exp(-mu - sigma * t))
                return x**power * stats.norm.pdf(t)

            return integrate.quad(term, -12, 12, epsabs=1e-13, epsrel=1e-11, limit=500)[0]

        assert d.mean.item() == pytest.approx(moment(1), abs=error)
        assert d.variance.item() == pytest.approx(moment(2) - moment(1) ** 2, abs=error)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_draws_follow_the_distribution(transform):
    d = Transported(normal([0.0, -1.0], [1.0, 0.5]), transform)
    x = d.sample((4000,))
    assert x.shape == (4000, 2)
    for j in range(2):
        shares = d.cdf(x)[:, j].numpy()
        assert stats.kstest(shares, "uniform").pvalue > 1e-4
    assert d.mean is d.mean  # found once


def test_options_are_checked(refused):
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with refused(f"low={low}", f"high={high}"):
            Logit(low=low, high=high)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with refused(f"scale={scale}", "positive"):
            Asinh(scale=scale)
    with refused("shift=nan"):
        Log(shift=math.nan)


def test_supports_are_said_in_words():
    assert Log().support == "numbers above 0"
    assert Log(shift=-2).support == "numbers above 2"
    assert Logit(high=4).support == "numbers between 0 and 4, both excluded"
    assert Asinh().support == "finite numbers"
