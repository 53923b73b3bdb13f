from functools import partial

import pytest
import torch

from latently import ELBO, vae
from latently.nets import MLP
from latently.probability.conditional import Conditional
from latently.probability.distributions import analytic_kl
from latently.probability.families import Bernoulli, Normal
from latently.probability.priors import (
    Learned,
    LearnedNormal,
    NormalMixture,
    Standard,
    StandardNormal,
    VampPrior,
)


def encoder(*inputs, latents=2, contexts=0):
    return Conditional(
        partial(MLP, hidden=(4,)), Normal((latents,)), *(inputs or [(3,)]), contexts=contexts
    ).double()


def test_standard_normal_is_one():
    prior = StandardNormal((2, 3)).double()
    z = torch.randn(5, 2, 3).double()
    wanted = torch.distributions.Normal(0, 1).log_prob(z).sum((1, 2))
    torch.testing.assert_close(prior().log_prob(z), wanted)


def test_vamp_is_the_mixture_of_the_encoders_posteriors():
    q = encoder()
    prior = VampPrior((2,), q, components=7).double()
    z = torch.randn(4, 5, 2).double()
    each = torch.stack([q(u).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - torch.tensor(7.0).log())


def test_vamp_draws_random_components_with_their_own_variance():
    q = encoder(latents=1)
    prior = VampPrior((1,), q, components=10).double()
    with torch.no_grad():  # component k is N(100 k, 0.2^2)
        for p in q.parameters():
            p.zero_()
        q.net.layers[0].weight[0, 0] = 1
        q.net.layers[2].weight[0, 0] = 1
        q.net.layers[2].bias[1] = torch.tensor(0.2).log()
        prior.pseudo_inputs.zero_()
        prior.pseudo_inputs[:, 0] = 100 * torch.arange(10)
    z = prior().sample((5000,)).flatten()
    chosen = (z / 100).round()
    counts = torch.bincount(chosen.long(), minlength=10).double()
    assert ((counts - 500).square() / 500).sum() < 40  # chi-square, 9 degrees: p = 1e-5
    spread = (z - 100 * chosen).std()
    wanted = q(prior.pseudo_inputs[:1]).variance.sqrt().item()
    assert spread == pytest.approx(wanted, rel=0.06)
    few = prior().sample((6,)).flatten().div(100).round()
    assert few.tolist() != sorted(few.tolist()) or len(set(few.tolist())) < 6


def test_vamp_reads_a_complete_mask_and_each_rows_context():
    q = encoder((3,), (3,), contexts=2)
    prior = VampPrior((2,), q, components=4).double()
    context = torch.randn(5, 2).double()
    d = prior(context)
    assert d.batch_shape == (5,)
    z = torch.randn(6, 5, 2).double()
    for b in range(5):
        each = torch.stack(
            [
                q(u, torch.ones(3).double(), context[b]).log_prob(z[:, b])
                for u in prior.pseudo_inputs
            ]
        )
        wanted = each.logsumexp(0) - torch.tensor(4.0).log()
        torch.testing.assert_close(d.log_prob(z)[:, b], wanted)
    assert d.sample((6,)).shape == (6, 5, 2)


def test_vamp_starts_at_random_rows_repeated_if_few():
    prior = VampPrior((2,), encoder(), components=7)
    rows = torch.arange(9.0).view(3, 3)
    prior.initialise(rows)
    found = sorted(prior.pseudo_inputs.detach()[:, 0].tolist())
    assert set(found) == {0, 3, 6}
    many = torch.randn(1000, 3)
    prior.initialise(many)
    at = [int((many == u).all(1).nonzero()) for u in prior.pseudo_inputs]
    assert len(set(at)) == 7
    assert at != list(range(7))


def test_vamp_shares_the_encoder_and_trains_its_inputs():
    q = encoder()
    prior = VampPrior((2,), q, components=3).double()
    prior().log_prob(torch.randn(4, 2).double()).sum().backward()
    assert prior.pseudo_inputs.grad.abs().sum() > 0
    assert q.net.layers[0].weight.grad.abs().sum() > 0


def test_vamp_needs_components_and_an_encoder(refused):
    with refused("components=0"):
        VampPrior((2,), encoder(), components=0)
    with refused("encoder", "StandardNormal"):
        VampPrior((2,), None)


def test_conditional_joins_inputs_of_any_shape():
    image = Conditional(MLP, Bernoulli((1,)), (1, 4, 4), (1, 4, 4))
    assert image.in_shape == (2, 4, 4)
    mixed = Conditional(MLP, Bernoulli((1,)), (1, 4, 4), (3,))
    assert mixed.in_shape == (19,)
    assert mixed(torch.zeros(6, 5, 1, 4, 4), torch.zeros(5, 3)).batch_shape == (6, 5)


def test_conditional_broadcasts_as_each_row_alone():
    c = encoder((3,), (2,))
    x, context = torch.randn(4, 5, 3).double(), torch.randn(5, 2).double()
    joint = c.params(x, context)
    for k in range(4):
        for b in range(5):
            torch.testing.assert_close(joint[k, b], c.params(x[k, b][None], context[b][None])[0])


def test_conditional_wants_exactly_its_inputs(refused):
    c = encoder((3,), (2,))
    with refused("1 inputs", "built on 2"):
        c(torch.zeros(1, 3).double(), None)
    with refused("2 inputs", "built on 1"):
        encoder()(torch.zeros(1, 3).double(), torch.zeros(1, 2).double())


def test_conditional_names_the_context_it_lacks(refused):
    c, x = encoder(contexts=2), torch.zeros(1, 3).double()
    assert c.contexts == 2
    assert c.input_shapes == ((3,), (2,))
    assert encoder((3,), (2,)).contexts == 0
    for missing in ((x,), (x, None)):
        with refused("contexts=2", "no context", "(rows, 2)"):
            c(*missing)
    with refused("contexts=2", "(1, 3)"):
        c(x, x)
    with refused("3 inputs", "built on 2"):
        c(x, x, torch.zeros(1, 2).double())
    for width in (-1, 2.5):
        with refused(f"contexts={width}", "0 for none"):
            encoder(contexts=width)


def test_held_log_prob_has_the_value_and_only_the_path_gradient():
    c = encoder()
    h = c.params(torch.randn(4, 3).double())
    z = c.family(h).rsample((5,))
    z.retain_grad()
    held = c.held_log_prob(h, z)
    torch.testing.assert_close(held, c.family(h).log_prob(z))
    (by_h,) = torch.autograd.grad(held.sum(), h, retain_graph=True)
    through_z = -((z - c.family(h).mean) / c.family(h).variance)
    mean, log_scale = h.detach().requires_grad_(True).chunk(2, -1)
    path = c.family(torch.cat([mean, log_scale], -1))
    eps = ((z - c.family(h).mean) / c.family(h).variance.sqrt()).detach()
    redrawn = path.mean + path.variance.sqrt() * eps
    (wanted,) = torch.autograd.grad((through_z.detach() * redrawn).sum(), mean)
    torch.testing.assert_close(by_h[:, :2], wanted)


def test_learned_normal_starts_at_the_standard_normal_and_is_free():
    prior, z = LearnedNormal((2, 3)).double(), torch.randn(5, 2, 3).double()
    torch.testing.assert_close(prior().log_prob(z), StandardNormal((2, 3)).double()().log_prob(z))
    assert [tuple(p.shape) for p in prior.parameters()] == [(4, 3)]


@pytest.mark.parametrize("contexts", [0, 4])
def test_kl_to_a_learned_normal_is_that_of_its_draws(contexts):
    q, prior = encoder(contexts=contexts), LearnedNormal((2,), encoder(contexts=contexts)).double()
    q.family.unscaled()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.5 * torch.randn_like(p))
    context = torch.randn(5, 4).double() if contexts else None
    posterior, p = q(torch.randn(5, 3).double(), *([context] if contexts else [])), prior(context)
    with torch.no_grad():
        z = posterior.sample((100_000,))
        terms = posterior.log_prob(z) - p.log_prob(z)
        kl = analytic_kl(posterior, p)
    assert kl.shape == (5,)
    assert ((terms.mean(0) - kl).abs() < 4.5 * terms.std(0) / len(z) ** 0.5).all()


