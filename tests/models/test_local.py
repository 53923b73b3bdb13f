"""Local parameters, what q alone owns, and where latents lie: what refinement and HMC build on."""

from functools import partial

import pytest
import torch
from torch.distributions import biject_to

from latently.errors import UserError
from latently.inference.noise import seeded
from latently.models import Dequantized, Transformed
from latently.nets import MLP
from latently.probability import families
from latently.probability.families import Family
from latently.probability.priors import Standard, VampPrior
from latently.probability.transforms import Log
from latently.recipes import fa, vae

CONTINUOUS = sorted(
    name
    for name in families.__all__
    if name not in ("Family", "Mixture")
    and not getattr(families, name).discrete
    and not getattr(families, name).atoms
)


def small(**options):
    torch.manual_seed(0)
    return vae((6,), latents=3, net=partial(MLP, hidden=(5,)), **options)


MODELS = {
    "vae": lambda: small(),
    "transformed": lambda: Transformed(small(likelihood=families.Normal), Log()),
    "dequantized": lambda: Dequantized(small(likelihood=families.Normal), levels=2),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_zero_is_the_encoder_and_anything_else_another_q(make):
    model = make()
    x = torch.ones(4, 6)
    local = model.local(len(x))
    assert [len(own) for own in local] == [4]

    def log_w(local):
        with seeded(1, x.device):
            return model.infer(x, 5, local=local).log_w

    torch.testing.assert_close(log_w(local), log_w(None), rtol=0, atol=0)
    moved = tuple(own.clone() for own in local)
    moved[0][2] += 0.5  # of one row
    changed = (log_w(moved) != log_w(None)).any(0)
    assert changed.tolist() == [False, False, True, False]


def test_local_parameters_are_differentiable():
    model, x = small(), torch.ones(4, 6)
    (own,) = (part.requires_grad_() for part in model.local(4))
    model.infer(x, 3, local=(own,)).log_w.sum().backward()
    assert own.grad is not None
    assert (own.grad != 0).all()


def test_local_parameters_move_the_held_density_too():
    model, x = small(), torch.ones(4, 6)
    own = torch.ones_like(model.local(4)[0])
    z = (torch.randn(2, 4, 3),)
    total = model.infer(x, 2, z=z, local=(own,))
    path = model.infer(x, 2, z=z, local=(own,), gradient="path")
    torch.testing.assert_close(total.log_q, path.log_q)


def test_exact_models_have_nothing_to_refine():
    model = fa((6,), latents=2)
    assert model.local(4) == ()
    assert model.inference_parameters() == []
    with pytest.raises(UserError, match="nothing to refine"):
        model.infer(torch.zeros(4, 6), local=(torch.zeros(4, 4),))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_p_stays_when_inference_parameters_move(make):
    model, x, z = make(), torch.ones(4, 6), (torch.randn(2, 4, 3),)

    def terms():
        with seeded(0, x.device):
            p = model.infer(x, 2, z=z)
        return p.log_lik + sum(p.log_prior), p.log_q[0]

    (joint, log_q), own = terms(), model.inference_parameters()
    with torch.no_grad():
        for parameter in own:
            parameter += 0.1
    torch.testing.assert_close(terms()[0], joint, rtol=0, atol=0)
    assert (terms()[1] != log_q).all()
    others = {id(p) for p in model.parameters()} - {id(p) for p in own}
    assert others


def test_an_encoder_that_serves_the_prior_belongs_to_p():
    assert small(prior=VampPrior).inference_parameters() == []


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_constraint_is_the_support(name):
    """Anything on the whole line becomes a value of the support, and a draw maps back."""
    torch.manual_seed(0)
    family: Family = getattr(families, name)((4,))
    to_support = biject_to(family.constraint)
    shape = to_support.inverse_shape((100, 4))
    x = to_support(torch.randn(shape))
    assert not family.misfit(x).any()
    drawn = family(torch.zeros(family.param_shape)).sample((100,))
    assert to_support.inv(drawn).isfinite().all()


def test_counted_latents_have_no_constraint():
    assert families.Bernoulli((4,)).constraint is None
    assert families.Hurdle((4,)).constraint is None
    both = partial(families.Mixed, columns=(families.Normal, families.Gamma))
    assert both((2,)).constraint is None
    assert small(posterior=families.OneHot, prior=Standard).latent_constraints() == (None,)
    assert small(posterior=families.Mixture).latent_constraints() == (
        torch.distributions.constraints.real,
    )
