"""Mistakes of every kind: one line that names what and the fix, exit 2, nothing lost."""

import json
import math

import pytest
import torch

from latently import save
from latently.interfaces import output
from latently.interfaces.memory import check_memory, is_out_of_memory
from latently.io import describe, load
from latently.training.files import named_tensors, write_tensors

VAE = "vae --data digits --epochs 1 --quiet --out {o}"
FLOW = "flow --data {made}/real.npz --epochs 1 --quiet --out {o}"
MIXTURE = "mixture --data {made}/real.npz --quiet --out {o}"
TINY = VAE + " --latents 2 --net MLP(hidden=(4,))"

# The words after `latently fit`, and what the line must say.
FIT = {
    # recipe, data, out
    "vea": "unknown recipe 'vea'; did you mean vae?",
    "--data digits": "name a recipe first",
    "vae": "needs --data",
    "vae --data digits": "needs --out",
    "vae --data": "--data needs a value",
    "vae --data digit --out {o}": "no data set is called 'digit'; did you mean digits?",
    "vae --data= --out {o}": "no data set is called ''; known: cifar10, digits, factors, fashion",
    "vae --data digits/test --out {o}": "held out for evaluation",
    "vae --data digits/tets --out {o}": "did you mean test?",
    "vae --data mnist --out {o}": "choose mnist:binary-dynamic",
    "vae --data {tmp}/no.npz --out {o}": "no such file",
    "vae --data {tmp} --out {o}": "no pictures in it or in its sub-folders",
    "vae --data {made}/inf.npz --out {o}": "inf at row 1, column 1",
    "vae --data {made}/empty.npz --out {o}": "empty (shape (0, 3))",
    "vae --data {made}/words.npz --out {o}": "holds text",
    "vae --data {made}/objects.npz --out {o}": "pickled Python objects, which are never",
    "vae --data {made}/vector.npy --out {o}": "x.reshape(-1, 1) is one column",
    "vae --data {made}/nothing.npz --out {o}": "has no observed value at all",
    "fa --data {made}/nothing.npz --latents 1 --out {o}": "has no observed value at all",
    "fa --data {made}/unseen.npz --latents 1 --out {o}": "column 1 has no observed value",
    "fa --data {made}/vast.npz --latents 1 --out {o}": "rescale the columns",
    "ppca --data {made}/vast.npz --latents 1 --out {o}": "rescale the columns",
    "vae --data digits --out {tmp}": "is a folder; name a file",
    "vae --data digits --out=": "is a folder; name a file",
    "vae --data digits --out {made}/real.npz --force": "end the name in .safetensors",
    "vae --data digits --out {made}/fa.safetensors": "exists; choose another --out, or --force",
    "vae --data digits --out {made}/real.npz/o.safetensors": "real.npz is a file, not a folder",
    # the form of options
    VAE + " extra": "unexpected 'extra'; options start with --",
    VAE + " -n 3": "unknown option -n; known: --accumulate, --batch-size",
    VAE + " --beta 4": "unknown option --beta; did you mean --bound 'ELBO(beta=4.0)'?",
    VAE + " --hidden 64": "did you mean --net 'MLP(hidden=(256, 256))'?",
    VAE + " --bath-size 3": "unknown option --bath-size; did you mean --batch-size",
    VAE + " --latents": "--latents needs a value: number of latents",
    VAE + " --latents 2 --latents 3": "--latents is given twice",
    VAE + " --latents=2 --latents=3": "--latents is given twice",
    VAE + " --force=1": "--force takes no value",
    VAE + " --no-latents": "--latents cannot be negated; leave it out",
    VAE + " --sees-mask yes": "unexpected 'yes'",
    VAE + " --resume --force": "give one of them",
    # numbers
    VAE + " --latents two": "--latents 'two': expected a whole number or a shape such as (8, 4)",
    VAE + " --latents 1e9": "expected a whole number",
    VAE + " --latents True": "expected a whole number",
    VAE + " --latents=": "expected a whole number",
    VAE + " --latents -1": "latents=-1 must be at least 1",
    VAE + " --latents (2,0)": "latents=(2, 0) must be at least 1",
    VAE + " --latents 9999999999": "memory here; lower --latents",
    VAE + " --latents (9999999999999,9999999999999)": "build no model",
    VAE + " --seed -1": "--seed -1 must be from 0 to 2^63 - 1",
    VAE + " --seed 9223372036854775808": "must be from 0 to 2^63 - 1",
    VAE + " --seed 1.5": "--seed '1.5': expected a whole number",
    VAE + " --steps 3": "as epochs or as steps, one of them",
    VAE + " --batch-size 0": "batch_size=0 must be at least 1",
    VAE + " --learning-rate 0": "learning_rate=0 must be positive",
    VAE + " --learning-rate -1": "learning_rate=-1 must be positive",
    VAE + " --learning-rate 1e400": "expected a number or one of the schedules: Cosine, Linear",
    VAE + " --learning-rate nan": "expected a number or one of the schedules: Cosine, Linear",
    VAE + " --learning-rate 1e30": "training became non-finite in epoch 1",
    VAE + " --learning-rate Cosin(start=1)": "did you mean Cosine?",
    VAE + " --learning-rate Cosine": "missing a required argument: 'start'",
    VAE + " --learning-rate Cosine(strat=1)": "takes no option 'strat'; did you mean start?",
    VAE + " --learning-rate Cosine(start=-1)": "is -1 in step 1",
    VAE + " --learning-rate Cosine(start='a')": "start='a' must be a finite number",
    VAE
    + " --learning-rate Linear(0.1,1e400)": "inf has no call expression; options must be finite",
    VAE + " --learning-rate Linear(0.1,0,steps=0.5)": "steps=0.5 must be a whole number",
    VAE + " --checkpoint-seconds 1e400": "--checkpoint-seconds '1e400': expected a number",
    VAE + " --checkpoint-seconds soon": "expected a number",
    VAE + " --samples 0": "samples=0 must be at least 1",
    VAE + " --samples 9999999999": "lower --samples or --batch-size",
    VAE + " --patience 0": "patience needs validation data and a value of at least 1",
    VAE + " --validation 0 --patience 3": "patience needs validation data",
    VAE + " --validation 0.5": "digits has its own validation split",
    VAE + " --validation digits": "these are the training data",
    VAE + " --validation digits/test": "test rows that choose the epoch test nothing",
    "vae --data {made}/real.npz --validation 2 --out {o}": "lies between 0 and 1",
    "vae --data {made}/real.npz --validation nan --out {o}": "lies between 0 and 1",
    "vae --data {made}/real.npz --validation 0.999 --out {o}": "leaves none to fit on",
    VAE + " --threads 0": "--threads 0 must be from 1 to 1024",
    VAE + " --threads 100000": "--threads 100000 must be from 1 to 1024",
    # what the machine has
    VAE + " --device tpu": "device 'tpu': did you mean cpu?",
    VAE + " --device cuda:7": "device 'cuda:7': did you mean cuda?",
    VAE + " --device=": "known: auto, cpu, cuda, mps",
    VAE + " --precision 16-true": "precision '16-true': did you mean",
    VAE + " --precision 8": "known: 16-mixed, 32-true, 64-true, bf16-mixed, bf16-true",
    VAE + " --device cpu --precision 16-mixed": "needs a CUDA device; use 'bf16-mixed'",
    # components
    VAE + " --likelihood Bernouli": "did you mean Bernoulli?",
    VAE + " --likelihood MLP": "expected one of the families: Bernoulli",
    VAE
    + " --likelihood Bernoulli": "these data fit --likelihood 'DiscretizedLogistic(levels=17)'",
    VAE + " --likelihood DiscretizedLogistic(levels=5)": "outside whole numbers 0 to 4",
    VAE + " --likelihood DiscretizedLogistic(levels='a')": "build no model",
    VAE + " --likelihood FixedNormal(std=-1)": "std=-1 must be a positive number",
    VAE + " --likelihood Normal(shape=3)": "Normal takes no option 'shape'",
    VAE + " --posterior Bernoulli": "StandardNormal is over finite numbers",
    VAE + " --posterior OneHot --prior Standard": "choose a posterior such as Normal",
    VAE + " --posterior OneHot --prior LearnedNormal": "rows of zeros with one 1; choose prior=",
    VAE + " --posterior Bernoulli --prior Standard --estimator GumbelSoftmax(temperature=0.0)": (
        "temperature=0.0"
    ),
    VAE + " --estimator REBAR(temperature=-1)": "temperature=-1",
    VAE + " --estimator GumbelSoftmax": "Normal",
    VAE + " --estimator Enumerate": "takes infinitely many values",
    VAE + " --latents 13 --posterior Bernoulli --prior Standard --estimator Enumerate": "2^13",
    VAE + " --estimator STL --bound IWAE": "STL is biased for IWAE()",
    VAE + " --estimator DReG": "DReG is biased for ELBO",
    VAE + " --estimator Score --bound IWAE --samples 4": "IWAE",
    VAE + " --estimator Score": "samples=1: Score needs at least 2 draws",
    VAE + " --estimator VIMCO --bound ELBO(beta=2.0) --samples 4": "VIMCO",
    VAE + " --bound MultiplyIWAE(groups=4) --samples 2": "samples=2 cannot be shared equally",
    VAE + " --estimator PIWAE(groups=4) --bound IWAE --samples 6": "groups=4",
    VAE + " --bound ELBO(free_bits=0.1) --posterior MultivariateNormal": "independent cells",
    VAE + " --likelihood Beta": "numbers between 0 and 1, both excluded",
    VAE + " --likelihood OneHot": "these data fit --likelihood 'DiscretizedLogistic(levels=17)'",
    VAE + " --prior FlowPrior(flow=3)": "flow",
    VAE + " --prior Vamp": "did you mean VampPrior?",
    VAE + " --prior VampPrior(components=0)": "components=0 must be at least 1",
    VAE + " --prior VampPrior(components=9999999999)": "memory here",
    VAE + " --prior VampPrior(components=10**9)": "BinOp is not allowed",
    VAE + " --net MPL": "did you mean MLP?",
    VAE + " --net Adam": "expected one of the nets: Conv, MLP, ResNet",
    VAE + " --net MLP(hidden=(8,)": "'(' was never closed",
    VAE + " --net MLP(hidden=(0,))": "must hold whole numbers of at least 1",
    VAE + " --net MLP(hidden=(9999999,9999999))": "memory here; lower --latents, or the widths",
    VAE + " --net MLP(hidden=None)": "build no model",
    VAE + " --net MLP(activation=MLP)": "build no model",
    VAE + " --net MLP(activation=3)": "build no model",
    VAE + " --net MLP(dropout='a')": "build no model",
    VAE + " --net __import__('os')": "expected one of the nets: Conv, MLP, ResNet",
    VAE + " --bound IWEA": "did you mean IWAE or CIWAE?",
    VAE + " --bound ELBO(beta=-1)": "beta=-1 must be a number of at least 0",
    VAE + " --bound ELBO(beta='a')": "beta='a' must be a number of at least 0",
    VAE + " --bound ELBO(beta=1e400)": "inf has no call expression; options must be finite",
    VAE + " --estimator DReG": "DReG is biased for ELBO; use bound=IWAE or estimator=Reparam",
    VAE + " --optimizer Adm": "did you mean Adam",
    VAE + " --optimizer Adam(foo=1)": "Adam takes no option 'foo'",
    VAE + " --optimizer Adam(lr=3)": "lr=3 is set by learning_rate",
    VAE + " --optimizer Adam(betas=(2,3))": "Adam: Invalid beta parameter",
    VAE + " --optimizer Adam(weight_decay='x')": "Adam: ",
    # flags that would do nothing
    "fa --data digits --steps 0 --out {o}": "steps=0 must be at least 1",
    "fa --data digits --tolerance -1 --out {o}": "tolerance=-1 must be a number of nats",
    VAE + " --tolerance 0.1": "--tolerance has no effect on vae",
    "fa --data digits --epochs 3 --out {o}": "--epochs has no effect: fa is fitted in closed",
    "fa --data digits --learning-rate 1.0 --out {o}": "--learning-rate has no effect",
    "ppca --data digits --bound IWAE --out {o}": "--bound has no effect",
    "ppca --data digits --samples 1 --out {o}": "--samples has no effect: ppca is fitted",
    "fa --data digits --latents 65 --out {o}": "must be between 1 and the 64 values of a row",
    "ppca --data {made}/column.npz --latents 1 --out {o}": "must be below the 1 values",
    FLOW + " --samples 5": "--samples has no effect: flow knows log p(x) of these rows exactly",
    FLOW + " --bound IWAE": "--bound has no effect: flow knows",
    # mixtures
    "mixture --data digits --context label --out {o}": (
        "no model of p(x|c); leave out --context, or choose one of fa,"
    ),
    MIXTURE + " --family Bits": "choose another --family, such as Diagonal",
    MIXTURE + " --family Full(prior=-1)": "Full: prior=-1 must be a number of at least 0",
    MIXTURE + " --family Full(prior=Linear(0,1))": "must be a number of at least 0",
    # files beside the model
    VAE + " --log=": "end the name in .csv",
    VAE + " --log {tmp}": "end the name in .csv",
    VAE + " --log {made}/real.npz": "end the name in .csv",
    VAE + " --log {o}": "end the name in .csv",
    VAE + " --log {made}/real.npz/h.csv": "is a file, not a folder",
}

