"""Flows as models of rows: the density against autograd and quadrature, encode against decode."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal as TorchNormal

import latently as lt
from latently import Data, UserError, evaluate, fit, flow, load, save
from latently.inference.methods import ImportanceSampling
from latently.inference.noise import seeded
from latently.models import NormalizingFlow
from latently.probability.dequantise import VariationalNoise
from latently.probability.flows import MAF, NSF, Glow, RealNVP, Zuko
from latently.probability.transforms import Log, Logit

FLOWS = {
    "MAF": ((3,), MAF(transforms=2, hidden=(8,))),
    "NSF": ((3,), NSF(transforms=2, hidden=(8,))),
    "RealNVP": ((3,), RealNVP(transforms=2, hidden=(8,))),
    "Glow": ((1, 4, 4), Glow(scales=2, steps=1, hidden=4)),
}


def shaken(model, by=0.3):
    with seeded(3), torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model.double().eval()


def model_of(name, contexts=0):
    shape, flow = FLOWS[name]
    model = NormalizingFlow(shape, flow, contexts=contexts)
    context = torch.randn(200, contexts) if contexts else None
    model.initialise(5 + 3 * torch.randn(200, *shape), None, context)
    return shaken(model)


@pytest.fixture(params=FLOWS)
def model(request):
    return model_of(request.param)


def test_density_is_that_of_the_noise_times_the_jacobian(model, exactly):
    x = 5 + 3 * torch.randn(4, *model.shape).double()
    p = model.infer(x, 3)
    assert p.z == ()
    assert p.log_w.shape == (3, 4)
    for b in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda row: model.encode.__wrapped__(model, row[None])[0][0], x[b]
        ).reshape(math.prod(model.shape), -1)
        eps = model.encode(x[b : b + 1])[0][0]
        log_normal = -0.5 * eps.square().sum() - 0.5 * len(eps) * math.log(2 * math.pi)
        log_p = log_normal + torch.linalg.slogdet(jacobian)[1]
        exactly(p.log_w[:, b], log_p.expand(3), 1e-8)


def test_decode_is_the_inverse_of_encode(model, exactly):
    x = 5 + 3 * torch.randn(6, *model.shape).double()
    exactly(model.decode(model.encode(x)), x, 1e-9)
    with pytest.raises(UserError, match=r"give \(z,\)"):
        model.decode(model.encode(x)[0])
    exactly(model.reconstruct(x), x, 1e-9)


def test_draws_are_decoded_noise_and_cooler_noise_lies_nearer(model, exactly):
    with seeded(7):
        eps = torch.randn(5, math.prod(model.shape), dtype=torch.float64)
    exactly(model.sample(5, seed=7), model.decode((eps,)), 0)
    exactly(model.encode(model.sample(5, seed=7, temperature=0.5))[0], 0.5 * eps, 1e-8)


@pytest.mark.slow
def test_plane_density_integrates_to_one():
    model = shaken(NormalizingFlow((2,), NSF(transforms=2, hidden=(8,))))
    axis = torch.linspace(-12, 12, 801).double()
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        total = model.log_prob(x).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total - 1) < 1e-3


def test_a_context_moves_the_density_and_draws(exactly):
    model = model_of("MAF", contexts=2)
    x, c = 5 + torch.randn(4, 3).double(), torch.randn(4, 2).double()
    together = model.log_prob(x, context=c)
    for b in range(4):
        exactly(model.log_prob(x[b : b + 1], context=c[b : b + 1]), together[b : b + 1], 1e-10)
    assert not torch.allclose(together, model.log_prob(x, context=c + 1))
    exactly(model.decode(model.encode(x, context=c), c), x, 1e-9)
    assert model.sample(4, c, seed=1).shape == (4, 3)
    assert model.sample(4, c[:1], seed=1).shape == (4, 3)


def test_columns_are_standardised_and_numbers_stay_those_of_x():
    x = torch.randn(500, 3).double() * torch.tensor([1e-3, 1.0, 1e6]) + torch.tensor([5, 0, 1e8])
    model = lt.flow((3,), flow=MAF(transforms=1, hidden=(4,)))
    model.initialise(x)
    normal = TorchNormal(x.mean(0), x.var(0, correction=0).diag())
    assert (model.log_prob(x) - normal.log_prob(x)).abs().max() < 0.2  # f starts near identity
    assert model.loc.dtype == torch.float64


def test_pixels_of_images_share_a_scale_and_a_constant_column_has_one():
    x = torch.randn(50, 2, 4, 4).double() * torch.tensor([1.0, 7.0]).view(2, 1, 1)
    image = NormalizingFlow((2, 4, 4), Glow(scales=1, steps=1, hidden=4))
    image.initialise(x)
    assert image.scale.flatten(1).std(1).max() == 0
    torch.testing.assert_close(
        image.scale[:, 0, 0], torch.tensor([1.0, 7.0]).double(), rtol=0.1, atol=0
    )
    flat = NormalizingFlow((3,), MAF(transforms=1))
    flat.initialise(torch.tensor([[1.0, 2.0, 0.0], [1.0, 4.0, 1.0]]))
    assert (flat.scale > 0).all()
    assert flat.log_prob(torch.tensor([[1.0, 2.0, 0.0]])).isfinite().all()


def test_rows_with_holes_are_refused_by_every_door(refused):
    model = model_of("MAF")
    x, mask = torch.randn(3, 3).double(), torch.ones(3, 3, dtype=torch.bool)
    mask[1, 2] = False
    assert model.log_prob(x, torch.ones_like(mask)).shape == (3,)
    data = Data.from_array(torch.where(mask, x, math.nan))
    for ask in (
        lambda: model.log_prob(x, mask),
        lambda: model.encode(x, mask),
        lambda: model.impute(x, mask),
        lambda: evaluate(model, data),
        lambda: lt.impute(model, data),
        lambda: fit(model, data, epochs=1, progress=False),
        lambda: fit(lt.flow((3,), transform=Log(shift=50)), data, epochs=1, progress=False),
    ):
        with refused("row 1, column 2", "cannot leave cells out"):
            ask()


def test_a_temperature_is_of_flows_and_positive(refused):
    model = model_of("MAF")
    with refused("temperature=0", "positive"):
        model.sample(3, temperature=0)
    with refused("temperature=0.5", "FactorAnalysis", "leave it out"):
        lt.fa((3,), latents=1).sample(3, temperature=0.5)


def test_states_cannot_be_summed(refused):
    with refused("no latents"):
        model_of("MAF").infer(torch.zeros(2, 3).double(), gradient="exact")


def test_wrapped_flows_keep_what_flows_can(exactly):
    inner = shaken(NormalizingFlow((3,), RealNVP(transforms=2, hidden=(8,))))
    positive = lt.Transformed(inner, Log())
    x = torch.rand(5, 3).double() + 0.5
    exactly(positive.decode(positive.encode(x)), x, 1e-9)
    exactly(positive.log_prob(x), inner.log_prob(x.log()) - x.log().sum(1), 1e-10)
    exactly(positive.sample(4, seed=2), inner.sample(4, seed=2).exp(), 1e-12)
    whole = lt.Dequantized(lt.Transformed(inner, Logit(high=4)), levels=4)
    k = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 3.0]]).double()
    assert torch.equal(whole.reconstruct(k), k)
    assert torch.equal(whole.decode(whole.encode(k)), k)
    drawn = whole.sample(50, seed=1, temperature=0.7)
    assert not whole.misfit(drawn)[0].any()
    assert whole.invertible
    assert not whole.holes


def test_dequantized_probabilities_sum_to_one():
    """Of two cells of two levels, by 4,000 draws of the noise each."""
    inner = shaken(NormalizingFlow((2,), RealNVP(transforms=2, hidden=(8,))), 0.1)
    model = lt.Dequantized(lt.Transformed(inner, Logit(high=2)), levels=2)
    x = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)]).double()
    p = evaluate(model, Data.from_array(x, levels=2), lt.ImportanceSampling(4000))
    error = (p.values.exp().square() * p.mc_variance).sum().sqrt()
    assert (p.values.exp().sum() - 1).abs() < 5 * error


def test_a_flow_is_fitted_and_comes_back_from_its_file(tmp_path):
    x = torch.randn(400, 2)
    x = torch.stack([x[:, 0], x[:, 0].square() + 0.3 * x[:, 1]], 1)
    truth = -2 * 0.5 * (1 + math.log(2 * math.pi)) - math.log(0.3)
    model = lt.flow((2,), flow=NSF(transforms=2, hidden=(16,)))
    found = fit(model, Data.from_array(x), epochs=20, learning_rate=1e-2, progress=False)
    assert found.history[-1]["kl"] == 0
    held = torch.randn(4000, 2)
    held = torch.stack([held[:, 0], held[:, 0].square() + 0.3 * held[:, 1]], 1)
    evidence = evaluate(model, Data.from_array(held))
    assert evidence.kind == "exact"
    assert truth - 0.6 < evidence.nats < truth + 4 * evidence.nats_stderr
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert torch.equal(again.log_prob(x), model.eval().log_prob(x))


def test_what_is_no_flow_is_refused(refused):
    with refused("NormalizingFlow", "no flow"):
        NormalizingFlow((3,), "NSF")
    with pytest.raises(UserError, match="3"):
        NormalizingFlow((3,), Glow())


def test_learned_noise_bounds_what_uniform_noise_bounds():
    """Both bound one log P(x) from below, and many draws of either reach it."""
    inner = shaken(NormalizingFlow((2,), RealNVP(transforms=2, hidden=(8,))), 0.1)
    inside = lt.Transformed(inner, Logit(high=3))
    even = lt.Dequantized(inside, levels=3)
    learned = lt.Dequantized(inside, levels=3, noise=VariationalNoise(steps=2, hidden=8)).double()
    x = torch.tensor([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]).double()
    data = Data.from_array(x, levels=3)
    first, second = (evaluate(m, data, lt.ImportanceSampling(20_000)) for m in (even, learned))
    error = (first.mc_variance + second.mc_variance).sqrt()
    assert ((first.values - second.values).abs() < 5 * error + 1e-6).all()


def test_learned_noise_tightens_the_bound_in_training():
    """Of a density that no fit changes, by the noise alone."""
    inner = NormalizingFlow((3,), MAF(transforms=1, hidden=(4,)))
    narrow = Data.from_array(torch.tensor([[1.0, 2.0, 0.0]]).expand(200, 3), levels=4)
    model = lt.Dequantized(
        lt.Transformed(inner, Logit(high=4)), levels=4, noise=VariationalNoise(steps=2, hidden=8)
    )
    model.initialise(narrow.x)
    inner.requires_grad_(False)
    with torch.no_grad():
        inner.scale.mul_(0.1)  # p(x + u) is far from flat
    before = evaluate(model, narrow.rows([0]), lt.ImportanceSampling(1))
    found = fit(model, narrow, steps=60, learning_rate=3e-2, initialise=False, progress=False)
    assert found.history[-1]["bound"] > before.nats + 0.5
    assert len(model.inference_parameters()) == len(list(model.noise.parameters()))


def test_noise_without_levels_is_refused(refused):
    with refused("noise", "levels"):
        lt.flow((3,), noise=VariationalNoise())


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((3,), "NSF"), ((1, 8, 8), "Glow"), ((3, 6, 6), "Glow"), ((1, 7, 8), "NSF")],
)
def test_a_flow_suits_its_rows_by_itself(shape, kind):
    wanted = {"NSF": NSF(), "Glow": Glow(scales=2 if shape[-1] == 8 else 1)}[kind]
    with torch.device("meta"):
        made, same = lt.flow(shape), lt.flow(shape, flow=wanted)
    shapes = [[(name, p.shape) for name, p in m.named_parameters()] for m in (made, same)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "kind"), [("UNAF", "estimate"), ("NICE", "exact")])
def test_a_density_that_is_integrated_numerically_is_called_an_estimate(name, kind):
    model = lt.flow((2,), flow=Zuko(name, transforms=1, hidden=(8,)))
    evidence = evaluate(model, Data.from_array(torch.randn(5, 2)))
    assert evidence.kind == kind
    assert ("numerically" in " ".join(evidence.warnings)) == (kind == "estimate")
    integers = lt.flow((2,), flow=Zuko(name, transforms=1, hidden=(8,)), levels=4)
    bound = evaluate(integers, Data.from_array(torch.tensor([[0.0, 3.0]]), levels=4))
    assert bound.kind == "lower_bound"
    assert ("numerically" in " ".join(bound.warnings)) == (kind == "estimate")


@pytest.mark.parametrize("name", ["BPF", "GF", "NAF", "SOSPF", "CNF"])
@pytest.mark.parametrize("method", [None, ImportanceSampling(2)])
def test_densities_by_autograd_are_evaluated(name, method):
    """In the inference mode of torch nothing has a gradient, the slope of a map neither."""
    model = flow((2,), flow=Zuko(name, transforms=None if name == "CNF" else 1, hidden=(4,)))
    x = torch.randn(5, 2)
    found = evaluate(model, Data(x, "Normal", "rows"), method).values
    with torch.no_grad():
        torch.testing.assert_close(found, model.log_prob(x).double(), rtol=1e-4, atol=1e-4)


def test_a_flow_of_three_digits_is_refused(refused):
    """Some failed with an error of torch, and a solver of equations never came to an end."""
    data = Data(torch.randn(12, 3), "Normal", "rows")
    for model in (flow((3,), flow=Zuko("CNF", hidden=(4,))), flow((3,))):
        with refused("precision 'bf16-true' keeps three digits", "use 'bf16-mixed'"):
            fit(model, data, steps=1, precision="bf16-true", device="cpu", progress=False)


@pytest.mark.parametrize("name", ["BPF", "GF", "NAF", "SOSPF", "UNAF"])
def test_mixed_precision_leaves_monotone_maps_alone(name):
    """SOSPF and UNAF were refused by torch: values of two types met."""
    x = torch.randn(12, 2)
    model = flow((2,), flow=Zuko(name, transforms=1, hidden=(4,)))
    data = Data(x, "Normal", "rows")
    fit(model, data, steps=2, precision="bf16-mixed", device="cpu", progress=False)
    torch.testing.assert_close(model.reconstruct(x), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [(lt.ELBO(), lt.Score()), (lt.ELBO(), lt.VIMCO()), (lt.IWAE(), lt.VIMCO())],
)
def test_noise_is_learned_by_its_path_whatever_the_estimator(bound, estimator):
    """Drawn without a path it got the gradient of `-log q(u|x)` alone, of mean zero."""
    found = []
    for way in (estimator, lt.Reparam()):
        torch.manual_seed(0)
        model = flow((2,), flow=MAF(transforms=1), levels=4, noise=VariationalNoise(2, 4))
        torch.manual_seed(1)
        x = torch.tensor([[0.0, 3.0], [2.0, 1.0]])
        step = torch.tensor(0)
        lt.Variational(bound, way, 4)(model, x, None, None, step, 1)[0].sum().backward()
        found.append([p.grad.clone() for p in model.noise.parameters()])
    assert any(bool(grad.any()) for grad in found[0])
    torch.testing.assert_close(*found)


def test_learned_noise_is_no_q_of_wake_and_sleep(refused):
    model = flow((2,), flow=MAF(transforms=1), levels=4, noise=VariationalNoise(2, 4))
    data = Data(torch.randint(4, (12, 2)).float(), "Normal", "rows")
    for objective in (lt.WakeSleep(), lt.ReweightedWakeSleep(sleep=0.0)):
        with refused("has no gradient for noise that is learned", "UniformNoise"):
            fit(model, data, objective, steps=1, device="cpu", progress=False)