def test_learned_normal_finds_the_aggregate_posterior():
    """The best prior of a fixed encoder is the mean over rows of its posteriors."""
    prior, rows = LearnedNormal((1,)).double(), 3 + 2 * torch.randn(2000, 1).double()
    search = torch.optim.LBFGS(prior.parameters(), max_iter=100)

    def loss():
        search.zero_grad()
        value = -prior().log_prob(rows).mean()
        value.backward()
        return value

    search.step(loss)
    assert prior().mean.item() == pytest.approx(rows.mean().item(), rel=1e-4)
    assert prior().variance.item() == pytest.approx(rows.var(correction=0).item(), rel=1e-3)


def test_normal_mixture_is_the_sum_of_its_normals():
    prior, z = NormalMixture((2,), components=3).double(), torch.randn(4, 5, 2).double()
    with torch.no_grad():
        prior.given.h[:3] = torch.tensor([0.3, -1.0, 2.0])
    normals = prior.given.h[3:].view(3, 2, 2) + prior.given.family.start.view(3, 2, 2)
    weights = prior.given.h[:3].softmax(0)
    density = sum(
        weights[k]
        * torch.distributions.Normal(mean, (10 * torch.tanh(raw / 10)).exp())
        .log_prob(z)
        .sum(-1)
        .exp()
        for k, (mean, raw) in enumerate(normals)
    )
    torch.testing.assert_close(prior().log_prob(z).exp(), density)


