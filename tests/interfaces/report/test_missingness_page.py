"""Pages and diagnoses of models of what is missing: of the rows, and of latents alone."""

import csv

import numpy as np
import pytest

FIT = "--steps 30 --quiet --net MLP(hidden=(8,)) --latents 2 --samples 2"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A table whose high values are lost, and the same without holes."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("missingness")
    z = rng.normal(size=120)
    x = np.column_stack([z + 0.5 * rng.normal(size=120) for _ in range(3)])
    for name, lost in (("cut", x[:, 2] > 0.7), ("whole", x[:, 2] > np.inf)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["a", "b", "y"])
            for k, (a, b, y) in enumerate(x):
                rows.writerow([f"{a:.2f}", f"{b:.2f}", "" if lost[k] else f"{y:.2f}"])
    return folder


@pytest.fixture(scope="module")
def model(tables, done):
    out = tables / "m.safetensors"
    how = ("--missingness", "SelfMasking(sign='above')", "--out", out)
    done("fit", "table", "--data", tables / "cut.csv", *FIT.split(), *how)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["cut", "whole"])
def test_it_has_a_page(tables, model, done, tmp_path, rows):
    out = tmp_path / "page.html"
    done("report", model, "--data", tables / f"{rows}.csv", "--samples", 10, "--out", out)
    text = out.read_text()
    assert "Latents in use" in text
    assert "log p(x, s)" in text


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["cut", "whole"])
def test_it_is_diagnosed(tables, model, done, tmp_path, rows):
    out = tmp_path / "page.html"
    told = done("diagnose", model, "--data", tables / f"{rows}.csv", "--rows", 3, "--out", out)
    assert "active" in told.lower()
    assert out.exists()
