"""Files of options, contexts to draw by, masks, models to start from, and places to write to."""

import json

import pytest

from latently.interfaces.request import fit_flags

pytestmark = pytest.mark.slow

FIT = "fit vae --data {x} --latents 1 --net MLP(hidden=()) --epochs 1 --quiet"
HERE = FIT + " --out {out}/m.safetensors"
TOML = """
latents = 1
net = "MLP(hidden=(4,))"
epochs = 1
batch-size = 100
learning-rate = 0.001
quiet = true
validation = 0.2
bound = "IWAE"
samples = 2
"""
BROKEN = [
    *("[", "a", "a =", "= 1", "a = 1 b = 2", "a = 'x", "epochs = 1\nepochs = 2", "[a]\n[a]", "\0"),
    *("a = [" * 900, "a = " + "[" * 5000, "\xff", "a = 1e", "a = 0x", "a = 1979-99-99", "\ufeff["),
]
STRANGE = [
    *("colour = 3", "shape = [3]", "model = 1", "config = 'x.toml'", "--epochs = 1", "'' = 1"),
    *("'a b' = 1", '"\\n" = 1', "[training]\nepochs = 1", "epochs.more = 1", "[[epochs]]\na = 1"),
    *("no-quiet = true\nquiet = true", "no-epochs = true", "batch_size = 3\nbatch-size = 3"),
    *("EPOCHS = 1", "epoch = 1", "data = 'x'\ndata = 'y'", "latents-2 = 1"),
]
VALUES = [
    *("inf", "nan", "-1", "'x'", "[]", "[[1]]", "[1, 'a']", "1979-05-27", "1979-05-27T07:32:00"),
    *("07:32:00", "{ a = 1 }", "''", "1e300", "0", "-0.0", "0.5", "true", "false", "[true]"),
    *('"\\u0000"', '"\\u001b[31m"', "9223372036854775808", "1" * 200, "'''\n'''", "['MLP']"),
]
NAMES = sorted(
    {f.name for f in fit_flags("vae")} - {"epochs", "steps", "config", "data", "out", "compile"}
)


@pytest.fixture
def configured(judge, words, tmp_path):
    """Judges a fit with a file of options."""

    def call(text, start=FIT):
        path = tmp_path / "run.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return judge(*words(start + " --out {out}/m.safetensors"), "--config", path)

    return call


@pytest.mark.parametrize("text", [*BROKEN, *STRANGE])
def test_files_of_options(configured, text):
    assert configured(text.encode("latin-1", "replace")).code == 2


@pytest.mark.parametrize("name", NAMES)
def test_values_in_files_of_options(configured, some, name):
    for value in some(4, VALUES, name):
        configured(f"{name.replace('_', '-')} = {value}", "fit vae --data {x} --epochs 1")


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_of_options(configured, edited, seed):
    configured(edited(TOML, seed).encode(), "fit vae --data {x}")


CONTEXTS = ["", "x", "each", "-1", "3", "1.5", "nan", "inf", "1e999", "1,2", ",", "1,", "[1]", "٣"]
CONTEXTS += [
    "9" * 5000,
    "0x1",
    "1_0",
    "None",
    "\udcff",
    "\x1b[31m",
    "1;2",
    "label",
    "1" + "," * 9000,
]


@pytest.mark.parametrize("value", CONTEXTS)
@pytest.mark.parametrize("model", ["m", "label", "age", "fa"])
def test_contexts_to_draw_by(judge, words, model, value):
    call = words(f"sample {{small}}/{model}.safetensors -n 3 --out {{out}}/s.csv")
    ran = judge(*call, f"--context={value}")
    assert ran.code == 2 or model in ("label", "age")


@pytest.mark.parametrize("model", ["label", "age"])
def test_a_context_is_needed(judge, words, small, model):
    judge.refused(*words(f"sample {{small}}/{model}.safetensors --out {{out}}/s.csv"))
    rows = small / "holes.npz"
    judge.refused(*words(f"score {{small}}/{model}.safetensors --out {{out}}/s.csv --data"), rows)


