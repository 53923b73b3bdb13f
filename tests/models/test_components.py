"""Every kind of component against scipy, brute force, scikit-learn and closed forms."""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from scipy.stats import invwishart, multivariate_normal, multivariate_t, norm
from scipy.stats import t as student
from sklearn.mixture import GaussianMixture

from latently import (
    PPCA,
    Bits,
    Diagonal,
    FactorAnalysis,
    Factors,
    Full,
    Mixture,
    Principal,
    Spherical,
    Student,
    Tied,
)
from latently.probability.conditional import draw_mean

NORMAL = [Full(), Tied(), Diagonal(), Spherical(), Factors(2), Principal(2)]
KINDS = [*NORMAL, *(Student(kind) for kind in NORMAL), Bits(), Bits(pseudo=0.0)]
LEARN = {"full": Full(), "tied": Tied(), "diag": Diagonal(), "spherical": Spherical()}
PRIORS = [Full(5.0), Tied(5.0), Diagonal(5.0), Spherical(5.0), Student(Full(5.0))]
PRIORS += [Full(5.0, share=0.1), Student(Full(5.0, share=0.1))]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
with_holes = pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])


def random_mixture(kind, shape=(5,), components=3, seed=1):
    """A mixture whose every parameter is drawn."""
    generator = torch.Generator().manual_seed(seed)
    model = Mixture(shape, components, family=kind)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def scatter_of(model):
    return getattr(model.parts, "scatter", None)


def covariance_of(scatter, k):
    """Sigma_k, dense."""
    if hasattr(scatter, "weight"):
        weight = scatter.weight[k].detach().numpy()
        noise = scatter.log_variance[k].detach().exp().numpy()
        return weight @ weight.T + np.diag(np.broadcast_to(noise, len(weight)))
    if hasattr(scatter, "lower"):
        root = scatter.root[k if len(scatter.lower) > 1 else 0].detach().numpy()
        return root @ root.T
    scale = scatter.log_scale[k].detach().exp().numpy()
    return np.diag(np.broadcast_to(scale**2, scatter.loc.shape[1]))


def log_part(model, k, row, seen):
    """log p_k(x_o) of one flat row, by slices of mean and covariance."""
    if not seen.any():
        return 0.0
    if model.discrete:
        p = model.parts.logits[k].detach().sigmoid().numpy()[seen]
        return float(np.log(np.where(row[seen] > 0, p, 1 - p)).sum())
    scatter = scatter_of(model)
    loc = scatter.loc[k].detach().numpy()[seen]
    covariance = covariance_of(scatter, k)[np.ix_(seen, seen)]
    if isinstance(model.family, Student):
        df = float(model.parts.df[k].detach())
        return float(multivariate_t(loc, covariance, df).logpdf(row[seen]))
    return float(multivariate_normal(loc, covariance).logpdf(row[seen]))