M = "{made}/vae.safetensors"
HOLES = "{made}/gaps.safetensors --data {made}/holes.npz"
VERBS = {
    "evalute x": "No such command 'evalute'. Did you mean 'evaluate'?",
    "evaluate": "Missing argument 'MODEL'; see latently evaluate --help",
    "evaluate " + M: "Missing option '--data'",
    "evaluate " + M + " --data": "requires an argument",
    "evaluate " + M + " more --data digits": "unexpected extra argument",
    "evaluate " + M + " --data digits --jsn": "--json",
    "evaluate " + M + " --data digits --data digits": "--data is given twice",
    "evaluate " + M + " --data digits --samples 1e3": "'1e3' is not a whole number",
    "evaluate " + M + " --data digits --samples 0": "samples=0 must be",
    "evaluate " + M + " --data digits --samples 1000000000": "at most 100,000,000 are drawn",
    "evaluate " + M + " --data digits --seed -1": "-1 is not from 0 to 2^63 - 1",
    "evaluate " + M + " --data digits --seed 99999999999999999999": "is not from 0 to 2^63 - 1",
    "evaluate " + M + " --data digits --method Exact": "VAE has no exact density; use Importance",
    "evaluate "
    + M
    + " --data digits --method MLP": "known: AIS, Enumeration, Exact, ImportanceSampling",
    "evaluate " + M + " --data digits --method=": "cannot read ''",
    "evaluate " + M + " --data digits --method Exact --samples 2": "--samples or --method",
    "evaluate " + M + " --data digits --method ImportanceSampling(1.5)": "must be a whole number",
    "evaluate " + HOLES + " --method Exact(block=0)": "must be a whole number of at least 1",
    "evaluate " + M + " --data {made}/grey.npz": "is not one of the 17 levels 0..16",
    "evaluate " + M + " --data {made}/images.npz": "is not one of the 17 levels 0..16",
    "evaluate {made}/real.safetensors --data digits": "rows of shape (1, 8, 8), but the model",
    "evaluate {made}/real.safetensors --data {made}/real.npz/tset": "no split 'tset'; did you",
    "evaluate {made} --data digits": "Is a directory",
    "evaluate {made}/no.safetensors --data digits": "No such file",
    "evaluate {made}/real.npz --data digits": "is no model file, or is truncated",
    "evaluate ü --data digits": "cannot read ü: No such file",
    "show {made}/no.safetensors": "No such file",
    "show " + M + " --comand": "--command",
    "compare --data digits": "Missing argument",
    "compare " + M + " " + M + " --data digits": "is given twice; name each model once",
    "compare " + M + " {made}/real.safetensors --data digits": "rows of shape (1, 8, 8)",
    "sample " + M + " --out {tmp}/s.txt": "end the name in .png, .npz, .npy, .csv",
    "sample " + M + " --out=": "end the name in .png",
    "sample " + M + " --out {tmp}": "end the name in .png",
    "sample " + M + " --out {made}/real.npz/s.npz": "real.npz is a file, not a folder",
    "sample " + M + " --out {tmp}/s.npz -n 0": "-n 0 must be at least 1",
    "sample " + M + " --out {tmp}/s.npz -n x": "'x' is not a whole number",
    "sample " + M + " --out {tmp}/s.npz -n 10000000000": "draw fewer with -n",
    "sample " + M + " --out {tmp}/s.npz -n 99999999999999999999": "over a million GB",
    "sample " + M + " --out {tmp}/s.npz --seed -5": "is not from 0 to 2^63 - 1",
    "sample {made}/real.safetensors --out {tmp}/s.png": "rows of shape (4,) are no images",
    "encode " + M + " --data digits --out {tmp}/z.npy": "end the name in .npz, .csv",
    "score " + M + " --data digits --out {tmp}/z.html": "end the name in .csv, .npz",
    "impute " + M + " --data digits --out {tmp}/i.npz": "nothing to impute",
    "impute " + HOLES + " --out {tmp}/i.npz --draws 0": "--draws 0 must be at least 1",
    "impute " + HOLES + " --out {tmp}/i.npz --samples -3": "--samples -3 must be at least 1",
    "impute " + HOLES + " --out {tmp}/i.npz --draws 1000000000": "lower --draws",
    "impute " + HOLES + " --out {tmp}/i.npz --samples 9999999999": "lower --samples",
    "report " + M + " --data digits --out {tmp}/r.pdf": "end the name in .html",
    "report " + M + " {made}/real.safetensors --data digits --out {tmp}/r.html": "rows of shape",
    "list recipe": "unknown kind 'recipe'; did you mean recipes?",
    "list data more": "'data' has no members with options",
    "reproduce nope": "no card 'nope'; known: digits-best, digits-fa32",
    "reproduce digits-vae --out {made}/real.npz --quick": "is a file, not a folder",
    "demo --out {made}/real.npz": "is a file, not a folder",
    "demo --out=": "names no folder",
}


