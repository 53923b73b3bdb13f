"""Tables of many kinds of columns."""

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(params=["pandas", "polars"])
def library(request):
    return pytest.importorskip(request.param)


@pytest.fixture(scope="session")
def people():
    """200 rows: age and city hang together, some cells are None."""
    draw, n = np.random.default_rng(0), 200
    city = draw.choice(["Bonn", "Oslo", "Rome"], n, p=[0.5, 0.3, 0.2])
    age = draw.poisson(np.select([city == "Bonn", city == "Oslo"], [20, 40], 60))
    columns = {
        "height": np.round(draw.normal(170, 10, n), 1).tolist(),
        "age": age.tolist(),
        "city": city.tolist(),
        "member": draw.random(n) < 0.4,
        "joined": (np.datetime64("2020-01-01") + draw.integers(0, 900, n)).astype("M8[us]"),
    }
    columns["height"][3] = columns["city"][5] = columns["age"][7] = None
    return SimpleNamespace(columns=columns, city=city, age=age)