def brute_log_joint(model, x, mask):
    """log pi_k + log p_k(x_o), (B, C)."""
    x = x.flatten(1).numpy()
    mask = np.ones(x.shape, bool) if mask is None else mask.flatten(1).numpy()
    log_pi = model.weights.detach().log().tolist()
    found = [
        [log_pi[k] + log_part(model, k, row, seen) for k in range(len(log_pi))]
        for row, seen in zip(x, mask, strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def random_rows(model, n=9, holes=True, seed=2):
    rng = np.random.default_rng(seed)
    size = math.prod(model.shape)
    x = rng.integers(0, 2, (n, size)) if model.discrete else rng.normal(size=(n, size)) * 2
    x = torch.from_numpy(np.asarray(x, float)).view(n, *model.shape)
    mask = torch.from_numpy(rng.random((n, size)) < 0.6) if holes else None
    if mask is not None:
        mask[0], mask[1], mask[3] = False, True, mask[2]  # nothing, everything, a pattern twice
        mask = mask.view(x.shape)
    return x, mask


def clustered(n=300, columns=4, clusters=3, holes=0.0, seed=3, bits=False, df=None):
    """Rows of clusters of unlike covariances, with their mask."""
    rng = np.random.default_rng(seed)
    which = rng.integers(clusters, size=n)
    mixing = rng.normal(size=(clusters, columns, columns)) * 0.6 + 0.5 * np.eye(columns)
    noise = rng.normal(size=(n, columns))
    if df is not None:
        noise /= np.sqrt(rng.chisquare(df, n) / df)[:, None]
    x = 3 * rng.normal(size=(clusters, columns))[which]
    x = x + np.einsum("nij,nj->ni", mixing[which], noise)
    x = torch.from_numpy((x > 0).astype(float) if bits else x)
    mask = torch.from_numpy(rng.random((n, columns)) >= holes) if holes else None
    return x, mask


def factored(n=150, columns=6, holes=0.0, clusters=1, bits=False, df=None, seed=4):
    """Rows of one factor, whose maxima EM reaches quickly, with their mask."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)) @ (1.5 * rng.normal(size=(1, columns)))
    x = x + rng.normal(size=(n, columns))
    if df is not None:
        x /= np.sqrt(rng.chisquare(df, n) / df)[:, None]
    x = x + 6 * rng.integers(clusters, size=(n, 1))
    x = torch.from_numpy((x > 0).astype(float) if bits else x)
    return x, torch.from_numpy(rng.random(x.shape) >= holes) if holes else None


def of_one_factor(kind):
    """The kind itself, with one factor where it has any."""
    if isinstance(kind, Student):
        return Student(of_one_factor(kind.scale))
    return type(kind)(1) if isinstance(kind, Factors | Principal) else kind


def data_for(kind, **options):
    return clustered(bits=kind.discrete, df=6 if isinstance(kind, Student) else None, **options)


@every_kind
@with_holes
@pytest.mark.parametrize("shape", [(5,), (1, 5, 1)])
def test_every_draw_weighs_exactly_the_marginal(kind, holes, shape, exactly, device, dtype):
    model = random_mixture(kind, shape)
    x, mask = random_rows(model, holes=holes)
    joint = brute_log_joint(model, x, mask)
    wanted, model = joint.logsumexp(1), model.to(device, dtype)
    x, mask = x.to(device, dtype), None if mask is None else mask.to(device)
    p = model.infer(x, 11, mask)
    assert p.z[0].shape == (11, len(x), 3)
    exactly(p.log_w, wanted.expand(11, -1))
    exactly(model.log_prob(x, mask), wanted)
    for state in torch.eye(3, dtype=dtype, device=device):  # drawn or not
        z = (state.expand(2, len(x), 3),)
        exactly(model.infer(x, 2, mask, z=z).log_w, wanted.expand(2, -1), 1e-9)
    exactly(model.encode(x, mask)[0], joint.softmax(1))
    exactly(model.infer(x, 1, mask, draw=draw_mean).log_w[0], wanted)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.discrete], ids=str)
def test_what_is_missing_has_the_conditional_of_the_mixture(kind, exactly):
    model = random_mixture(kind)
    x, mask = random_rows(model, 5)
    known = model.predictive(x, mask)
    shares = brute_log_joint(model, x, mask).softmax(1).numpy()
    scatter, levels = scatter_of(model), (0.05, 0.5, 0.9)
    lines = [known.icdf(torch.tensor(level, dtype=torch.float64)) for level in levels]
    for row in range(len(x)):
        o, m = mask[row].numpy(), ~mask[row].numpy()
        if not m.any():
            continue
        parts = [given(model, scatter, k, x[row].numpy(), o, m) for k in range(3)]
        mean = sum(s * loc for s, (loc, _, _) in zip(shares[row], parts, strict=True))
        square = sum(
            s * (np.diag(cov) * widened(df) + loc**2)
            for s, (loc, cov, df) in zip(shares[row], parts, strict=True)
        )
        exactly(known.mean[row][m], mean, 1e-9)
        exactly(known.variance[row][m], square - mean**2, 1e-8)
        for level, line in zip(levels, lines, strict=True):
            at = line[row].detach().numpy()[m]
            reached = sum(
                s * cdf((at - loc) / np.sqrt(np.diag(cov)), df)
                for s, (loc, cov, df) in zip(shares[row], parts, strict=True)
            )
            exactly(reached, np.full(m.sum(), level), 1e-8)


def widened(df):
    return 1.0 if df is None else df / (df - 2)


def cdf(u, df):
    return norm.cdf(u) if df is None else student.cdf(u, df)


def given(model, scatter, k, row, o, m):
    """Mean, scale matrix and degrees of freedom of component k's missing cells."""
    loc, covariance = scatter.loc[k].detach().numpy(), covariance_of(scatter, k)
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    mean = loc[m] + gain @ (row - loc)[o]
    left = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
    if not isinstance(model.family, Student):
        return mean, left, None
    df = float(model.parts.df[k].detach())
    apart = (row - loc)[o]
    energy = apart @ np.linalg.inv(covariance[np.ix_(o, o)]) @ apart
    return mean, left * (df + energy) / (df + o.sum()), df + o.sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Full(), Factors(2), Student(Full()), Diagonal()], ids=str)
