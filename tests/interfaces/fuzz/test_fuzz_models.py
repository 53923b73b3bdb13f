"""Model files: damaged, with records of other types, with hostile calls; and checkpoints."""

import json
import struct

import numpy as np
import pytest
import torch

from latently.io import describe, load
from latently.training.files import named_tensors, write_tensors

pytestmark = pytest.mark.slow

CALLS = {
    "show": "show {}",
    "command": "show {} --command",
    "evaluate": "evaluate {} --samples 2 --data {{x}}",
    "sample": "sample {} -n 2 --out {{out}}/s.csv",
    "encode": "encode {} --data {{x}} --out {{out}}/z.csv",
    "report": "report {} --samples 2 --data {{x}} --out {{out}}/r.html",
    "init": "fit vae --data {{x}} --epochs 1 --quiet --init {} --out {{out}}/o.safetensors",
}
JSON = ["null", "true", "3", "-1.5", '"x"', "[]", "[1]", "{}", '{"a": 1}', "[[]]", '""', "1e999"]
JSON += ["NaN", '"\\ud800\\n"', "9" * 500, "[" * 40 + "]" * 40]
# Where a record holds what a reader relies on.
RECORDS = [
    *(("latently",), ("latently", "format"), ("latently", "version"), ("call",), ("data",)),
    *(("data", key) for key in ("shape", "family", "levels", "protocol", "split", "classes")),
    *(("data", key) for key in ("binarise", "grey_levels", "context", "strange")),
    *(("data", "context", key) for key in ("name", "classes", "loc", "scale", "strange")),
    *(("data", "split", key) for key in ("seed", "validation")),
    *(("training", key) for key in ("history", "options", "warnings", "seconds", "command")),
    *(("training", key) for key in ("objective", "kept", "date", "threads", "data")),
    ("training",),
]
RECIPE_CALLS = [
    *("vae", "vae()", "vae(shape=4)", "vae(shape=(4.0,))", "vae(shape=('4',))", "vae(shape=())"),
    *("vae(shape=(0,))", "vae(shape=(-4,))", "vae(shape=(4,), latents=-1)", "fa(shape=(4,))"),
    *("vae(shape=(4,), latents=(2,) * 9)", "vae((4,), 2, 2, 2, 2)", "vae(**{})", "vae(*())"),
    *("vae(shape=(4,), latents=10**9)", "vae(shape=(99999999999,))", "vae(shape=None)"),
    *("vae(shape=(4,), net=vae)", "vae(shape=(4,), net=MLP())", "vae(shape=(4,), net=3)"),
    *("vae(shape=(4,), prior=Normal)", "vae(shape=(4,), likelihood=StandardNormal)"),
    *("vae(shape=(4,), net=MLP(hidden=(4,), activation=Adam))", "vae(shape=(4,), contexts=-1)"),
    *("vae(shape=(4,), contexts='a')", "vae(shape=(4,), sees_mask=3)", "vae(shape=(4,))\n"),
    *("vae(shape=(4,), net=MLP(hidden=(" + "9," * 3000 + ")))", "vae" + "(" * 90, "vae(" * 90),
    *("", " ", "lambda: 0", "vae.__class__", "\x1b[31m", "vae(shape=(4,), likelihood='Normal')"),
    *("vae(shape=(4,), latents=2, likelihood=Normal, net=MLP(hidden=(1000000, 1000000)))",),
    *("vae(shape=(4,), latents=2, prior=VampPrior(components=999999999999))", "ppca((4,), 1)"),
]


@pytest.fixture
def ask(judge, words, tmp_path):
    """Judges a call on a model file of some content."""

    def call(name, content):
        path = tmp_path / "it.safetensors"
        path.write_bytes(content)
        return judge(*words(CALLS[name].format(path)))

    return call


@pytest.fixture(scope="session")
def content(small):
    """The content of a model file."""
    return (small / "label.safetensors").read_bytes()


@pytest.fixture
def written(small, tmp_path):
    """The content of a model file with changed metadata, or tensors."""

    def write(change=lambda metadata, tensors: None):
        metadata, _ = describe(small / "label.safetensors")
        tensors = {
            k: t.clone() for k, t in named_tensors(load(small / "label.safetensors")).items()
        }
        change(metadata, tensors)
        write_tensors(tmp_path / "written", tensors, metadata)
        return (tmp_path / "written").read_bytes()

    return write


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("name", ["show", "encode"])
def test_damaged_headers(ask, damaged, content, name, seed):
    size = 8 + struct.unpack("<Q", content[:8])[0]
    ask(name, damaged(content[:size], name, seed) + content[size:])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_anywhere(ask, damaged, content, seed):
    ask("evaluate", damaged(content, seed))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 2**16, 2**24, 2**31, 2**53, 2**63, 2**64 - 1])
