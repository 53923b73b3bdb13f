"""Samples against held-out rows: closed forms, designed sets, copies, and what is refused."""

import json
import math

import pytest
import torch

import latently as lt
from latently.data import Data
from latently.inference import (
    RBF,
    ClassifierFeatures,
    ColumnFeatures,
    InverseMultiquadratic,
    PCAFeatures,
    judge_samples,
    mmd,
    sample_quality,
)
from latently.inference.features import FeatureMap, shuffled
from latently.inference.two_samples import (
    Pair,
    density_coverage,
    frechet_distance,
    mann_whitney,
    nearest_distances,
    precision_recall,
)


def draws(n, columns=3, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, columns, generator=generator, dtype=torch.float64)


def blobs(n, modes, seed, spread=0.3):
    """Rows around so many points far apart, and which one each belongs to."""
    labels = torch.arange(n) % modes
    centres = 10 * torch.eye(4, dtype=torch.float64)
    return centres[labels] + draws(n, 4, seed, spread), labels


def two_modes(n, seed, kept=2):
    return blobs(n, kept, seed)[0]


# ---------------------------------------------------------------------------------- two samples


def of_moments(n, mean, covariance, seed):
    """Rows whose own mean and covariance are exactly these."""
    x = draws(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_is_the_closed_form_of_two_gaussians():
    a = draws(5, 5, 1)
    covariances = [torch.diag(torch.tensor([4.0, 1.0, 0.25]).double()), (a.T @ a)[:3, :3]]
    means = [torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()]
    root = covariances[0].sqrt()
    middle = torch.linalg.eigvalsh(root @ covariances[1] @ root).sqrt().sum()
    truth = (means[0] - means[1]).square().sum() + sum(c.trace() for c in covariances) - 2 * middle
    x, y = (
        of_moments(40, *m, seed) for seed, m in enumerate(zip(means, covariances, strict=True))
    )
    assert frechet_distance(x, y) == pytest.approx(float(truth), rel=1e-9)


def test_frechet_distance_of_draws_tends_to_the_truth():
    x, y = draws(40_000, 2, 0), draws(40_000, 2, 1, scale=2.0, shift=1.0)
    assert frechet_distance(x, y) == pytest.approx(2 + 2 * (2 - 1) ** 2, abs=0.1)


@pytest.mark.parametrize(("n", "columns"), [(50, 3), (10, 40)])
def test_frechet_distance_of_a_set_from_itself_is_zero(n, columns):
    x = draws(n, columns)
    x[:, 0] = 7.0  # a constant feature
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * columns, rel=1e-9)


def test_kernel_distance_is_that_of_mmd():
    x, y = draws(30, seed=0), draws(40, seed=1, shift=0.5)
    for kernel in (RBF(1.3), InverseMultiquadratic(0.7)):
        assert Pair.of(x, y).mmd(kernel) == pytest.approx(float(mmd(x, y, kernel).mean()))


def test_precision_and_recall_by_hand():
    x = torch.arange(6.0)[:, None]
    assert precision_recall(x + 100, x) == (0.0, 0.0)
    assert precision_recall(x[:5], x, 1) == (1.0, 1.0)
    # balls of width 1 around 0..5; samples at 0 and 10 have balls of width 10
    samples = torch.tensor([[0.0], [10.0]])
    assert precision_recall(samples, x, 1) == (0.5, 1.0)
    assert density_coverage(samples, x, 1) == (1.0, 2 / 6)


def test_equal_rows_have_balls_of_no_width():
    x = torch.zeros(8, 2)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x + 1e-3, x) == (0.0, 0.0)


def test_density_and_coverage_of_equals_are_what_theory_says():
    n, k, found = 60, 5, []
    for seed in range(60):
        found.append(density_coverage(draws(n, 2, 2 * seed), draws(n, 2, 2 * seed + 1), k))
    density, coverage = torch.tensor(found).double().mean(0).tolist()
    expected = 1 - math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(expected, abs=0.01)