def test_imputed_draws_have_the_moments_of_the_conditional(kind):
    model, draws = random_mixture(kind), 30_000
    x, mask = random_rows(model, 4)
    drawn = model.impute(x, mask, draws=draws, seed=1)
    assert torch.equal(drawn[:, mask], x[mask].expand(draws, -1))
    shares = brute_log_joint(model, x, mask).softmax(1).numpy()
    for row in (0, 2):
        o, m = mask[row].numpy(), ~mask[row].numpy()
        parts = [given(model, scatter_of(model), k, x[row].numpy(), o, m) for k in range(3)]
        mean = sum(s * loc for s, (loc, _, _) in zip(shares[row], parts, strict=True))
        wanted = sum(
            s * (cov * widened(df) + np.outer(loc - mean, loc - mean))
            for s, (loc, cov, df) in zip(shares[row], parts, strict=True)
        )
        found = drawn[:, row].numpy()[:, m]
        spread = np.sqrt(np.diag(wanted))
        assert (np.abs(found.mean(0) - mean) < 5 * spread / math.sqrt(draws)).all()
        products = (found - mean)[:, :, None] * (found - mean)[:, None]
        error = products.std(0) / math.sqrt(draws)
        assert (np.abs(products.mean(0) - wanted) < 5 * error).all()


def test_imputed_bits_are_those_of_the_conditional(exactly):
    model = random_mixture(Bits())
    x, mask = random_rows(model, 4)
    shares = brute_log_joint(model, x, mask).softmax(1)
    wanted = shares @ model.parts.logits.detach().sigmoid()
    exactly(model.predictive(x, mask).mean[~mask], wanted[~mask])
    drawn = model.impute(x, mask, draws=20_000, seed=1)
    assert (drawn.mean(0) - wanted)[~mask].abs().max() < 5 * 0.5 / math.sqrt(20_000)
    assert ((drawn == 0) | (drawn == 1)).all()


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.discrete], ids=str)
def test_density_of_a_row_of_two_integrates_to_one(kind):
    model = random_mixture(of_one_factor(kind), (2,), 2)
    u = torch.linspace(-6, 6, 601, dtype=torch.float64)
    line, step = u.sinh(), (u[1] - u[0]) * u.cosh()
    seen = torch.tensor([True, False]).expand(len(line), 2)
    cell = torch.stack([line, torch.full_like(line, math.nan)], 1)
    with torch.no_grad():
        density = model.log_prob(torch.cartesian_prod(line, line)).exp()
        total = step @ density.view(len(line), -1) @ step
        marginal = step @ model.log_prob(cell, seen).exp()
    loss = 1e-3 if isinstance(kind, Student) else 1e-8  # beyond the grid
    assert abs(float(total) - 1) < loss
    assert abs(float(marginal) - 1) < loss


def test_probabilities_of_all_rows_of_bits_sum_to_one(exactly):
    rows = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 5)
    exactly(random_mixture(Bits()).log_prob(rows).exp().sum(), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *PRIORS], ids=str)
