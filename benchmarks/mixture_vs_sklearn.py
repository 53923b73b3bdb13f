"""Is our EM for mixtures of normals scikit-learn's, and how much faster?

    python benchmarks/mixture_vs_sklearn.py

Equal: the digits' training rows plus U(0, 1) noise (seed 0) and 2,000 rows of a mixture in ten
dimensions; both sides start from the same weights, means (of rows grouped by their sum) and
covariances (that of all rows) and make 50 passes without regularisation, for every covariance that
both know. The mean log-likelihoods are compared; bar: 1e-6 nats.

Fast: 100,000 rows of a mixture of ten normals with full covariances in 20 dimensions (seed 0).
A repetition is 20 passes and the likelihood they reach, from the same start. Sides take turns in
processes of their own; bar: at most half of scikit-learn's time. Beside it, without a bar, whole
fits as users call them: one k-means start and EM until a pass gains less than 1e-3 nats.
"""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

import harness
import latently
from latently.data import Data
from latently.models import Mixture
from latently.models.components import Diagonal, Full, Spherical, Tied

KINDS = {"full": Full(), "tied": Tied(), "diag": Diagonal(), "spherical": Spherical()}
PASSES, TIMED = 50, 20
BAR_NATS, BAR_TIME = 1e-6, 0.5


def made(rows: int, columns: int, components: int) -> np.ndarray:
    """Rows of a mixture of normals with full covariances, seed 0."""
    draw = np.random.default_rng(0)
    means = 3 * draw.normal(size=(components, columns))
    roots = draw.normal(size=(components, columns, columns)) / np.sqrt(columns)
    index = draw.integers(components, size=rows)
    shared, own = draw.normal(size=(2, rows, columns))
    return means[index] + np.einsum("nij,nj->ni", roots[index], shared) + 0.3 * own


def digits() -> np.ndarray:
    x = latently.data.load("digits/train").x.flatten(1).double().numpy()
    return x + np.random.default_rng(0).random(x.shape)


def start(x: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (C, D), and the covariance (D, D) that all components have."""
    groups = np.array_split(x[x.sum(1).argsort()], components)
    return np.stack([group.mean(0) for group in groups]), np.cov(x.T, bias=True)


def ours(x: np.ndarray, components: int, kind: str, passes: int) -> float:
    """The mean log-likelihood after so many passes."""
    model = started(x, components, kind)
    values = islice(model.passes(torch.from_numpy(x)), passes + 1)
    return float(list(values)[-1])


def started(x: np.ndarray, components: int, kind: str) -> Mixture:
    means, covariance = (torch.from_numpy(part) for part in start(x, components))
    model = Mixture(x.shape[1:], components, family=KINDS[kind])
    scatter, root = model.parts.scatter, torch.linalg.cholesky(covariance)
    variance = covariance.diagonal()
    variance = variance.mean()[None] if kind == "spherical" else variance
    with torch.no_grad():
        scatter.loc.copy_(means)
        if kind in ("full", "tied"):
            scatter.lower.copy_(root.tril(-1) + root.diagonal().log().diag())
        else:
            scatter.log_scale.copy_(0.5 * variance.log())
    return model


def sklearn(x: np.ndarray, components: int, kind: str, passes: int) -> float:
    means, covariance = start(x, components)
    precisions = {
        "full": lambda: np.repeat(np.linalg.inv(covariance)[None], components, 0),
        "tied": lambda: np.linalg.inv(covariance),
        "diag": lambda: np.repeat(1 / covariance.diagonal()[None], components, 0),
        "spherical": lambda: np.full(components, 1 / covariance.diagonal().mean()),
    }
    model = GaussianMixture(
        components,
        covariance_type=kind,
        tol=0.0,
        reg_covar=0.0,
        max_iter=passes,
        init_params="random",
        weights_init=np.full(components, 1 / components),
        means_init=means,
        precisions_init=precisions[kind](),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(model.fit(x).score(x))


def whole_fit(x: np.ndarray, components: int) -> dict[str, Any]:
    model = latently.mixture(x.shape[1:], components=components, restarts=1)
    data = Data.from_array(x, family="Normal")
    fitted = latently.fit(model, data, tolerance=1e-3, progress=False)
    return {"log_likelihood": fitted.history[-1]["log_prob"], "passes": len(fitted.history)}


def whole_fit_sklearn(x: np.ndarray, components: int) -> dict[str, Any]:
    model = GaussianMixture(components, tol=1e-3, random_state=0).fit(x)
    return {"log_likelihood": float(model.score(x)), "passes": model.n_iter_}


def serve(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    x = made(100_000, 20, 10)
    sides = {
        "ours": lambda: {"log_likelihood": ours(x, 10, "full", TIMED)},
        "scikit-learn": lambda: {"log_likelihood": sklearn(x, 10, "full", TIMED)},
        "ours, whole fit": lambda: whole_fit(x, 10),
        "scikit-learn, whole fit": lambda: whole_fit_sklearn(x, 10),
    }
    sides[options.side]()  # warms up
    harness.serve(sides[options.side])


def equal(name: str, x: np.ndarray, components: int) -> list[dict[str, Any]]:
    found = []
    for kind in KINDS:
        difference = ours(x, components, kind, PASSES) - sklearn(x, components, kind, PASSES)
        found.append(
            {
                "what": f"{name}, {components} components, {kind}: ours minus scikit-learn after "
                f"{PASSES} passes from one start",
                "text": f"{difference:+.1e} nats",
                "nats": difference,
                "bar": BAR_NATS,
                "met": abs(difference) <= BAR_NATS,
            }
        )
    return found


def main() -> None:
    options = harness.parser(__doc__, repeats=7).parse_args()
    if options.side:
        return serve(options)
    claims = equal("digits", digits(), 3) + equal("a mixture", made(2_000, 10, 5), 5)
    own = [sys.executable, __file__, "--threads", str(options.threads)]
    names = ("ours", "scikit-learn", "ours, whole fit", "scikit-learn, whole fit")
    sides = {name: [*own, "--side", name] for name in names}
    timed = harness.alternate({n: sides[n] for n in names[:2]}, options.repeats, options.threads)
    timed |= harness.alternate({n: sides[n] for n in names[2:]}, options.repeats, options.threads)
    result = {
        "unit": f"{TIMED} passes of EM, 100,000 x 20 rows, 10 full covariances; or a whole fit",
        "sides": {name: harness.summary(times) for name, times in timed.items()},
        "ours_over": {
            "scikit-learn, 20 passes": harness.ratio(
                timed["ours"], timed["scikit-learn"], BAR_TIME
            ),
            "scikit-learn, whole fit": harness.ratio(
                timed["ours, whole fit"], timed["scikit-learn, whole fit"]
            ),
        },
        "claims": claims,
    }
    harness.save("mixture_vs_sklearn", result, options)


if __name__ == "__main__":
    main()
