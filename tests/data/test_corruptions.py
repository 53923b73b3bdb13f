"""Corruptions do what they say, to the share of cells and the size that they say."""

import math

import pytest
import torch

from latently.data.corruptions import Adversarial, Gaussian, Masking, SaltAndPepper
from latently.probability.span import Span, variance_of

PIXELS = Span(torch.tensor(0.0), torch.tensor(255.0))
ALL = [Gaussian(0.3), Masking(0.3), SaltAndPepper(0.3), Adversarial(0.3)]


def loss(x):
    return -(x - 400).square().flatten(1).sum(1)


@pytest.mark.parametrize("corruption", ALL, ids=str)
def test_level_zero_leaves_rows_as_they_are(corruption):
    x = torch.rand(5, 1, 3, 3) * 255
    assert torch.equal(corruption.at(0.0)(x, PIXELS, loss), x)
    assert corruption.at(0.2).level == 0.2
    assert type(corruption.at(0.2)) is type(corruption)


@pytest.mark.parametrize("corruption", ALL, ids=str)
def test_no_rows_stay_none(corruption):
    span = Span(torch.tensor(0.0), torch.tensor(1.0))
    spoilt = corruption(torch.zeros(0, 3), span, lambda x: x.square().sum(1))
    assert spoilt.shape == (0, 3)


@pytest.mark.parametrize("corruption", ALL, ids=str)
def test_draws_come_from_the_global_generator_and_leave_the_rows_alone(corruption):
    x = torch.rand(50, 4) * 255
    kept = x.clone()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(corruption(x, PIXELS, loss))
    assert torch.equal(*found)
    assert torch.equal(x, kept)
    assert not found[0].requires_grad


def test_noise_has_its_share_of_the_span():
    x = torch.full((20_000, 2), 100.0)
    span = Span(torch.tensor([0.0, -1.0]), torch.tensor([10.0, 1.0]))
    apart = Gaussian(0.2)(x, span) - x
    torch.testing.assert_close(apart.std(0), torch.tensor([2.0, 0.4]), rtol=0.03, atol=0)
    assert (apart.mean(0) / apart.std(0)).abs().max() < 4 / math.sqrt(len(x))


@pytest.mark.parametrize("shape", [(4,), (3, 4, 4)])
def test_masking_hides_its_share_of_cells(shape):
    x = torch.rand(4000, *shape) + 1
    gone = Masking(0.3, value=-7.0)(x, PIXELS) == -7
    assert gone.float().mean() == pytest.approx(0.3, abs=0.02)
    kept = Masking(0.3)(x, PIXELS)
    assert ((kept == x) | (kept == 0)).all()
    if len(shape) == 3:
        assert (gone == gone[:, :1]).all(), "a pixel goes with all its channels"


def test_salt_and_pepper_are_of_equal_number():
    x = torch.full((50_000, 1), 100.0)
    found = SaltAndPepper(0.4)(x, PIXELS)
    shares = [(found == value).float().mean() for value in (0.0, 255.0, 100.0)]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.01)


def test_an_adversary_finds_the_corner_of_a_linear_loss():
    x = torch.full((3, 4), 100.0, dtype=torch.double)
    slope = torch.tensor([1.0, -2.0, 0.5, -0.1], dtype=torch.double)
    found = Adversarial(0.1)(x, PIXELS, lambda y: y @ slope)
    torch.testing.assert_close(found, x + 25.5 * slope.sign())
    ball = Adversarial(0.1, norm="2", steps=20)(x, PIXELS, lambda y: y @ slope)
    best = 25.5 * 2 * slope.norm()  # root mean square of 4 cells
    gain = (ball - x) @ slope / best
    assert ((gain > 0.95) & (gain < 1 + 1e-9)).all()


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_an_adversary_keeps_to_its_ball_and_to_the_span(norm):
    x = torch.rand(200, 1, 3, 3) * 255
    for steps in (1, 7):
        found = Adversarial(0.2, norm=norm, steps=steps)(x, PIXELS, loss)
        apart = ((found - x) / 255).flatten(1)
        size = apart.abs().amax(1) if norm == "inf" else apart.square().mean(1).sqrt()
        assert size.max() <= 0.2 * (1 + 1e-5)
        assert found.min() >= -1e-3
        assert found.max() <= 255 + 1e-3
        assert (loss(found) >= loss(x)).all() or steps == 1
        assert loss(found).mean() > loss(x).mean()


def test_an_adversary_does_more_than_noise_of_its_size():
    weight = torch.randn(4, 16)
    x = torch.rand(300, 16)
    span = Span(torch.tensor(0.0), torch.tensor(1.0))

    def wavy(y):
        return torch.tanh((y @ weight.T).sin()).sum(1)

    worst = wavy(Adversarial(0.1, steps=20)(x, span, wavy)) - wavy(x)
    noise = wavy(span.clamp(x + 0.1 * torch.randn_like(x).sign())) - wavy(x)
    assert worst.mean() > 2 * noise.mean().clamp(min=0.05)


def test_columns_without_a_span_stay():
    span = Span(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 5.0]))
    x = torch.tensor([[0.5, 5.0]] * 10)
    for corruption in (Gaussian(1.0), Adversarial(1.0), Adversarial(1.0, norm="2")):
        assert (corruption(x, span, lambda y: y.sum(1))[:, 1] == 5).all()


def test_spans_are_of_columns_or_of_pictures_and_of_what_is_seen():
    x = torch.tensor([[1.0, 50.0], [3.0, 10.0], [2.0, 99.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    assert [end.tolist() for end in Span.of(x, mask)] == [[1, 10], [3, 50]]
    assert [end.tolist() for end in Span.of(x.view(3, 2, 1), mask.view(3, 2, 1))] == [1, 50]
    none = torch.zeros(3, 2, dtype=torch.bool)
    assert [end.tolist() for end in Span.of(x, none)] == [[0, 0], [0, 0]]
    wanted = [x[:, 0].var(correction=0), x[:2, 1].var(correction=0)]
    torch.testing.assert_close(variance_of(x, mask), torch.stack(wanted).double())


@pytest.mark.parametrize("kind", [Gaussian, Masking, SaltAndPepper, Adversarial])
@pytest.mark.parametrize("level", [-0.1, 1.1, math.nan, "0.5", True, None])
def test_levels_outside_zero_to_one_are_refused(kind, level, refused):
    with refused(kind.__name__, f"level={level!r}", "between 0"):
        kind(level)


def test_other_bad_options_are_refused(refused):
    with refused("Adversarial", "norm='1'"):
        Adversarial(norm="1")
    with refused("Adversarial", "steps=0"):
        Adversarial(steps=0)
    with refused("Masking", "value=nan"):
        Masking(0.5, value=math.nan)
    with refused("Adversarial", "no"):
        Adversarial()(torch.zeros(1, 2), PIXELS)