@with_holes
def test_em_never_decreases_and_reports_its_parameters(kind, holes):
    x, mask = data_for(kind, n=120, holes=0.3 * holes)
    model = Mixture((4,), 3, family=kind)
    values = []
    for value in islice(model.em(x, mask, seed=1), 25):
        values.append(float(value))
        if len(values) in (1, 2, 25):
            with torch.no_grad():
                now = model.log_prob(x, mask).mean() + model.log_prior() / len(x)
            assert float(now) == pytest.approx(values[-1], abs=1e-9)
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(values))
    assert values[-1] > values[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *PRIORS], ids=str)
@pytest.mark.parametrize(("components", "holes"), [(1, True), (2, False)])
def test_em_ends_where_the_gradient_is_zero(kind, holes, components):
    df = 3 if isinstance(kind, Student) else None
    options = {"clusters": components, "bits": kind.discrete, "df": df, "seed": 5 - components}
    x, mask = factored(holes=0.2 * holes, **options)
    model = Mixture((6,), components, family=of_one_factor(kind), restarts=1)
    last = -math.inf
    for value in islice(model.em(x, mask), 1500):
        if float(value) - last < 1e-13:
            break
        last = float(value)
    total = model.log_prob(x, mask).mean()
    prior = model.parts.log_prior()
    (total + prior / len(x)).backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().max() < 2e-5, name


def put(model, weights, means, covariances):
    """Sets a mixture of normals."""
    scatter = model.parts.scatter
    with torch.no_grad():
        model.logits.copy_(torch.from_numpy(weights).log())
        scatter.loc.copy_(torch.from_numpy(means))
        if hasattr(scatter, "lower"):
            root = torch.linalg.cholesky(torch.from_numpy(covariances))
            logs = torch.diag_embed(root.diagonal(dim1=-2, dim2=-1).log())
            scatter.lower.copy_((root.tril(-1) + logs).view_as(scatter.lower))
        else:
            scale = 0.5 * torch.from_numpy(covariances).log()
            scatter.log_scale.copy_(scale.view(scatter.log_scale.shape))


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("steps", [1, 40])
def test_em_equals_scikit_learn_from_the_same_start(name, steps):
    x, _ = clustered(400, 5)
    rng = np.random.default_rng(0)
    weights, means = np.array([0.2, 0.5, 0.3]), x.numpy()[rng.integers(400, size=3)]
    start = {
        "full": np.stack([np.cov(x.T.numpy())] * 3),
        "tied": np.cov(x.T.numpy()),
        "diag": np.stack([x.var(0).numpy()] * 3),
        "spherical": np.full(3, float(x.var())),
    }[name]
    precision = np.linalg.inv(start) if name in ("full", "tied") else 1 / start
    peer = GaussianMixture(
        3,
        covariance_type=name,
        tol=0,
        reg_covar=0,
        max_iter=steps,
        weights_init=weights,
        means_init=means,
        precisions_init=precision,
        random_state=0,
    ).fit(x.numpy())
    model = Mixture((5,), 3, family=LEARN[name])
    put(model, weights, means, start)
    *_, value = islice(model.passes(x), steps + 1)
    assert float(value) == pytest.approx(peer.score(x.numpy()), abs=1e-6)
    if steps > 1:
        return
    np.testing.assert_allclose(model.weights.detach(), peer.weights_, atol=1e-10)
    scatter = model.parts.scatter
    np.testing.assert_allclose(scatter.loc.detach(), peer.means_, atol=1e-9)
    wanted = peer.covariances_ if name != "tied" else np.stack([peer.covariances_] * 3)
    for k in range(3):
        dense = wanted[k] * np.eye(5) if name in ("diag", "spherical") else wanted[k]
        np.testing.assert_allclose(covariance_of(scatter, k), dense, atol=1e-9)


