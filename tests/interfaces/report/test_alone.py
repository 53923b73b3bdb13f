"""A column by itself: against maxima of likelihood in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latently.data import Data
from latently.interfaces.report.alone import alone


def frame(n=400):
    rng = np.random.default_rng(0)
    columns = {
        "number": rng.normal(5, 3, n),
        "amount": np.exp(rng.normal(2, 0.7, n)),
        "name": np.array(["a", "b", "c"], object)[rng.integers(0, 3, n)],
    }
    kinds = {"number": "real", "amount": "positive", "name": "categorical"}
    return Data.from_frame(columns, kinds=kinds), columns


def test_each_column_has_its_maximum_of_likelihood():
    data, columns = frame()
    found = alone(data, data).numpy()
    x = columns["number"]
    assert data.table.columns[0].likelihood == "Normal"
    assert found[:, 0] == pytest.approx(stats.norm(x.mean(), x.std()).logpdf(x), abs=1e-3)
    assert data.table.columns[1].likelihood == "LogNormal"
    logs = np.log(columns["amount"])
    known = stats.norm(logs.mean(), logs.std()).logpdf(logs) - logs
    assert found[:, 1] == pytest.approx(known, abs=1e-3)
    codes = data.x[:, 2].long()
    counts = torch.bincount(codes).double() + 0.5
    assert found[:, 2] == pytest.approx((counts / counts.sum()).log()[codes].numpy())


def test_missing_cells_have_none_and_do_not_count():
    data, columns = frame()
    holed = dict(columns)
    holed["number"] = columns["number"].astype(object)
    holed["number"][::2] = None
    x = Data.from_frame(holed, schema=data.table)
    found = alone(x, x).numpy()[:, 0]
    assert np.isnan(found[::2]).all()
    seen = columns["number"][1::2]
    assert found[1::2] == pytest.approx(stats.norm(seen.mean(), seen.std()).logpdf(seen), abs=1e-3)


def test_rows_may_be_scored_by_what_others_say():
    data, _ = frame()
    found = alone(data.rows(slice(0, 3)), data)
    assert found.shape == (3, 3)
    assert found == pytest.approx(alone(data, data)[:3].numpy(), abs=1e-9)
    assert math.isfinite(float(found.sum()))
