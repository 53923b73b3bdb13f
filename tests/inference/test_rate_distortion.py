"""The rate-distortion curve: on linear-Gaussian models every point has a closed form."""

import json
import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from latently import AIS, Data, Dequantized, FactorAnalysis, rate_distortion, vae
from latently.nets import MLP
from latently.probability.families import OneHot
from latently.probability.priors import Learned

BETAS = (0.01, 0.1, 0.5, 1.0, 3.0)


def linear(latents=2, columns=4, **options):
    torch.manual_seed(0)
    model = FactorAnalysis((columns,), latents, **options)
    with torch.no_grad():
        model.weight.normal_()
        model.log_variance.normal_().mul_(0.3)
    return model


def closed_form(model, x, beta, mask=None):
    """Mean rate and distortion of `p_b(z|x) ~ p(z) p(x|z)^b`, which is Gaussian."""
    w, loc = model.weight.detach(), model.loc.detach()
    precision = (-model.log_variance.detach()).exp()
    rates, distortions = [], []
    for i, row in enumerate(x):
        seen = torch.ones_like(row) if mask is None else mask[i].double()
        scaled = w * (precision * seen)[:, None]
        inverse = torch.eye(w.shape[1], dtype=torch.float64) + beta * w.T @ scaled
        v = torch.linalg.inv(inverse)
        mean = beta * v @ scaled.T @ (row - loc)
        rates.append(0.5 * (v.trace() + mean @ mean - len(mean) - v.logdet()))
        square = (row - loc - w @ mean) ** 2 + ((w @ v) * w).sum(1)
        terms = square * precision - precision.log() + math.log(2 * math.pi)
        distortions.append(0.5 * (seen * terms).sum())
    return float(torch.stack(rates).mean()), float(torch.stack(distortions).mean())


@pytest.mark.parametrize("holes", [False, True])
def test_every_point_of_a_linear_gaussian_model(holes):
    model = linear()
    x = model.sample(6, seed=1)
    mask = torch.rand(6, 4) < 0.7 if holes else None
    data = Data(x, "Normal", "rows", mask=mask)
    found = rate_distortion(model, data, AIS(steps=150, chains=48), betas=BETAS)
    for k, beta in enumerate(BETAS):
        rate, distortion = closed_form(model, x, beta, mask)
        assert float(found.rate[k]) == pytest.approx(
            rate, abs=4 * float(found.rate_mc_stderr[k]) + 0.06
        )
        assert float(found.distortion[k]) == pytest.approx(
            distortion, abs=4 * float(found.distortion_mc_stderr[k]) + 0.02
        )
    rate, distortion = closed_form(model, x, 1.0, mask)
    assert abs(found.own_rate.value - rate) < 5 * found.own_rate.mc_stderr
    assert abs(found.own_distortion.value - distortion) < 5 * found.own_distortion.mc_stderr


def test_few_steps_give_points_above_the_curve():
    """At its own distortion, no encoder has a lower rate than the curve."""
    model = linear(4, 8)
    x = model.sample(6, seed=1)
    found = rate_distortion(model, Data(x, "Normal", "rows"), AIS(steps=10), betas=[0.3, 1.0])
    for k in range(2):
        low, high = 1e-4, 1e4
        for _ in range(60):  # the b whose optimum has this distortion
            middle = math.sqrt(low * high)
            above = closed_form(model, x, middle)[1] > float(found.distortion[k])
            low, high = (middle, high) if above else (low, middle)
        assert float(found.rate[k]) > closed_form(model, x, low)[0] + 0.1


def test_what_it_says():
    model = vae((4,), latents=2, net=partial(MLP, hidden=(5,)))
    data = Data.from_array((torch.rand(5, 4) < 0.5).float(), levels=2)
    ticks = []
    found = rate_distortion(
        model, data, AIS(steps=40), seed=3, progress=lambda *t: ticks.append(t)
    )
    assert (found.rate_kind, found.distortion_kind, found.n) == ("upper_bound", "estimate", 5)
    assert found.own_rate.kind == "exact"
    assert found.own_rate.mc_stderr == 0
    assert found.own_distortion.kind == "estimate"
    assert found.own_distortion.mc_stderr > 0
    assert found.betas[-1] == 1
    fields = found.to_dict()
    assert len(fields["rate"]) == len(fields["betas"]) == 13
    assert fields["rate_kind"] == "upper_bound"
    assert fields["own_rate"]["unit"] == fields["unit"] == "nats"
    json.dumps(fields, allow_nan=False)
    assert len(str(found).splitlines()) == 16
    assert "rate <=" in str(found)
    assert ticks[-1] == (5, 5)
    again = rate_distortion(model, data, AIS(steps=40), seed=3)
    assert torch.equal(again.rate, found.rate)
    assert again.own_distortion == found.own_distortion


def test_more_steps_than_stops_are_not_needed():
    model = linear()
    data = Data(model.sample(2, seed=1), "Normal", "rows")
    found = rate_distortion(model, data, AIS(steps=1), betas=BETAS)
    assert found.rate.isfinite().all()


@pytest.mark.parametrize(("n", "chains"), [(1, 3), (3, 1)])
def test_errors_of_one_row_and_of_one_chain_are_not_known(n, chains):
    """They were asked of torch, which warned of degrees of freedom."""
    model = linear()
    data = Data(model.sample(n, seed=1), "Normal", "rows")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rate_distortion(model, data, AIS(steps=2, chains=chains), betas=BETAS)
    assert bool(found.rate_stderr.isnan().all()) == (n == 1)
    assert bool(found.rate_mc_stderr.isnan().all()) == (chains == 1)
    assert math.isnan(found.own_distortion.mc_stderr) == (chains == 1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_finding_claims_no_more_than_the_bound_shows():
    """A rate below the chains' bound was set beside it as if a best code needed more."""
    model = linear()
    data = Data(model.sample(4, seed=1), "Normal", "rows")
    found = rate_distortion(model, data, AIS(steps=20, chains=4), betas=(0.5, 1.0))
    middle = float(found.distortion.mean())

    def said(rate, distortion=middle):
        own = replace(found.own_rate, value=rate)
        there = replace(found.own_distortion, value=distortion)
        told = replace(found, own_rate=own, own_distortion=there).findings
        return " ".join(one.text for one in told)

    assert "nothing to gain" in said(float(found.rate.min()) - 1)
    assert "a best code" in said(float(found.rate.max()) + 1)
    assert said(math.inf) == ""


def test_what_has_no_curve_is_refused(refused):
    model = linear()
    data = Data(model.sample(2, seed=1), "Normal", "rows")
    with refused("start='posterior'", "AIS(start='prior')"):
        rate_distortion(model, data, AIS(start="posterior"))
    for betas in ((), (0.0, 1.0), (1.0, 0.5), (1.0, math.inf), (math.nan,)):
        with refused("betas=", "ascend"):
            rate_distortion(model, data, betas=betas)
    counted = vae((4,), latents=2, posterior=OneHot, prior=Learned)
    with refused("counted"):
        rate_distortion(counted, data)
    noisy = Dequantized(linear(), levels=2)
    with refused("Dequantized", "noise"):
        rate_distortion(noisy, Data.from_array(torch.ones(2, 4), levels=2), AIS(steps=2))
    with refused("(3,)", "(4,)"):
        rate_distortion(model, Data(torch.zeros(2, 3), "Normal", "rows"))
    with refused("no rows"):
        rate_distortion(model, data.rows(slice(0, 0)))
