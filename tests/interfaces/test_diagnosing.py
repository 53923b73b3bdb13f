"""`latently diagnose`: every part answers or says why not; text, JSON and page agree."""

import json
import math

import pytest

from latently.interfaces.diagnosing import PARTS

QUICK = ("--rows", 3, "--method", "AIS(steps=15, chains=4)")


@pytest.fixture(scope="module")
def asked(made, done):
    def call(name, spec, *words):
        return done("diagnose", made / f"{name}.safetensors", "--data", spec, *words)

    return call


@pytest.fixture(scope="module")
def found(asked):
    """Everything there is to say of a small VAE of digits."""
    return json.loads(asked("vae", "digits", *QUICK, "--json"))


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_every_part_answers_or_says_why_not(found):
    assert list(found["parts"]) == list(PARTS)
    silent = {name for name, part in found["parts"].items() if "unavailable" in part}
    assert silent == {"factors"}
    assert "--factors" in found["parts"]["factors"]["unavailable"]
    assert finite(found)
    assert found["protocol"] == "digits/test"
    assert found["n"] == 360


def test_parts_agree_where_they_say_the_same(found):
    latents, gaps = found["parts"]["latents"], found["parts"]["gaps"]
    total = gaps["approximation"]["value"] + gaps["amortisation"]["value"]
    assert gaps["total"]["value"] == pytest.approx(total)
    assert latents["elbo"]["value"] == pytest.approx(
        -latents["rate"]["value"] - latents["distortion"]["value"]
    )
    assert gaps["protocol"] == "digits/test, 3 of 360 rows"
    assert gaps["fitted_rows"]["protocol"].startswith("digits/train, 3 of ")
    first, second = (found["parts"]["opinion"][key] for key in ("first", "second"))
    assert first["method"].startswith("IWAE")
    assert second["method"].startswith("AIS")
    assert first["protocol"] == second["protocol"]
    difference = found["parts"]["opinion"]["difference"]["value"]
    assert difference == pytest.approx(second["nats"] - first["nats"])
    assert all(kind["level"] in ("alarm", "note") for kind in found["findings"])
    assert {kind["part"] for kind in found["findings"]} <= set(PARTS)


def test_text_holds_every_part_and_finding(asked):
    text = asked("vae", "digits", *QUICK, "--parts", "opinion,latents")
    assert text.index(PARTS["latents"].title) < text.index(PARTS["opinion"].title)
    assert PARTS["gaps"].title not in text
    assert "nats" in text


def test_the_page_tells_it_all(asked, made, tmp_path, found):
    out = tmp_path / "page.html"
    words = ("--data-dir", made, "--out", out)
    printed = asked("vae", "digits", *QUICK, *words)
    assert f"wrote {out}" in printed
    page = out.read_text()
    for part in PARTS.values():
        assert part.title in page
    assert page.count("<svg") == 5  # latents, gaps, opinion, bracket, curve
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Not available: nobody says what the factors" in page


def test_json_beside_a_page_stays_json(asked, tmp_path):
    words = ("--parts", "latents", "--json", "--out", tmp_path / "a.html")
    assert json.loads(asked("vae", "digits", *words))["parts"].keys() == {"latents"}
    assert (tmp_path / "a.html").exists()


def test_exact_models_have_no_gap_and_say_so(asked, made):
    found = json.loads(asked("lines", made / "real.npz", *QUICK, "--json"))["parts"]
    assert "exact" in found["gaps"]["unavailable"]
    assert found["opinion"]["first"]["kind"] == "exact"
    assert found["opinion"]["second"]["kind"] == "lower_bound"
    assert found["latents"]["elbo"]["kind"] == "exact"


def test_rows_with_holes(asked, made):
    found = json.loads(asked("holes", made / "holes.npz", *QUICK, "--json"))["parts"]
    assert "missing cells" in found["samples"]["unavailable"]
    assert all(name in found["gaps"] for name in ("log_p", "total"))


def test_counted_latents_have_no_chains(done, asked, made):
    words = "--data digits --latents 4 --posterior Bernoulli --prior Standard --epochs 1 --quiet"
    net = "MLP(hidden=(8,))"
    out = made / "counted.safetensors"
    words = [*words.split(), "--estimator", "Enumerate", "--net", net, "--out", out]
    done("fit", "vae", *words)
    found = json.loads(asked("counted", "digits", *QUICK, "--json"))["parts"]
    silent = {name for name, part in found.items() if "unavailable" in part}
    assert silent == {"opinion", "bracket", "curve", "factors"}
    assert "Enumeration" in found["opinion"]["unavailable"]
    assert found["gaps"]["log_p"]["kind"] == "exact"


def test_known_factors(done, asked, made):
    out = made / "drawn.safetensors"
    words = "--data factors --latents 3 --net MLP(hidden=(8,)) --epochs 1 --quiet".split()
    done("fit", "vae", *words, "--out", out)
    whole = json.loads(asked("drawn", "factors", "--parts", "factors", "--json"))
    assert len(whole["parts"]["factors"]["mig"]["best"]) == 5
    words = ("--factors", "size,x", "--parts", "factors", "--json")
    some = json.loads(asked("drawn", "factors", *words))
    assert len(some["parts"]["factors"]["mig"]["best"]) == 2


def test_rows_of_the_fit_are_named(asked):
    found = json.loads(
        asked("vae", "digits/train", "--parts", "latents", "--json", "--train", "digits/train")
    )
    assert [f for f in found["findings"] if f["name"] == "rows of the fit"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--parts", "latnets"), ("latnets", "latents")),
        (("--parts", "factors"), ("--factors",)),
        (("--rows", 1), ("--rows 1", "at least 2")),
        (("--method", "ImportanceSampling(5)"), ("AIS",)),
        (("--method", "AIS(steps=0)"), ("steps=0",)),
        (("--factors", "hue"), ("hue",)),
        (("--train", "mnist/train"), ("mnist",)),
        (("--out", "x.txt"), ("x.txt", ".html")),
    ],
)
def test_mistakes_get_one_line(rejected, made, words, expected):
    rejected(["diagnose", made / "vae.safetensors", "--data", "digits", *words], *expected)


def test_a_single_row_is_refused(rejected, made):
    words = ["diagnose", made / "real.safetensors", "--data", made / "row.npz"]
    rejected(words, "one row")


def test_the_default_reads_no_rows_of_other_files(asked, made):
    """Of a file of one's own nobody knows which rows it was fitted to, so nothing is compared."""
    found = json.loads(asked("real", made / "real.npz", "--parts", "gaps", "--rows", 2, "--json"))
    assert found["parts"]["gaps"]["fitted_rows"] is None