def words_of(text, made, tmp_path):
    places = {"made": made, "tmp": tmp_path, "o": tmp_path / "o.safetensors"}
    return [word.format(**places) for word in text.split()]


@pytest.mark.slow
@pytest.mark.parametrize("call", FIT)
def test_fit(rejected, made, tmp_path, call):
    rejected(["fit", *words_of(call, made, tmp_path)], FIT[call])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", VERBS)
def test_other_verbs(rejected, made, tmp_path, call):
    rejected(words_of(call, made, tmp_path), VERBS[call])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there(rejected, tmp_path):
    rejected(["fit", *words_of(VAE, "", tmp_path), "--device", "cuda"], "device 'cuda'", "cpu")


def test_a_folder_that_is_not_writable(rejected, made, tmp_path, monkeypatch):
    monkeypatch.setattr(output.os, "access", lambda *_: False)  # a superuser may write anywhere
    said = "is not writable by you; choose another"
    rejected(["fit", *words_of(VAE, made, tmp_path)], said)
    rejected(["sample", made / "vae.safetensors", "--out", tmp_path / "s.npz"], said)
    rejected(["demo", "--out", tmp_path], said)


def test_a_null_byte(rejected):
    rejected(["show", "a\0b"], "null byte")


def test_a_missing_compiler(rejected, made, tmp_path, monkeypatch):
    def without_compiler(module):
        def call(*_):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ...")

        module.forward = call
        return module

    monkeypatch.setattr(torch, "compile", without_compiler)
    rejected(["fit", *words_of(TINY, made, tmp_path), "--compile"], "install g++")