@with_holes
def test_one_component_of_factors_is_factor_analysis(holes):
    x, mask = factored(200, 8, holes=0.2 * holes)
    values = []
    for model in (Mixture((8,), 1, family=Factors(1)), FactorAnalysis((8,), 1)):
        *_, last = islice(model.em(x, mask), 400)
        values.append(float(last))
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_one_principal_component_is_ppca():
    x, _ = factored()
    peer, model = PPCA((6,), 1), Mixture((6,), 1, family=Principal(1))
    wanted = float(next(peer.em(x)))
    *_, last = islice(model.em(x), 100)
    assert float(last) == pytest.approx(wanted, abs=1e-9)
    noise, wanted = (
        float(p.detach().flatten()[0])
        for p in (model.parts.scatter.log_variance, peer.log_variance)
    )
    assert noise == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("pseudo", [0.0, 2.0])
@with_holes
def test_a_pass_over_bits_is_the_formula(pseudo, holes):
    model = random_mixture(Bits(pseudo), (5,), 2)
    x, mask = random_rows(model, 40, holes=holes)
    r = brute_log_joint(model, x, mask).softmax(1).numpy()
    seen = np.ones(x.shape) if mask is None else mask.numpy().astype(float)
    kept = x.numpy() * seen
    overall = (kept.sum(0) + 0.5) / (seen.sum(0) + 1)
    list(islice(model.passes(x, mask), 2))
    wanted = (r.T @ kept + pseudo * overall) / (r.T @ seen + pseudo)
    found = model.parts.logits.detach().sigmoid().numpy()
    np.testing.assert_allclose(found, wanted.clip(1e-6, 1 - 1e-6), atol=1e-12)
    np.testing.assert_allclose(model.weights.detach(), r.mean(0), atol=1e-12)


@pytest.mark.parametrize("kind", [Full(9.0), Tied(9.0)], ids=str)
def test_prior_of_covariances_is_inverse_wishart(kind):
    x, _ = clustered(400)
    x = torch.cat([x, -x])  # its mean is 0
    found = []
    for seed in (1, 2):
        model = random_mixture(kind, (4,), 3, seed)
        model.parts.scale(x, None)
        count = len(model.parts.scatter.lower)
        whole = (x.T @ x + 4 * torch.diag(x.square().mean(0))) / (len(x) + 4)
        whole = whole.numpy() / count ** (2 / 4)
        density = invwishart(9.0 - 4 - 1, 9.0 * whole)
        wanted = sum(density.logpdf(covariance_of(model.parts.scatter, k)) for k in range(count))
        found.append(model.log_prior() - wanted)
    assert found[0] == pytest.approx(found[1], abs=1e-8)


def test_a_prior_by_share_is_an_inverse_wishart_of_independent_columns():
    x, mask = clustered(400, holes=0.2)
    variance = [x[mask[:, j], j].numpy().var() for j in range(4)]
    density, found = invwishart(9.0 - 4 - 1, 9.0 * 0.1 * np.diag(variance)), []
    for seed in (1, 2):
        model = random_mixture(Full(9.0, share=0.1), (4,), 3, seed)
        model.parts.scale(x, mask)
        wanted = sum(density.logpdf(covariance_of(model.parts.scatter, k)) for k in range(3))
        found.append(model.log_prior() - wanted)
    assert found[0] == pytest.approx(found[1], abs=1e-8)