def test_nearest_distances_are_those_of_all_pairs():
    x, rows = draws(20, 5, 0, shift=1e3), draws(9000, 5, 1, shift=1e3)
    x[3] = rows[8999]
    found = nearest_distances(x, rows)
    torch.testing.assert_close(found, torch.cdist(x, rows).amin(1), rtol=1e-6, atol=1e-6)
    assert found[3] == 0


def test_mann_whitney_is_scipys():
    from scipy.stats import mannwhitneyu, norm

    x, y = (
        draws(40, 1, 0)[:, 0].round(decimals=1),
        draws(30, 1, 1, shift=0.3)[:, 0].round(decimals=1),
    )
    z = mann_whitney(x, y)
    p = mannwhitneyu(x, y, use_continuity=False, method="asymptotic", alternative="less").pvalue
    assert norm.cdf(z) == pytest.approx(p, rel=1e-9)
    assert mann_whitney(torch.ones(3), torch.ones(4)) == 0


# ------------------------------------------------------------------------------------- features


def test_classifier_features_are_the_networks_and_say_how_well_it_does():
    x, labels = blobs(400, 4, 0)
    found = ClassifierFeatures((16, 8), epochs=60).fit(x, labels, of="blobs")
    assert found(x).shape == (400, 8)
    assert found.accuracy > 0.95
    shown = f"{100 * found.accuracy:.1f} % on held-out rows"
    assert found.name == f"MLP(16, 8) classifier of the labels of blobs, {shown}"
    # classes are further apart in features that tell them apart
    h = found(x)
    within = sum(h[labels == c].var(0).sum() for c in range(4)) / 4
    assert within < 0.2 * h.var(0).sum()


def test_accuracy_is_of_rows_apart():
    x = draws(300, 5, 0)
    labels = torch.randint(2, (300,), generator=torch.Generator().manual_seed(1))
    assert (
        ClassifierFeatures(epochs=200).fit(x, labels).accuracy < 0.75
    )  # there is nothing to know