def test_memory():
    check_memory(10**6, "this", "no")
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


class TestModelFiles:
    """A model file is hostile until read."""

    @pytest.fixture
    def file(self, made, tmp_path):
        """Writes a changed copy of a model file, and gives the call that shows it is refused."""
        metadata, _ = describe(made / "vae.safetensors")
        tensors = named_tensors(load(made / "vae.safetensors"))

        def write(change=None, **keywords):
            path = tmp_path / "bad.safetensors"
            held = dict(tensors)
            if change:
                change(held)
            write_tensors(path, held, {**metadata, **keywords})
            return ["sample", path, "--out", tmp_path / "s.npz"]

        return write

    @pytest.mark.parametrize(
        ("metadata", "said"),
        [
            ({"latently": {"format": 99, "version": "9.9"}}, "newer than this"),
            ({"latently": {"format": "1"}}, "newer than this"),
            ({"latently": None}, "no latently model"),
            ({"call": 3}, "no latently model"),
            ({"call": "vea()"}, "unknown recipe 'vea'; did you mean vae?"),
            ({"call": "__import__('os').system('ls')"}, "unknown recipe"),
            ({"call": "vae(shape=(1, 8, 8), net=__import__('os'))"}, "__import__"),
            ({"call": "vae(shape=(1, 8, 8), net=MPL)"}, "did you mean MLP?"),
            ({"call": "vae(shape=(1, 8, 8), colour=3)"}, "colour"),
            ({"call": "vae(shape=(1, 8, 8), latents=10000000000)"}, "bad.safetensors"),
            ({"call": "vae(shape=(1, 8, 9), latents=2)"}, "damaged"),
            ({"call": "vae(" + "(" * 300}, "bad.safetensors"),
            ({"data": [1]}, "its 'data' record is damaged"),
        ],
    )
    def test_metadata(self, rejected, file, metadata, said):
        rejected(file(**metadata), said)

    def test_tensors(self, rejected, file):
        name = "decoder.net.layers.0.weight"
        rejected(file(lambda held: held.pop(name)), "lacks the tensor", name)
        rejected(file(lambda held: held.update(extra=torch.zeros(1))), "holds 'extra'")
        rejected(file(lambda held: held.update({name: torch.zeros(3)})), name, "(3,)")

    @pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
    def test_truncated(self, rejected, made, tmp_path, keep):
        content = (made / "vae.safetensors").read_bytes()
        keep = keep if isinstance(keep, int) else math.floor(keep * len(content))
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[:keep])
        rejected(["show", path], "cut.safetensors", "truncated")

    @pytest.mark.parametrize(
        "header",
        [
            b"not json",
            b"[]",
            b'{"a": 1}',
            b'{"__metadata__": {"call": "{"}}',
            b'{"a":' * 9000 + b"1" + b"}" * 9000,
            json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}).encode(),
        ],
    )
    def test_headers(self, rejected, tmp_path, header):
        path = tmp_path / "odd.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        rejected(["show", path], "odd.safetensors")

    def test_a_model_composed_by_hand_is_refused_before_it_is_written(
        self, made, tmp_path, refused
    ):
        model = load(made / "vae.safetensors")
        model.call = None
        with refused("composed by hand", "@latently.recipe"):
            save(model, tmp_path / "m.safetensors")
        assert list(tmp_path.iterdir()) == []