@pytest.mark.parametrize(
    "mask",
    [
        *("Half", "Box", "MCAR(0)", "MCAR(1)", "MCAR(-1)", "MCAR(nan)", "MCAR(True)", "MCAR('a')"),
        *("MCAR(1, 2)", "Half('middle')", "Half(3)", "Box(2)", "Box(())", "Mask", "Mask()"),
        *("MCAR(1e-400)", "MLP", "", "()", "MCAR(", "MCAR()()", "MCAR().share", "mcar"),
        *("lambda: 0", "MCAR, MCAR", "[MCAR]", "(MCAR,)", "0.5", "MCAR(share=0.5, share=0.5)"),
    ],
)
def test_masks(judge, words, mask):
    for verb in (HERE, "encode {m} --data {x} --out {out}/z.csv", "evaluate {m} --data {x}"):
        judge.refused(*words(verb), f"--mask={mask}")


STARTS = ["m --latents 3", "label", "fa", "m --net MLP(hidden=(5,))", "m --prior VampPrior"]
STARTS += ["m --likelihood FixedNormal", "m --context label", "label --context age", "no"]


@pytest.mark.parametrize("words_of", STARTS)
def test_models_to_start_from(judge, words, words_of):
    name, _, more = words_of.partition(" ")
    call = f"fit vae --data {{x}} --epochs 1 --quiet --out {{out}}/o.safetensors {more}"
    judge.refused(*words(f"{call} --init {{small}}/{name}.safetensors"))


PLACES = {
    "suffix": "{out}/m.npz",
    "no-suffix": "{out}/m",
    "folder": "{out}",
    "nothing": "",
    "root": "/",
    "file-as-folder": "{x}/m.safetensors",
    "device": "/dev/null",
    "device-as-folder": "/dev/null/m.safetensors",
    "process": "/proc/m.safetensors",
    "deep-in-process": "/proc/a/b/m.safetensors",
    "long": "{out}/" + "a" * 300 + ".safetensors",
    "long-path": "{out}/" + "a/" * 4000 + "m.safetensors",
    "only-suffix": "{out}/.safetensors",
    "nobody": "~nobody-of-this-name/m.safetensors",
    "there": "{m}",
    "model-of-others": "{x}",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("flags", [[], ["--force"], ["--resume"], ["--resume", "--force"]])
def test_places_to_write_to(judge, words, small, place, flags):
    if place == "there" and flags == ["--force"]:
        pytest.skip("this is what --force is for")
    before = {path: path.read_bytes() for path in small.iterdir()}
    judge.refused(*words(FIT), *flags, *words(f"--out={PLACES[place]}"))
    assert {path: path.read_bytes() for path in small.iterdir()} == before


@pytest.mark.parametrize("place", [p for p in PLACES if p != "there" and "process" not in p])
@pytest.mark.parametrize(
    "verb", ["sample {m} -n 2", "encode {m} --data {x}", "report {m} --data {x}"]
)
def test_places_of_arrays_and_pages(judge, words, place, verb):
    where = PLACES[place].replace(".safetensors", ".txt").replace("m.npz", "m.pdf")
    judge.refused(*words(verb), *words(f"--out={where}"))
    if ".safetensors" in PLACES[place] and place not in ("only-suffix",):
        suffix = ".html" if verb.startswith("report") else ".csv"
        where = PLACES[place].replace(".safetensors", suffix)
        judge.refused(*words(verb), "--samples=2", *words(f"--out={where}"))


@pytest.mark.parametrize("end", ["/m.safetensors.checkpoint", "/.m.safetensors.checkpoint.lock"])
@pytest.mark.parametrize("flags", [[], ["--force"], ["--resume"]])
def test_places_that_are_taken(judge, words, tmp_path, end, flags):
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / end[1:]).mkdir()
    judge.refused(*words(FIT), "--out", folder / "m.safetensors", *flags)


@pytest.mark.parametrize("card", ["nope", "", "..", "a" * 999, "digits-vae.json", "\x1b", "*"])
def test_cards(judge, card):
    judge.refused("reproduce", "--quick", "--", card)


def test_json_of_refusals_is_none(judge, words):
    ran = judge.refused(*words("evaluate {m} --data no.npz --json"))
    with pytest.raises(json.JSONDecodeError):
        json.loads(ran.out)