def test_headers_of_another_length(ask, content, length):
    assert ask("show", struct.pack("<Q", length) + content[8:]).code == 2


@pytest.mark.parametrize("place", RECORDS, ids=".".join)
def test_records_of_other_types(ask, written, some, place):
    for value in some(4, JSON, place):

        def change(metadata, _, value=value):
            held = metadata
            for key in place[:-1]:
                held = held.setdefault(key, {})
            held[place[-1]] = json.loads(value)

        content = written(change)
        for name in ("show",) if place[0] == "training" else ("encode",):
            ask(name, content)


@pytest.mark.parametrize("call", RECIPE_CALLS)
def test_calls(ask, written, call):
    assert ask("sample", written(lambda metadata, _: metadata.update(call=call))).code == 2


@pytest.mark.parametrize("seed", range(40))
def test_damaged_calls(ask, written, edited, seed):
    def change(metadata, _):
        metadata["call"] = edited(metadata["call"], seed)

    ask("sample", written(change))


TENSORS = {
    "another-type": lambda t: t.to(torch.complex64),
    "whole": lambda t: t.int(),
    "flat": lambda t: t.reshape(-1)[:1],
    "one-more": lambda t: torch.cat([t, t[:1]]),
    "an-axis-more": lambda t: t[None],
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("number", [0, 3, 5])
def test_tensors(ask, written, kind, number):
    def change(_, tensors):
        name = sorted(tensors)[number]
        tensors[name] = TENSORS[kind](tensors[name])

    assert ask("encode", written(change)).code == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", CALLS)
def test_weights_that_are_no_numbers(ask, written, name, value):
    def change(_, tensors):
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.fill_(value)

    ran = ask(name, written(change))
    told = "show", "command"
    assert ran.code == 2 or name in told or np.isfinite(value), ran


HEADERS = {
    "number": b"3",
    "text": b'"x"',
    "zeros": bytes(64),
    "twice": b'{"__metadata__": {}, "__metadata__": {}}',
    "metadata-list": b'{"__metadata__": []}',
    "metadata-number": b'{"__metadata__": {"call": 3}}',
    "metadata-deep": b'{"__metadata__": {"call": "' + b"[" * 500 + b'"}}',
    "deep": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "utf-16": '{"__metadata__": {}}'.encode("utf-16"),
    "latin": b'{"\xff": {}}',
    "surrogate": b'{"\\ud800": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]}}',
    "offsets": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    "offsets-negative": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    "offsets-text": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": "00"}}',
    "offsets-nan": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [NaN, NaN]}}',
    "shape-huge": b'{"a": {"dtype": "F32", "shape": [1e99], "data_offsets": [0, 0]}}',
    "shape-text": b'{"a": {"dtype": "F32", "shape": "11", "data_offsets": [0, 0]}}',
    "shape-none": b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 0]}}',
    "tensor-list": b'{"a": []}',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "infinite": b'{"a": Infinity}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(ask, name):
    for call in ("show", "sample"):
        assert ask(call, struct.pack("<Q", len(HEADERS[name])) + HEADERS[name]).code == 2


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
@pytest.mark.parametrize("value", JSON)
def test_tables_of_other_types(ask, content, field, value):
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name][field] = "@"
    head = json.dumps(header).replace('"@"', value).encode()
    for call in ("show", "encode"):
        ask(call, struct.pack("<Q", len(head)) + head + content[8 + size :])


def test_other_safetensors(judge, words, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for call in CALLS.values():
        judge.refused(*words(call.format(tmp_path / "other.safetensors")))


@pytest.fixture(scope="session")
def stopped(small, cli):
    """The content of the checkpoint that a stopped run leaves."""
    from latently.training import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Stop, "asked", property(lambda _: True, lambda *_: None), raising=False)
        cli(*RESUMED.format(small / "x.npz", small / "stopped.safetensors").split())
    return (small / "stopped.safetensors.checkpoint").read_bytes()


RESUMED = "fit vae --latents 2 --net MLP(hidden=(4,)) --epochs 2 --quiet --data {} --out {}"


@pytest.mark.parametrize("seed", range(40))
def test_damaged_checkpoints(cli, judge, small, stopped, damaged, tmp_path, seed):
    place = tmp_path / "resumed.safetensors"
    checkpoint = place.with_name(place.name + ".checkpoint")
    checkpoint.write_bytes(damaged(stopped, seed))
    judge(*RESUMED.format(small / "x.npz", place).split(), "--resume")
