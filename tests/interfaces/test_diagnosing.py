"""`latently diagnose`: every part answers or says why not; text, JSON and page agree."""

import json
import math

import numpy as np
import pytest

from latently.interfaces.diagnosing import PARTS

QUICK = ("--rows", 3, "--method", "AIS(steps=15, chains=4)")


@pytest.fixture(scope="module")
def asked(made, done):
    def call(name, spec, *words):
        return done("diagnose", made / f"{name}.safetensors", "--data", spec, *words)

    return call


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnosed") / "page.html"


@pytest.fixture(scope="module")
def found(asked, made, page):
    """Everything there is to say of a small VAE of digits, on a page, too."""
    words = ("--data-dir", made, "--out", page, "--json")
    return json.loads(asked("vae", "digits", *QUICK, *words))


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.slow
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


def test_the_page_tells_it_all(page, found):
    page = page.read_text()
    for part in PARTS.values():
        assert part.title in page
    assert page.count("<svg") == 5  # latents, gaps, opinion, bracket, curve
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Not available: nobody says what the factors" in page


def test_the_page_names_the_call_that_makes_it_again(asked, tmp_path):
    words = ("--parts", "latents", "--rows", 7, "--seed", 3, "--train", "digits/train")
    out = tmp_path / "a.html"
    assert f"wrote {out}" in asked("vae", "digits", *words, "--mask", "MCAR(0.5)", "--out", out)
    page = tmp_path.joinpath("a.html").read_text()
    for word in ("--parts latents", "--rows 7", "--seed 3", "--train digits/train", "MCAR(0.5)"):
        assert word in page


def test_a_part_that_fails_costs_no_other(cli, made, tmp_path):
    """What was found before is printed and written; the call still fails, as it was asked for."""
    np.savez(tmp_path / "equal.npz", x=np.zeros((60, 4), "float32"))
    out = tmp_path / "a.html"
    words = ["diagnose", made / "real.safetensors", "--data", tmp_path / "equal.npz"]
    ran = cli(*words, "--parts", "latents,samples", "--json", "--out", out)
    assert ran.code == 2
    assert "--parts samples" in ran.err
    found = json.loads(ran.out)["parts"]
    assert "elbo" in found["latents"]
    assert "unavailable" in found["samples"]
    assert out.exists()


def test_parts_may_end_in_a_comma(asked):
    assert json.loads(asked("vae", "digits", "--parts", "latents,", "--json"))["parts"]


def test_values_beyond_all_bounds_blame_nobody(asked, made, tmp_path):
    """Neither the decoder nor q's family is at fault where nothing is finite."""
    rows = np.load(made / "real.npz")["x"]
    np.savez(tmp_path / "huge.npz", x=rows[:9] * 1e30)
    words = (*QUICK, "--parts", "latents,gaps", "--json")
    found = json.loads(asked("real", tmp_path / "huge.npz", *words))
    assert [one["name"] for one in found["findings"]] == ["not finite"]


def test_noise_of_the_model_is_not_blamed_on_the_posterior(asked):
    """The posterior of z of factor analysis is exact: a richer family cannot help."""
    found = json.loads(asked("fa", "digits", *QUICK, "--parts", "gaps", "--json"))
    (blamed,) = (one["text"] for one in found["findings"])
    assert "none to q, which is exact given the noise" in blamed
    assert "FlowNormal" not in blamed


def test_the_compared_rows_have_their_names(asked, made):
    """Rows asked about need not be of a test set."""
    words = (*QUICK, "--parts", "gaps", "--train", made / "real.npz/train")
    text = asked("real", made / "real.npz/validation", *words)
    assert "these rows minus those of the fit" in text
    assert "test minus train" not in text
    assert "real.npz/validation, 3 of 6 rows, nats a row" in text


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


def test_a_flow_is_asked_what_it_can_answer(done, asked, made):
    """It has no latents; of integers its noise is annealed."""
    small, whole = made / "columns.safetensors", made / "flow.safetensors"
    words = ("--epochs", 1, "--quiet", "--out")
    done("fit", "flow", "--data", made / "real.npz", *words, small)
    glow = "Glow(scales=1, steps=1, hidden=4)"
    done("fit", "flow", "--data", "digits", "--flow", glow, *words, whole)
    found = json.loads(asked("columns", made / "real.npz", *QUICK, "--json"))["parts"]
    for name in ("latents", "opinion", "bracket", "curve"):
        assert "no latents" in found[name]["unavailable"]
    found = json.loads(asked("flow", "digits", *QUICK, "--json", "--parts", "opinion"))
    assert found["parts"]["opinion"]["second"]["kind"] == "lower_bound"


def test_known_factors(done, asked, made):
    out = made / "drawn.safetensors"
    words = "--data factors --latents 3 --net MLP(hidden=(8,)) --epochs 1 --quiet".split()
    done("fit", "vae", *words, "--out", out)
    whole = json.loads(asked("drawn", "factors", "--parts", "factors", "--json"))
    assert len(whole["parts"]["factors"]["mig"]["best"]) == 5
    words = ("--factors", "size,x", "--parts", "factors", "--json")
    some = json.loads(asked("drawn", "factors", *words))
    assert len(some["parts"]["factors"]["mig"]["best"]) == 2
    assert some["parts"]["factors"]["names"] == ["size", "x"]
    assert "size z[" in asked("drawn", "factors", *words[:-1])


@pytest.mark.slow
def test_conditional_models_say_what_is_given(done, asked, made):
    out = made / "given.safetensors"
    words = "--data digits --context label --latents 2 --net MLP(hidden=(8,)) --epochs 1 --quiet"
    done("fit", "vae", *words.split(), "--out", out)
    text = asked("given", "digits", *QUICK, "--parts", "gaps,opinion,bracket")
    assert "log p(x|label)" in text
    assert "log p(x|c)" in text  # of rows that the model drew
    assert "log p(x) " not in text.replace(PARTS["gaps"].title, "").replace(
        PARTS["opinion"].about, ""
    ).replace(PARTS["bracket"].about, "")


def test_rows_of_the_fit_are_named(asked):
    found = json.loads(
        asked("vae", "digits/train", "--parts", "latents", "--json", "--train", "digits/train")
    )
    assert [f for f in found["findings"] if f["name"] == "rows of the fit"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--parts", "latnets"), ("latnets", "latents")),
        (("--parts", "latents,factors"), ("--factors",)),
        (("--parts", " , "), ("--parts", "latents")),
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