def test_components_keep_distances_within_their_span():
    x = draws(100, 3) @ draws(3, 20, 1) + 5
    found = PCAFeatures(3).fit(x, of="rows")
    assert found.name == "PCA(3) of rows, 100.0 % of their variance"
    torch.testing.assert_close(torch.pdist(found(x)), torch.pdist(x))
    scaled = PCAFeatures(3, standardise=True).fit(x * torch.logspace(-3, 3, 20))
    h = scaled(x * torch.logspace(-3, 3, 20))
    torch.testing.assert_close(torch.pdist(h), torch.pdist(x / x.std(0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "features", [ClassifierFeatures(), PCAFeatures(2), ColumnFeatures(standardise=True)]
)
def test_features_depend_on_rows_and_seed_only(features, untouched):
    x, labels = blobs(200, 4, 0)
    order = torch.randperm(200)
    with untouched():
        one = features.fit(x, labels, seed=3)
        other = features.fit(x[order], labels[order], seed=3)
    torch.testing.assert_close(one(x), other(x), rtol=1e-6, atol=1e-6)
    assert one.name == other.name


def test_shuffled_rows_lie_in_one_order():
    x = draws(50, 2).round()  # equal rows, too
    order = torch.randperm(50)
    assert torch.equal(x[shuffled(x, 0, "a")], x[order][shuffled(x[order], 0, "a")])
    assert not torch.equal(shuffled(x, 0, "a"), shuffled(x, 1, "a"))
    assert shuffled(x, 0, "a").sort().values.equal(torch.arange(50))


# ------------------------------------------------------------------------------- designed samples

WHOLE = ColumnFeatures()


@pytest.mark.parametrize("seed", range(3))
def test_fresh_draws_are_found_to_be_like_data(seed):
    found = sample_quality(
        draws(300, seed=3 * seed),
        draws(400, seed=3 * seed + 1),
        draws(500, seed=3 * seed + 2),
        features=WHOLE,
        seed=seed,
    )
    assert found.findings == (
        "not told apart from held-out rows by distances, at 200 rows a side",
    )
    assert abs(found["copying_z"].value.value) < 4


def test_a_dropped_mode_is_lost_recall():
    found = sample_quality(two_modes(300, 0, kept=1), two_modes(400, 1), features=WHOLE)
    assert found["recall"].value.value == pytest.approx(
        found["recall"].reference.value / 2, abs=0.1
    )
    assert found["precision"].sigmas > -3
    assert found["coverage"].value.value < 0.6
    assert any("misses" in line for line in found.findings)
    assert found.findings[0].startswith("unlike held-out rows: Frechet distance")


def test_noise_is_lost_precision():
    noisy = two_modes(300, 0) + draws(300, 4, 5, scale=1.5)
    found = sample_quality(noisy, two_modes(400, 1), features=WHOLE)
    assert found["precision"].value.value < 0.4
    assert found["recall"].value.value > 0.8
    assert any("many samples lie where no data are" in line for line in found.findings)


def test_narrow_draws_crowd():
    found = sample_quality(draws(300, 10, 0, 0.6), draws(400, 10, 1), features=WHOLE)
    assert found["density"].value.value > 1.2
    assert any("samples crowd" in line for line in found.findings)


def test_frechet_is_a_share_of_the_variance():
    mean, x = 1e-9 * draws(400, 2, 0), of_moments(400, torch.zeros(2), torch.eye(2).double(), 1)
    found = sample_quality(mean, 5 * x, features=WHOLE)
    assert found["frechet"].value.value == pytest.approx(1, abs=0.02)
    scaled = sample_quality(100 * mean, 500 * x, features=WHOLE)
    assert scaled["frechet"].value.value == pytest.approx(
        found["frechet"].value.value, rel=1e-4
    )  # up to the halves


def test_errors_are_the_spread_over_draws_or_wider():
    """Of the difference from the reference, over sets drawn anew."""
    found = [
        sample_quality(draws(100, 3, 3 * s), draws(200, 3, 3 * s + 1, 1.1), features=WHOLE)
        for s in range(40)
    ]
    for name in ("frechet", "kernel", "precision", "recall", "density", "coverage"):
        values = torch.tensor([q[name].difference.value for q in found])
        errors = torch.tensor([q[name].difference.stderr for q in found])
        assert 0.8 < float(errors.mean() / values.std()) < 2.5, name


# ---------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_copies_are_named(seed, share):
    train = draws(500, 6, 3 * seed)
    samples = draws(300, 6, 3 * seed + 1)
    copied = int(share * 300)
    samples[:copied] = train[:copied] + draws(copied, 6, seed, scale=0.01)
    found = sample_quality(samples, draws(400, 6, 3 * seed + 2), train, features=WHOLE)
    assert found.findings[0].startswith("samples are copies: ")
    assert found["duplicates"].value.value == 0
    assert found["near_train"].value.value == pytest.approx(share, abs=0.03)


def test_equal_rows_are_counted():
    train, heldout = draws(500, 6, 0), draws(400, 6, 1)
    samples = draws(300, 6, 2)
    samples[:60] = train[:60]
    found = sample_quality(samples.float(), heldout, train)  # float32 draws of float64 rows
    assert found["duplicates"].value.value == pytest.approx(0.2)
    assert any("20 % of the samples equal a training row" in line for line in found.findings)


def test_rows_that_repeat_by_themselves_are_no_copies():
    generator = torch.Generator().manual_seed(0)
    coins = torch.randint(2, (1500, 5), generator=generator).double()
    found = sample_quality(coins[:400], coins[400:900], coins[900:])
    assert found["duplicates"].value.value > 0.95
    assert not any("copies" in line or "equal" in line for line in found.findings)


def test_draws_drawn_towards_training_rows_are_told():
    train = draws(500, 6, 0)
    towards = 0.9 * train[:300] + 0.5 * draws(300, 6, 1)
    found = sample_quality(towards, draws(400, 6, 2), train, features=WHOLE)
    assert found["copying_z"].value.value < -3
    assert "nearer to training rows" in found.findings[0]


def test_training_rows_for_held_out_rows_are_warned_of():
    train = draws(500, 3, 0)
    found = sample_quality(draws(300, 3, 1), train[:400], train)
    assert found.warnings[0].startswith("100 % of the held-out rows equal a training row")
    assert not sample_quality(draws(300, 3, 1), draws(400, 3, 2), train).warnings


# ------------------------------------------------------------------------------- as a whole


def test_order_of_rows_does_not_matter_and_the_seed_does():
    x, y, t = draws(200, 3, 0), draws(300, 3, 1), draws(250, 3, 2)
    one = sample_quality(x, y, t, seed=1)
    other = sample_quality(x.flip(0), y[torch.randperm(300)], t.flip(0), seed=1)
    assert str(one) == str(other)
    assert str(one) == str(sample_quality(x, y, t, seed=1))
    assert str(one) != str(sample_quality(x, y, t, seed=2))


def test_global_generators_are_left_alone(untouched):
    with untouched():
        sample_quality(draws(60), draws(100, seed=1), draws(100, seed=2))


def test_everything_is_an_estimate_and_json():
    found = sample_quality(draws(60), draws(100, seed=1), draws(100, seed=2))
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["n"] == 50
    assert written["findings"] == list(found.findings)
    for measure in found.measures.values():
        assert measure.value.kind == "estimate"
        assert math.isfinite(measure.value.value)
        assert measure.value.method
    assert found.features in str(found)
    assert len({len(line) for line in str(found).splitlines()[2 : 3 + len(found.measures)]}) == 1


def test_features_are_not_learned_from_rows_that_are_compared():
    seen = []

    class Spy(ColumnFeatures):
        learns = True

        def fit(self, rows, labels=None, *, seed=0, of="rows"):
            seen.append(rows)
            return FeatureMap(of, lambda x: x)

    x, y = draws(100), draws(200, seed=1)
    found = sample_quality(x, y, features=Spy())
    assert found.heldout == 100
    assert found.features == "half of the held-out rows"
    learned = {tuple(row) for row in seen[0].tolist()}
    assert len(learned) == 100
    assert sample_quality(x, y, draws(100, seed=2), features=Spy()).heldout == 200
    assert torch.equal(seen[1], draws(100, seed=2))


@pytest.mark.parametrize(
    ("samples", "heldout", "options", "words"),
    [
        (draws(19), draws(200), {}, ("19 samples", "at least 20 and 40")),
        (draws(50), draws(39), {"features": WHOLE}, ("39 held-out rows",)),
        (draws(50), draws(79), {}, ("79 held-out rows", "train=")),
        (draws(50, 4), draws(200), {}, ("samples of shape (50, 4)", "(200, 3)")),
        (draws(50) / 0, draws(200), {}, ("row 0 of samples", "NaN or inf", "impute")),
        (draws(50), draws(200).sqrt(), {}, ("of heldout",)),
        (draws(50), draws(200), {"train": draws(50, 2)}, ("train of shape (50, 2)",)),
        (draws(50), draws(200), {"features": ClassifierFeatures()}, ("no labels", "fit(rows, l")),
        (draws(50), draws(200), {"features": "pixels"}, ("features='pixels'", "PCAFeatures()")),
        (draws(50), torch.ones(200, 3), {"features": WHOLE}, ("equal in the 3 columns",)),
        (draws(50), torch.ones(200, 3), {}, ("PCAFeatures", "all 100 rows are equal")),
    ],
)
def test_refused(samples, heldout, options, words, refused):
    with refused(*words):
        sample_quality(samples, heldout, **options)


@pytest.mark.parametrize("far", [1e200, 1.7e308])
def test_samples_out_of_reach_are_refused(far, refused):
    """Their squares overflowed: "linalg.svd: the algorithm failed to converge"."""
    samples = draws(100)
    samples[3, 1] = far
    with refused("deviations of held-out rows away", "too far to measure"):
        sample_quality(samples, draws(200, seed=1))
    samples[3, 1] = 1e30
    assert sample_quality(samples, draws(200, seed=1))["frechet"].value.value > 1e3


def test_features_refused(refused):
    x, labels = blobs(100, 4, 0)
    for build, words in (
        (lambda: ClassifierFeatures(()), ("hidden=()",)),
        (lambda: ClassifierFeatures((0,)), ("hidden=(0,)",)),
        (lambda: ClassifierFeatures(epochs=0), ("epochs=0",)),
        (lambda: PCAFeatures(0), ("components=0",)),
        (lambda: ClassifierFeatures().fit(x, torch.zeros(100)), ("all labels are 0",)),
        (lambda: ClassifierFeatures().fit(x, labels[:5]), ("labels of shape (5,)", "(100,)")),
        (lambda: ClassifierFeatures().fit(x[:5], labels[:5]), ("5 rows",)),
        (lambda: frechet_distance(x, x[:, :2]), ("frechet_distance", "(100, 4)")),
        (lambda: precision_recall(x[:3], x), ("3 and 100 rows", "at least 4")),
    ):
        with refused(*words):
            build()


# --------------------------------------------------------------------------------------- models


def fitted(data, latents=2, **options):
    model = lt.ppca(data.shape, latents=latents, **options)
    lt.fit(model, data, progress=False)
    return model


def test_models_are_judged_by_their_draws():
    data = Data.from_array(draws(900, 2) @ draws(2, 5, 1) + 0.1 * draws(900, 5, 2))
    train, heldout = (
        data.rows(slice(0, 500), "made/train"),
        data.rows(slice(500, 900), "made/test"),
    )
    good, poor = fitted(train), fitted(train, latents=1)
    found = judge_samples(good, heldout, train, n=400)
    assert (found.samples, found.n, found.protocol) == (400, 200, "made/test")
    assert found.features.startswith("PCA(5) of made/train, columns over their deviations")
    assert len(found.findings) == 1
    assert "not told apart" in found.findings[0]
    worse = judge_samples(poor, heldout, train, n=400)
    assert worse["frechet"].value.value > 2 * found["frechet"].value.value
    assert str(found) == str(judge_samples(good, heldout, train, n=400))


def test_labels_make_a_classifier():
    x, labels = blobs(600, 4, 0)
    data = Data.from_array(x, labels=labels, protocol="blobs/test")
    model = fitted(data)
    found = judge_samples(model, data, n=100)
    assert found.features.startswith("MLP(128) classifier of the labels of half of blobs/test, ")
    assert found.heldout == 300
    assert judge_samples(model, data, n=100, features=WHOLE).features == "the 4 columns"


def test_conditional_models_get_the_contexts_of_held_out_rows():
    x, labels = blobs(400, 2, 0)
    context = torch.nn.functional.one_hot(labels, 2).double()
    data = Data(x.float(), "Normal", "blobs/test", context=context.float())
    model = fitted(data, latents=1, contexts=2)
    found = judge_samples(model, data, n=300, features=WHOLE)
    assert found["recall"].value.value > 0.8
    assert found["precision"].value.value > 0.6


def test_rows_with_holes_are_refused(refused):
    x = draws(100)
    model = fitted(Data.from_array(x), latents=1)
    x[3, 1] = math.nan
    with refused("array: 1 of 100 rows have missing cells", "samples have none", "data.rows("):
        judge_samples(model, Data.from_array(x))
    with refused("n=5"):
        judge_samples(model, Data.from_array(x), n=5)
    with refused("shape"):
        judge_samples(model, Data.from_array(draws(100, 4)))