def test_normal_mixture_starts_spread_out_around_the_standard_normal():
    prior = NormalMixture((16,), components=200)
    with torch.no_grad():
        means = prior().components.mean
        assert len(means.unique(dim=0)) == 200
        assert (prior().variance - 1).abs().max() < 1e-5
        assert prior().log_weights.unique().numel() == 1
    log_p = prior().log_prob(torch.randn(30, 16)).sum()
    (gradient,) = torch.autograd.grad(log_p, prior.given.h)
    assert len(gradient[200:].view(200, -1).unique(dim=0)) == 200  # no two learn the same


def test_normal_mixture_draws_components_by_their_weights():
    prior = NormalMixture((1,), components=3).double()
    with torch.no_grad():
        prior.given.h[:3] = torch.tensor([0.2, 0.3, 0.5]).log()
        prior.given.h[3:] = torch.tensor([0.0, -2, 100, -2, 200, -2])
        prior.given.family.start.zero_()
    z = prior().sample((10_000,)).flatten().div(100).round()
    shares = torch.bincount(z.long(), minlength=3) / 10_000
    assert (shares - torch.tensor([0.2, 0.3, 0.5])).abs().max() < 0.025


def test_a_map_of_the_context_is_any_network():
    prior = NormalMixture(
        (2,), encoder(contexts=3), components=4, net=partial(MLP, hidden=(7,))
    ).double()
    assert prior.given.map.net.layers[0].weight.shape == (7, 3)
    assert prior(torch.randn(5, 3).double()).sample((6,)).shape == (6, 5, 2)


def test_contexts_get_latents_of_their_own():
    """Rows that a context explains: the learned prior moves there, and p(x|c) follows."""
    label = torch.randint(0, 2, (400,))
    x = (8.0 * label[:, None] + torch.randn(400, 2)).double()
    context = torch.nn.functional.one_hot(label, 2).double()
    net = partial(MLP, hidden=(8,))
    model = vae((2,), latents=1, likelihood=Normal, prior=LearnedNormal, contexts=2, net=net)
    model = model.double()
    model.initialise(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (-ELBO()(model.infer(x, context=context)).mean()).backward()
        optimizer.step()
    drawn = [model.sample(500, torch.eye(2)[k : k + 1].double(), seed=1).mean() for k in range(2)]
    assert abs(drawn[0]) < 1
    assert abs(drawn[1] - 8) < 1


def test_learned_priors_check_their_options(refused):
    for components in (0, -1, 2.5):
        with refused("NormalMixture", f"components={components}"):
            NormalMixture((2,), components=components)
    for kind in (LearnedNormal, NormalMixture):
        with refused(kind.__name__, "net", "context"):
            kind((2,), encoder(), net=MLP)


@pytest.mark.parametrize("prior", [Standard, Learned])
def test_a_prior_refuses_what_constructs_no_family(prior, refused):
    for wrong in (torch.nn.ReLU, Normal((2,)), 3):
        with refused(f"{prior.__name__}: family=", "is no constructor of a family"):
            prior((2,), family=wrong)
