"""Mixtures of discretized logistics against sums over every value of a pixel."""

import math

import pytest
import torch

from latently.probability.distributions import DiscretizedLogistic as Logistic
from latently.probability.families import DiscretizedLogistic, DiscretizedLogisticMixture

from .oracles import all_rows

LEVELS = 5


def family_of(shape=(3, 2), levels=LEVELS, components=4):
    return DiscretizedLogisticMixture(shape, levels=levels, components=components).double()


def case(shape=(3, 2), spread=1.5, lead=(), **options):
    family = family_of(shape, **options)
    h = spread * torch.randn(*lead, *family.param_shape).double()
    return family(h.requires_grad_(True)), h


def every_pixel(channels, levels=LEVELS):
    """Every value of a pixel, (levels^C, C)."""
    return all_rows(range(levels), channels)


def brute(h, x, components, levels):
    """log P of one pixel, by its definition: loops and a difference of sigmoids."""
    channels, half = len(x), (levels - 1) / 2
    k = components
    logits, m, t, r = h.split([k, k * channels, k * channels, k * channels * (channels - 1) // 2])
    total = 0.0
    for i in range(k):
        p, pair = logits.softmax(0)[i], 0
        for c in range(channels):
            mu = (1 + m[i * channels + c]) * half
            for before in range(c):
                factor = r[i * (channels * (channels - 1) // 2) + pair].tanh()
                mu = mu + factor * (x[before] / half - 1) * half
                pair += 1
            s = t[i * channels + c].exp() * half
            upper = 1.0 if x[c] == levels - 1 else torch.sigmoid((x[c] + 0.5 - mu) / s)
            lower = 0.0 if x[c] == 0 else torch.sigmoid((x[c] - 0.5 - mu) / s)
            p = p * (upper - lower)
        total = total + p
    return total.log()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_it_is_its_definition(channels):
    d, h = case((channels,), components=3, spread=0.7)
    x = every_pixel(channels)
    x = x[torch.randperm(len(x))[:20]]
    wanted = torch.stack([brute(h, row, 3, LEVELS) for row in x])
    torch.testing.assert_close(d.log_prob(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [0.3, 2.0, 30.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pixel_sums_to_one_at_any_parameters(spread, dtype):
    family = family_of((3, 1)).to(dtype)
    h = spread * torch.randn(20, *family.param_shape, dtype=dtype)
    x = every_pixel(3).to(dtype)[:, None, :, None]
    total = family(h).log_prob(x).logsumexp(0).exp()
    torch.testing.assert_close(
        total, torch.ones_like(total), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12
    )


def test_one_component_is_the_discretized_logistic():
    single, plain = family_of((1, 3), 256, 1), DiscretizedLogistic((1, 3)).double()
    h = 3 * torch.randn(50, 2, 3).double()
    h = h.requires_grad_(True)
    x = torch.randint(0, 256, (50, 1, 3)).double()
    x[:4], x[4:8] = 0, 255
    padded = torch.cat([torch.zeros_like(h[:, :1]), h], 1)
    found, wanted = single(padded), plain(h)
    torch.testing.assert_close(found.log_prob(x), wanted.log_prob(x), rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(d.log_prob(x).sum(), h)[0] for d in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)
    for what in ("mean", "variance", "mode"):
        torch.testing.assert_close(getattr(found, what), getattr(wanted, what))
    q = torch.rand(50, 1, 3).double()
    torch.testing.assert_close(found.cdf(x), wanted.cdf(x))
    torch.testing.assert_close(found.icdf(q), wanted.icdf(q))


@pytest.mark.parametrize("mask", every_pixel(3, 2).bool().tolist())
def test_holes_are_summed_out(mask):
    """Every pattern of one pixel beside a whole one, with its gradient."""
    d, h = case((3, 2))
    x, mask = d.sample(), torch.tensor(mask)
    both = torch.stack([mask, torch.ones(3, dtype=torch.bool)], -1)
    rows = every_pixel(3)
    rows = rows[(rows[:, mask] == x[mask, 0]).all(-1)]
    filled = torch.stack([rows, x[:, 1].expand_as(rows)], -1)
    wanted = d.log_prob(filled).logsumexp(0)
    found = d.log_prob(torch.where(both, x, math.nan), both)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    slopes = [torch.autograd.grad(v, h, retain_graph=True)[0] for v in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mask", every_pixel(3, 2).bool().tolist())
def test_what_is_missing_given_the_rest(mask):
    d, _ = case((3,), lead=(2,))
    mask = torch.tensor(mask)
    x = d.sample((1,))[0]
    conditional = d.given(torch.where(mask, x, math.nan), mask.expand(2, 3))
    assert conditional.batch_shape == (2,)
    rows = every_pixel(3)[:, None].expand(-1, 2, 3)
    fits = (rows == x)[..., mask].all(-1)
    log_p = torch.where(fits, d.log_prob(rows), -math.inf).log_softmax(0).detach()
    filled = torch.where(mask, x, rows)
    found = conditional.log_prob(filled, (~mask).expand(filled.shape)).detach()
    torch.testing.assert_close(found[fits], log_p[fits], rtol=1e-9, atol=1e-9)
    mean = (log_p.exp().unsqueeze(-1) * rows).sum(0)
    variance = (log_p.exp().unsqueeze(-1) * rows.square()).sum(0) - mean.square()
    std = variance.sqrt()[:, ~mask]
    draws = conditional.sample((20_000,))
    assert draws.shape == (20_000, 2, 3)
    error = (draws.mean(0) - mean)[:, ~mask].abs()
    assert (error < 5 * std / math.sqrt(20_000) + 1e-9).all()
    assert ((conditional.mean - mean)[:, ~mask].abs() <= 0.05 * std + 1e-6).all()
    assert ((conditional.variance.sqrt())[:, ~mask] - std).abs().le(0.1 * std + 1e-3).all()
    again = conditional.given(x, torch.tensor([True, True, False]).expand(2, 3))
    direct = d.given(x, (mask | torch.tensor([True, True, False])).expand(2, 3))
    torch.testing.assert_close(again.log_prob(x), direct.log_prob(x))


def test_draws_have_the_shares_of_their_probabilities():
    d, _ = case((2,), levels=3, components=2)
    rows, n = every_pixel(2, 3), 60_000
    x = d.sample((n,))
    share = (x[:, None] == rows).all(-1).double().mean(0)
    p = d.log_prob(rows).exp().detach()
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_moments_mode_and_quantiles_of_one_channel_are_exact():
    d, _ = case((1, 4), levels=40, lead=(6,))
    k = torch.arange(40.0).double()
    alone = torch.stack(
        [
            (
                d.pixels.log_weights
                + Logistic(d.pixels.loc[..., 0, :], d.pixels.log_scale[..., 0, :], 40).log_prob(v)
            ).logsumexp(-2)
            for v in k
        ],
        -1,
    ).detach()
    p = alone.exp()
    torch.testing.assert_close(d.mean[:, 0].detach(), p @ k)
    torch.testing.assert_close(d.variance[:, 0].detach(), p @ k.square() - (p @ k).square())
    assert torch.equal(d.mode[:, 0], alone.argmax(-1).double())
    q = torch.rand(6, 1, 4).double()
    cdf = p.cumsum(-1)
    assert torch.equal(d.icdf(q)[:, 0], (cdf < q[:, 0, :, None]).sum(-1).double())
    x = d.sample()
    torch.testing.assert_close(
        d.cdf(x)[:, 0].detach(), cdf.gather(-1, x[:, 0, :, None].long())[..., 0]
    )


def errors(channels, levels, components, spread, n):
    """Of the later channels: errors of mean and deviation, and the deviation, (3, cells)."""
    d, _ = case((channels, 1), spread, (n,), levels=levels, components=components)
    rows = every_pixel(channels, levels)
    with torch.no_grad():
        p = torch.cat([d.log_prob(r[:, None, :, None]) for r in rows.split(2000)]).exp().T
        mean = p @ rows
        std = (p @ rows.square() - mean.square()).clamp(min=0).sqrt()
        found = d.mean[..., 0], d.variance[..., 0].sqrt()
    torch.testing.assert_close(found[0][:, 0], mean[:, 0])
    torch.testing.assert_close(found[1][:, 0], std[:, 0], rtol=1e-4, atol=1e-4)
    off = (found[0] - mean).abs(), (found[1] - std).abs()
    return torch.stack([*off, std])[..., 1:].flatten(1)


SIZES = [(2, 2, 30), (2, 16, 30), (2, 64, 10), (3, 2, 30), (3, 6, 30), (3, 16, 10), (4, 5, 15)]
SPREADS = [0.3, 1.0, 2.0, 3.0]


def test_moments_of_coupled_channels_are_as_near_as_documented():
    each = [errors(c, v, k, s, n) for c, v, n in SIZES for k in (5, 10) for s in SPREADS]
    mean, deviation, std = torch.cat(each, 1)
    for off in (mean / std, deviation / std):
        assert off.quantile(0.5) < 0.006
        assert off.quantile(0.95) < 0.03


@pytest.mark.parametrize("components", [1, 2, 10])
def test_moments_of_coupled_channels_are_within_a_fifth_of_the_range(components):
    for channels, levels, n in SIZES:
        for spread in SPREADS:
            off = errors(channels, levels, components, spread, n)[:2]
            assert off.max() < 0.2 * (levels - 1)


def test_the_mode_goes_channel_by_channel():
    d, _ = case((2,), levels=6)
    p = d.log_prob(every_pixel(2, 6)).exp().view(6, 6)
    first = int(p.sum(1).argmax())
    assert d.mode.tolist() == [first, int(p[first].argmax())]


def test_holes_with_too_many_values_are_refused(refused):
    d, _ = case((4,), levels=256, components=2)
    x = torch.zeros(4).double()
    with refused("256^3", "65536", "whole pixels"):
        d.log_prob(x, torch.tensor([False, False, False, True]))
    assert d.log_prob(x, torch.tensor([True, False, False, False])).isfinite()


def test_quantiles_of_coupled_channels_are_refused(refused):
    d, _ = case((2,))
    with refused("coupled", "draw samples"):
        d.icdf(torch.tensor([0.5, 0.5]).double())


def test_bad_options_are_refused(refused):
    with refused("components=0"):
        DiscretizedLogisticMixture((1,), components=0)
    with refused("(784,)", "784 channels", "(1, 28, 28)"):
        DiscretizedLogisticMixture((784,))


def test_components_start_apart_and_better_than_one_logistic():
    dark = torch.rand(400, 1, 5) < 0.7
    x = torch.where(dark, torch.randint(0, 20, (400, 1, 5)), torch.randint(200, 256, (400, 1, 5)))
    x = x.double()
    x[:, :, 0] = 0  # a pixel that never changes
    family, plain = family_of((1, 5), 256), DiscretizedLogistic((1, 5)).double()
    h = family.marginal(x)
    assert family(h).log_prob(x).mean() > plain(plain.marginal(x)).log_prob(x).mean() + 1
    locations = family(h).pixels.loc[:, 0]
    assert (locations.diff(dim=0).abs() > 1e-3).all()
    assert (family.marginal(x[:3]).isfinite()).all()


def test_coupling_follows_the_channels_before():
    """Two channels that are equal are likelier once the second reads the first."""
    family = family_of((2, 1), 256, 1)
    x = torch.randint(0, 256, (300, 1, 1)).double().expand(300, 2, 1)
    h = torch.tensor([0.0, 0.0, 0.0, -0.5, -4.0, 0.0]).double().view(6, 1)
    alone = family(h).log_prob(x).mean()
    h[5] = 5.0
    assert family(h).log_prob(x).mean() > alone + 1