@with_holes
def test_a_pass_adds_the_rows_of_a_prior_by_share_to_each_component(holes):
    """`(n_k S_k + rho T) / (n_k + rho)`, each row's expected scatter by brute force."""
    x, mask = clustered(200, holes=0.3 * holes)
    rho, share = 2.5, 0.03
    model = random_mixture(Full(rho, share=share), (4,), 3)
    seen = np.ones(x.shape, bool) if mask is None else mask.numpy()
    r = brute_log_joint(model, x, mask).softmax(1).numpy()
    target = share * np.diag([x.numpy()[seen[:, j], j].var() for j in range(4)])
    wanted = []
    for k in range(3):
        rows, left = x.numpy().copy(), np.zeros((len(x), 4, 4))
        for row, o in enumerate(seen):
            if not o.all():
                mean, cov, _ = given(model, model.parts.scatter, k, rows[row], o, ~o)
                rows[row, ~o], left[row][np.ix_(~o, ~o)] = mean, cov
        mean = r[:, k] @ rows / r[:, k].sum()
        apart = rows - mean
        scatter = np.einsum("n,ni,nj->ij", r[:, k], apart, apart)
        scatter += np.einsum("n,nij->ij", r[:, k], left)
        wanted.append((mean, (scatter + rho * target) / (r[:, k].sum() + rho)))
    list(islice(model.passes(x, mask), 2))
    for k, (mean, covariance) in enumerate(wanted):
        np.testing.assert_allclose(model.parts.scatter.loc[k].detach(), mean, rtol=1e-9)
        np.testing.assert_allclose(
            covariance_of(model.parts.scatter, k), covariance, rtol=1e-8, atol=1e-9
        )


def test_one_component_by_share_is_maximum_likelihood_where_the_prior_has_no_rows():
    x, _ = clustered(100, clusters=1)
    sample = np.cov(x.numpy().T, bias=True)
    for rho, share in ((0.0, None), (1e-9, 0.03), (50.0, 0.03)):
        model = Mixture((4,), 1, family=Full(rho, share=share))
        list(islice(model.em(x), 3))
        wanted = (100 * sample + rho * (share or 0) * np.diag(sample.diagonal())) / (100 + rho)
        found = covariance_of(model.parts.scatter, 0)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


def test_a_prior_by_share_holds_where_rows_are_fewer_than_columns():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 20)))
    x[:, 3] = 2.0  # a constant has no variance, and the prior none for it
    model = Mixture((20,), 2, family=Full(10.0, share=0.03), restarts=1)
    with pytest.warns(UserWarning, match="column 3 is constant"):
        values = [float(v) for v in islice(model.em(x), 20)]
    assert np.isfinite(values).all()
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(values))
    assert bool(torch.isfinite(model.log_prob(10 * x)).all())


@pytest.mark.parametrize("kind", [Diagonal(4.0), Spherical(4.0)], ids=str)
def test_prior_of_variances_is_of_rows_of_the_columns_variances(kind):
    x, _ = clustered(300)
    model = random_mixture(kind, (4,), 3)
    r = brute_log_joint(model, x, None).softmax(1).numpy()
    list(islice(model.passes(x), 2))
    variance = x.numpy().var(0) / 3 ** (2 / 4)
    mean = (r.T @ x.numpy()) / r.sum(0)[:, None]
    square = np.einsum("nk,nkj->kj", r, (x.numpy()[:, None] - mean) ** 2)
    rows = np.broadcast_to(r.sum(0)[:, None], square.shape) + 4.0
    total = square + 4.0 * variance
    if isinstance(kind, Spherical):
        total, rows = (np.broadcast_to(t.sum(1, keepdims=True), t.shape) for t in (total, rows))
    for k in range(3):
        dense = np.diag(covariance_of(model.parts.scatter, k))
        np.testing.assert_allclose(dense, total[k] / rows[k], rtol=1e-9)


@pytest.mark.parametrize("scale", NORMAL, ids=str)
@with_holes
def test_student_of_many_degrees_is_normal(scale, holes):
    heavy, light = random_mixture(Student(scale)), Mixture((5,), 3, family=scale)
    light.parts.scatter.load_state_dict(heavy.parts.scatter.state_dict())
    with torch.no_grad():
        heavy.parts.log_above.fill_(math.log(1e12))
        light.logits.copy_(heavy.logits)
    x, mask = random_rows(light, holes=holes)
    torch.testing.assert_close(heavy.log_prob(x, mask), light.log_prob(x, mask), atol=1e-6, rtol=0)


