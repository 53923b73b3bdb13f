"""What an autoencoder maximises, and that its variants do what they are for."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import latently as lt
from latently import Data, ae, fit
from latently.nets import MLP
from latently.probability.families import Beta, Categorical, LogNormal, Poisson
from latently.registry import KINDS
from latently.training import Reconstruction
from latently.training.objectives import usual

SMALL = partial(MLP, hidden=(32,))
PENALTIES = (lt.L1(0.1), lt.Contractive(0.05))


def made(data, objective=None, seed=0, **options):
    torch.manual_seed(seed)
    model = ae(data.shape, **{"latents": 4, "net": SMALL, **options})
    fit(model, data, objective, epochs=30, batch_size=50, seed=seed, progress=False)
    return model


@pytest.fixture(scope="module")
def curved():
    """Rows near a curved surface in eight dimensions."""
    torch.manual_seed(0)
    t = torch.rand(600, 2) * 3
    mixing = torch.randn(6, 8)
    bent = torch.cat([t, t.sin(), t.cos()], 1)
    return Data.from_array(bent @ mixing + 0.02 * torch.randn(600, 8))


def test_terms_are_the_likelihood_less_what_penalties_cost(curved):
    model = made(curved)
    x = curved.x[:20]
    terms = Reconstruction(None, PENALTIES)(model, x, None, None, torch.tensor(0), 10)
    likelihood = model.infer(x).log_lik[0]
    torch.testing.assert_close(terms.reconstruction, likelihood)
    (seen,) = model.seen(x)
    code = lambda seen: model.encoder(seen, None).mean  # noqa: E731
    cost = sum(penalty(code(seen), seen, code) for penalty in PENALTIES)
    torch.testing.assert_close(terms.kl, cost)
    torch.testing.assert_close(terms.bound, likelihood - cost)


def test_the_error_is_measured_against_the_clean_row(curved):
    model = made(curved)
    x, corruption = curved.x[:20], lt.Masking(0.5)
    torch.manual_seed(4)
    terms = Reconstruction(corruption)(model, x, None, None, torch.tensor(0), 10)
    torch.manual_seed(4)
    z = model.encode(corruption(x, model.span))
    wanted = model.likelihood(tuple(layer[None] for layer in z)).log_prob(x)[0]
    torch.testing.assert_close(terms.bound, wanted)


def test_an_adversary_climbs_the_error_of_reconstruction(curved):
    model = made(curved)
    x = curved.x[:100]

    def error(objective):
        terms = objective(model, x, None, None, torch.tensor(0), 10)
        return -float(terms.reconstruction.mean())

    clean, noisy = error(Reconstruction()), error(Reconstruction(lt.Gaussian(0.03)))
    worst = error(Reconstruction(lt.Adversarial(0.03)))
    assert worst > noisy > clean


@pytest.mark.slow
def test_denoising_makes_spoilt_rows_better_and_robust_ones_worst_rows(curved):
    plain = made(curved)
    denoising = made(curved, Reconstruction(lt.Masking(0.4)))
    robust = made(curved, Reconstruction(lt.Adversarial(0.1, steps=5)))

    def error(model, corruption):
        torch.manual_seed(0)
        seen = corruption(curved.x, model.span, partial(_loss, model, curved.x))
        return float(((curved.x - model.reconstruct(seen)).square() / model.unit).mean())

    masked, worst = lt.Masking(0.4), lt.Adversarial(0.1)
    assert error(denoising, masked) < 0.6 * error(plain, masked)
    assert error(robust, worst) < 0.8 * error(plain, worst)


def _loss(model, clean, x):
    z = model.encoded(x)
    return -model.likelihood(tuple(layer[None] for layer in z)).log_prob(clean)[0]


@pytest.mark.slow
def test_contraction_makes_codes_smoother_beyond_their_scale(curved):
    smooth, plain = made(curved, Reconstruction(None, lt.Contractive(0.3))), made(curved)

    def norm(model):
        (seen,) = model.seen(curved.x)
        code = lambda seen: model.encoder(seen, None).mean  # noqa: E731
        return float(lt.Contractive(1.0)(code(seen), seen, code).mean())

    assert norm(smooth) < 0.6 * norm(plain)


@pytest.mark.slow
def test_sparse_codes_are_sparse(curved):
    def share_on(model):
        return float((model.encode(curved.x)[0] > 1e-3).float().mean())

    options = {"latents": 12, "activation": nn.ReLU}
    plain = made(curved, **options)
    sparse = made(curved, Reconstruction(None, lt.L1(0.5)), **options)
    assert share_on(sparse) < 0.7 * share_on(plain)
    rare = made(
        curved,
        Reconstruction(None, lt.Sparsity(3.0, target=0.1)),
        latents=8,
        activation=nn.Sigmoid,
    )
    assert rare.encode(curved.x)[0].mean(0) == pytest.approx(0.1, abs=0.06)


def test_it_is_what_autoencoders_are_trained_by():
    assert usual(ae((4,))) == Reconstruction()
    assert usual(lt.vae((4,))) == lt.Variational()
    assert not Reconstruction().is_bound


def test_the_history_tells_the_penalty(curved):
    model = ae(curved.shape, latents=2, net=SMALL)
    found = fit(model, curved, Reconstruction(None, lt.L1(0.1)), steps=30, progress=False)
    row = found.history[-1]
    assert row["penalty"] > 0
    assert row["objective"] == pytest.approx(row["reconstruction"] - row["penalty"])
    assert not {"kl", "bound"} & set(row)


def test_codes_that_may_copy_are_warned_of(curved):
    def warnings(objective=None, **options):
        model = ae(curved.shape, net=SMALL, **options)
        return fit(model, curved, objective, steps=1, progress=False).warnings

    assert any("copying" in line for line in warnings(latents=8))
    assert any("copying" in line for line in warnings(latents=(3, 4)))
    assert not warnings(latents=7)
    assert not warnings(Reconstruction(lt.Masking(0.5)), latents=8)
    assert not warnings(Reconstruction(None, lt.L1(0.1)), latents=8)


def test_a_fit_tells_what_share_of_the_variance_is_rebuilt(curved):
    held = curved.rows(slice(0, 100))
    torch.manual_seed(0)
    model = ae(curved.shape, latents=4, net=SMALL)
    found = fit(model, curved, validation=held, epochs=30, progress=False)
    scores = model.anomaly_score(held.x)
    assert found.rebuilt == pytest.approx(1 - float(scores.mean()))
    assert found.rebuilt > 0.8
    assert not found.warnings
    dead = Reconstruction(None, lt.L1(100.0))
    torch.manual_seed(0)
    model = ae(curved.shape, latents=4, net=SMALL, activation=nn.ReLU)
    found = fit(model, curved, dead, steps=150, progress=False)
    assert found.rebuilt < 0.05
    assert any("hardly more than by the mean row" in line for line in found.warnings)
    assert fit(lt.fa(curved.shape, latents=2), curved, progress=False).rebuilt is None


def test_what_cannot_be_trained_by_it_is_refused(curved, refused):
    def train(model, objective):
        fit(model, curved, objective, steps=1, progress=False)

    with refused("Reconstruction trains autoencoders", "VAE"):
        train(lt.vae(curved.shape, likelihood=lt.families.Normal), Reconstruction())
    with refused("Sparsity", "activation=Sigmoid"):
        train(ae(curved.shape), Reconstruction(None, lt.Sparsity(1.0)))
    with refused("corruption=0.5", "Masking(0.5)"):
        Reconstruction(0.5)
    with refused("penalty=0.1", "L1(0.1)"):
        Reconstruction(None, 0.1)
    with refused("penalty=3", "L1(0.1)"):
        Reconstruction(None, (lt.L1(0.1), 3))
    counted = Data.from_array(torch.randint(0, 3, (30, 4)).float(), levels=3)
    model = ae((4,), likelihood=partial(Categorical, levels=3))
    with refused("Gaussian", "Categorical", "Masking"):
        fit(model, counted, Reconstruction(lt.Gaussian(0.1)), steps=1, progress=False)
    with refused("accumulate", "Reconstruction"):
        fit(
            ae(curved.shape),
            curved,
            Reconstruction(None, lt.L1(0.1)),
            steps=1,
            accumulate=2,
            progress=False,
        )


@pytest.mark.parametrize(
    ("likelihood", "corruption"),
    [
        (LogNormal, lt.Gaussian(0.1)),
        (LogNormal, lt.Masking(0.1)),
        (Beta, lt.Masking(0.1, value=1.0)),
        (Beta, lt.Gaussian(0.1)),
        (Poisson, lt.Gaussian(0.1)),
        (Poisson, lt.Masking(0.1, value=-2.0)),
    ],
)
def test_rows_that_the_encoder_cannot_read_are_refused_before_the_first_step(
    likelihood, corruption, refused
):
    x = torch.rand(30, 3) * 0.9 + 0.05
    data = Data.from_array(x if likelihood is not Poisson else (5 * x).round())
    model = ae((3,), latents=2, net=SMALL, likelihood=likelihood)
    with refused(str(corruption), likelihood.__name__, "SaltAndPepper"):
        fit(model, data, Reconstruction(corruption), steps=1, progress=False)
    for kind in (lt.SaltAndPepper(0.5), lt.Adversarial(0.2, steps=2), lt.Gaussian(0.0)):
        model = ae((3,), latents=2, net=SMALL, likelihood=likelihood)
        found = fit(model, data, Reconstruction(kind), steps=2, progress=False)
        assert found.history[-1]["non_finite"] == 0


def test_spoilt_rows_that_no_model_can_read_are_named(refused):
    x = torch.rand(30, 3) + 0.1
    model = ae((3,), latents=2, net=SMALL, likelihood=LogNormal)
    fit(model, Data.from_array(x), steps=2, progress=False)
    with refused("Gaussian", "numbers above 0", "SaltAndPepper"):
        lt.corrupted(model, x, lt.Gaussian(), [1.0])
    assert lt.corrupted(model, x, lt.SaltAndPepper(), [1.0]).mse.isfinite().all()
    counts = torch.randint(0, 3, (30, 3)).float()
    model = ae((3,), latents=2, net=SMALL, likelihood=partial(Categorical, levels=3))
    fit(model, Data.from_array(counts, levels=3), steps=2, progress=False)
    with refused("Adversarial", "categories", "Masking"):
        lt.corrupted(model, counts, lt.Adversarial(), [0.5])


def test_a_small_penalty_is_not_blamed_for_a_reconstruction_that_is_no_number(curved):
    data = Data.from_array(curved.x[:, :3])
    model = ae((3,), latents=2, net=SMALL)
    with torch.no_grad():
        next(model.decoder.net.parameters()).fill_(math.nan)
    with pytest.raises(lt.UserError) as caught:
        fit(model, data, Reconstruction(None, lt.L1(1e-3)), steps=40, progress=False)
    assert "reconstruction is nan" in str(caught.value)
    assert "weight" not in str(caught.value).partition(";")[0]


def test_a_penalty_that_overflows_ends_the_run_with_its_cause(curved, refused):
    with refused("penalty", "lower its weight"):
        fit(
            ae(curved.shape, latents=2),
            curved,
            Reconstruction(None, lt.Contractive(1e38)),
            epochs=5,
            progress=False,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        Reconstruction(),
        Reconstruction(lt.Gaussian(0.1)),
        Reconstruction(lt.Adversarial(0.1, steps=2)),
        Reconstruction(lt.Masking(0.5), PENALTIES),
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_to_the_bit(objective, curved, tmp_path, monkeypatch):
    validation = curved.rows(slice(0, 50))

    def run(path, resume=False):
        torch.manual_seed(0)
        model = ae(curved.shape, latents=3, net=SMALL)
        options = {"epochs": 3, "batch_size": 100, "validation": validation, "progress": False}
        fit(model, curved, objective, checkpoint=path, resume=resume, **options)
        return [p.detach().clone() for p in model.parameters()]

    whole = run(None)
    path, stops = tmp_path / "c", iter([False] * 7 + [True] * 100)
    from latently.training.run import Stop

    monkeypatch.setattr(Stop, "asked", property(lambda self: next(stops)), raising=False)
    with pytest.raises(lt.Interrupted):
        run(path)
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(whole, run(path, resume=True), strict=True))


@pytest.mark.slow
def test_missing_cells_are_left_out_of_the_error(curved):
    x = curved.x.clone()
    x[::3, 0] = math.nan
    data = Data.from_array(x)
    model = made(data, Reconstruction(lt.Masking(0.2)), sees_mask=True)
    assert model.anomaly_score(data.x, data.mask).isfinite().all()
    assert float(model.anomaly_score(data.x, data.mask).mean()) < 0.5


@pytest.mark.parametrize("name", sorted(KINDS["objectives"].keys() - {"Reconstruction"}))
@pytest.mark.parametrize(
    "options", [{}, {"codes": partial(lt.fa, latents=1)}], ids=["plain", "with codes"]
)
def test_objectives_of_densities_are_refused_before_the_first_step(name, options, curved, refused):
    model = ae(curved.shape, latents=2, net=SMALL, **options)
    with refused("Autoencoder", "Reconstruction"):
        KINDS["objectives"][name]().check_model(model)
    with refused("Autoencoder", "Reconstruction"):
        fit(model, curved, KINDS["objectives"][name](), steps=1, progress=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("objective", "works"),
    [
        (Reconstruction(lt.Adversarial(0.1, steps=2), lt.L1(0.1)), True),
        (Reconstruction(lt.Masking(0.5), lt.Contractive(0.1)), False),
        (Reconstruction(None, lt.Contractive(0.1, exact=0)), False),
    ],
    ids=str,
)
def test_a_compiled_step_climbs_but_has_no_second_derivatives(objective, works, curved, refused):
    model = ae(curved.shape, latents=2, net=SMALL)
    if works:
        found = fit(model, curved, objective, steps=3, compile=True, progress=False)
        assert math.isfinite(found.history[-1]["objective"])
        return
    with refused("Contractive", "compile"):
        fit(model, curved, objective, steps=3, compile=True, progress=False)