def test_student_finds_the_degrees_of_freedom_and_withstands_outliers():
    rng = np.random.default_rng(0)
    t = torch.from_numpy(rng.standard_t(5, size=(2000, 1)))
    model = Mixture((1,), 1, family=Student())
    list(islice(model.em(t), 300))
    wanted = student.fit(t.numpy()[:, 0])
    assert float(model.parts.df.detach()) == pytest.approx(wanted[0], rel=1e-2)
    x, _ = clustered(300, 4, clusters=1)
    spoiled = x.clone()
    spoiled[:6] = 1000.0
    locs = {}
    for kind in (Student(), Full()):
        model = Mixture((4,), 1, family=kind)
        list(islice(model.em(spoiled), 200))
        locs[kind] = (model.parts.scatter.loc.detach() - x[6:].mean(0)).abs().max()
    assert locs[Student()] < 0.5 < 10 < locs[Full()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in KINDS if not k.discrete], ids=str)
@with_holes
def test_singular_covariances_are_held_and_named(kind, holes):
    x, mask = clustered(200, 5, clusters=2, holes=0.15 * holes)
    x[:, 4] = 2 * x[:, 3]  # full covariances have no inverse
    x[:60] = x[0]  # nor has anything about rows that are one row
    model = Mixture((5,), 3, family=kind)
    values = [float(v) for v in islice(model.em(x, mask), 50)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(values))
    assert math.isfinite(values[-1])
    found = [c for c in model.complaints() if "singular" in c]
    assert len(found) == 1
    assert "no maximum" in found[0]
    assert "use fewer" in found[0] or "leave out columns" in found[0]


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.discrete], ids=str)
def test_constant_columns_warn_once_and_accuse_no_component(kind):
    x, _ = clustered(200, 4)
    x[:, 2] = 7.0
    model = Mixture((4,), 2, family=kind)
    with pytest.warns(UserWarning, match="column 2 is constant") as caught:
        values = [float(v) for v in islice(model.em(x), 30)]
    assert len([w for w in caught if "constant" in str(w.message)]) == 1
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(values))
    assert not [c for c in model.complaints() if "singular" in c and "Spherical" not in str(kind)]
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize("kind", [Full(), Factors(2), Student(), Bits()], ids=str)
def test_gradients_are_those_of_finite_differences(kind):
    model = random_mixture(kind, (3,), 2)
    x, mask = random_rows(model, 5)
    model.log_prob(x, mask).sum().backward()
    for p in model.parameters():
        where = tuple(int(i) for i in p.grad.abs().flatten().argmax().view(1))
        flat, values = p.data.view(-1), []
        for step in (1e-5, -1e-5):
            before = float(flat[where])
            flat[where] = before + step
            values.append(float(model.log_prob(x, mask).sum().detach()))
            flat[where] = before
        slope = (values[0] - values[1]) / 2e-5
        assert float(p.grad.view(-1)[where]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@every_kind
def test_degrees_count_what_is_free(kind):
    size, count, latents = 5, 3, 2
    loadings = size * latents - 1
    of = {
        "Full": count * 15,
        "Tied": 15,
        "Diagonal": count * size,
        "Spherical": count,
        "Factors": count * (loadings + size),
        "Principal": count * (loadings + 1),
    }
    scale = kind.scale if isinstance(kind, Student) else kind
    wanted = count - 1 + count * size + of.get(type(scale).__name__, 0)
    wanted += count if isinstance(kind, Student) else 0
    assert Mixture((size,), count, family=kind).degrees() == wanted


def test_wrong_options_are_refused(refused):
    with refused("Factors", "latents=0"):
        Factors(0)
    with refused("Factors", "latents=6", "5"):
        Mixture((5,), 2, family=Factors(6))
    with refused("Principal", "latents=5", "4 or fewer"):
        Mixture((5,), 2, family=Principal(5))
    with refused("Student", "Bits", "no covariance"):
        Student(Bits())
    with refused("Student", "scale=3"):
        Student(3)
    with refused("Full", "prior=-2"):
        Full(-2)
    with refused("Full", "share=0", "at least 1e-06"):
        Full(1, share=0)
    with refused("Full", "share=0.03", "prior=0 has none"):
        Full(share=0.03)
    with refused("Bits", "pseudo=-1"):
        Bits(-1)
    assert Student(Diagonal) == Student(Diagonal())
