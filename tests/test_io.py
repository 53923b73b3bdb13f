"""Model files: what is saved comes back, in a fresh process too; what is hostile does not."""

import json
import random
import struct
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from latently import (
    PPCA,
    VAE,
    Data,
    ImportanceSampling,
    evaluate,
    fa,
    fit,
    load,
    ppca,
    recipe,
    save,
    vae,
)
from latently.errors import UserError
from latently.io import check_savable, load_saved
from latently.nets import MLP
from latently.probability.conditional import Conditional
from latently.probability.families import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Mixed,
    Normal,
    SharedNormal,
)
from latently.probability.priors import StandardNormal, VampPrior
from latently.recipes import RECIPES
from latently.training.files import named_tensors, read_header, read_tensors, write_tensors

TINY = partial(MLP, hidden=(5,), activation=nn.Tanh)

MODELS = {
    "fa": lambda: fa((4,), latents=2),
    "fa of levels": lambda: fa((4,), latents=1, levels=3),
    "ppca": lambda: ppca((4,), latents=2),
    "vae": lambda: vae((4,), latents=2, net=TINY),
    "vamp": lambda: vae((4,), latents=2, net=TINY, prior=partial(VampPrior, components=3)),
    "levels": lambda: vae((4,), net=TINY, likelihood=partial(DiscretizedLogistic, levels=3)),
    "shared": lambda: vae((2, 2), net=TINY, likelihood=partial(SharedNormal, isotropic=True)),
    "masked": lambda: vae((4,), net=TINY, likelihood=Normal, sees_mask=True, decoder_net=MLP),
    "deep z": lambda: vae((4,), latents=(2, 3), net=TINY),
}


def bits(shape=(4,)):
    generator = torch.Generator().manual_seed(0)
    return Data.from_array(torch.rand(6, *shape, generator=generator).lt(0.5).float(), levels=2)


def noisy(model):
    """The model with every tensor moved off its initial value."""
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            tensor += 0.1 * torch.rand_like(tensor)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_comes_back(name, tmp_path, untouched):
    model = noisy(MODELS[name]())
    with untouched():
        save(model, tmp_path / "m")
        back = load(tmp_path / "m")
    assert str(back.call) == str(model.call)
    assert not back.training
    a, b = named_tensors(model), named_tensors(back)
    assert list(a) == list(b)
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert [p.requires_grad for p in back.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    data = bits(model.shape)
    x, y = (evaluate(m, data, ImportanceSampling(20)).values for m in (model, back))
    assert torch.equal(x, y)
    assert torch.equal(model.sample(3, seed=1), back.sample(3, seed=1))


@pytest.mark.slow
def test_evidence_is_the_same_in_a_fresh_process(tmp_path):
    model = noisy(MODELS["vamp"]())
    save(model, tmp_path / "m")
    data = bits()
    code = (
        "import sys, json, torch; from latently import *\n"
        "torch.set_num_threads(1)\n"
        "data = Data.from_array(torch.tensor(json.loads(sys.argv[2])), levels=2)\n"
        "found = evaluate(load(sys.argv[1]), data, ImportanceSampling(50))\n"
        "print(json.dumps(found.values.tolist()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m"), json.dumps(data.x.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = evaluate(model, data, ImportanceSampling(50)).values.tolist()
    torch.set_num_threads(threads)
    assert json.loads(done.stdout) == here


def test_shared_modules_stay_shared_and_are_stored_once(tmp_path):
    model = MODELS["vamp"]()
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.prior.encoder is back.encoder
    assert not any(name.startswith("prior.encoder") for name in read_header(tmp_path / "m")[1])
    with torch.no_grad():
        back.encoder.net.layers[0].weight.add_(1)
    assert torch.equal(back.prior.encoder.net.layers[0].weight, back.encoder.net.layers[0].weight)


def test_schema_and_record_travel_with_the_model(tmp_path):
    data = bits()
    save(MODELS["vae"](), tmp_path / "m", data=data, training={"bound": -1.5})
    saved = load_saved(tmp_path / "m")
    assert saved.data == data.to_schema()
    assert saved.training == {"bound": -1.5}


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_model_fitted_in_any_precision_loads(precision, tmp_path):
    model = MODELS["vae"]()
    fit(model, bits(), steps=2, precision=precision, progress=False, device="cpu")
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.dtype == model.dtype
    x, y = (evaluate(m, bits(), ImportanceSampling(9)).values for m in (model, back))
    assert torch.equal(x, y)


class Own(nn.Module):
    """A user's net: tied weights, and a constant that no file holds."""

    def __init__(self, in_shape, out_shape, *, power: float = 1.0):
        super().__init__()
        self.first = nn.Linear(in_shape[0], in_shape[0])
        self.second = nn.Linear(in_shape[0], in_shape[0])
        self.second.weight = self.first.weight
        self.last = nn.Linear(in_shape[0], out_shape[0])
        self.constant = torch.arange(1.0, in_shape[0] + 1)
        self.register_buffer("scratch", torch.full((1,), power), persistent=False)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x * self.constant))) * self.scratch)


def test_a_users_own_net_is_saved_under_its_name(tmp_path, refused):
    model = noisy(vae((4,), latents=2, net=partial(Own, power=0.5)))
    with refused("unknown component 'Own'"):
        check_savable(model)
    with refused("unknown component 'Own'"):
        save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    save(model, tmp_path / "m", components={"Own": Own})
    with refused("unknown component 'Own'"):
        load(tmp_path / "m")
    back = load(tmp_path / "m", components={"Own": Own})
    assert back.encoder.net.second.weight is back.encoder.net.first.weight
    x, y = (evaluate(m, bits(), ImportanceSampling(9)).values for m in (model, back))
    assert torch.equal(x, y)


def test_models_composed_by_hand_are_refused_with_the_fix(tmp_path, refused):
    encoder = Conditional(MLP, Normal((2,)), (4,))
    by_hand = VAE(encoder, Conditional(MLP, Bernoulli((4,)), (2,)), StandardNormal((2,)))
    for model in (by_hand, PPCA((4,), 2)):
        with refused("by hand", "recipe"):
            save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_users_recipe_is_saved_and_loaded(tmp_path):
    @recipe
    def my_small_vae(shape, *, width: int = 3):
        """Mine."""
        return vae(shape, latents=2, net=partial(MLP, hidden=(width,)))

    try:
        save(my_small_vae((4,), width=7), tmp_path / "m")
        assert str(load(tmp_path / "m").call) == "my_small_vae(shape=(4,), width=7)"
    finally:
        del RECIPES["my_small_vae"]
    with pytest.raises(UserError, match="unknown recipe 'my_small_vae'"):
        load(tmp_path / "m")


def test_unwritable_options_are_refused_before_training(refused):
    nameless = vae((4,), net=partial(MLP, activation=lambda: nn.ReLU()))
    with refused("lambda"):
        check_savable(nameless)


def rewritten(path, tensors=None, **metadata):
    """The file with parts of its header replaced."""
    old, _ = read_header(path)
    write_tensors(path, tensors or read_tensors(path), {**old, **metadata})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("vea(shape=(4,))", ["unknown recipe 'vea'", "vae"]),
        ("vae(shape=(4,), net=MPL)", ["MPL", "did you mean MLP?"]),
        ("vae(shape=(4,), nets=MLP)", ["nets", "did you mean net"]),
        ("vae(shape=(4,), likelihood=IWAE)", ["builds no model"]),
        ("vae(shape=(4,), net=Adam)", []),
        ("vae(shape=4)", []),
        ("vae(shape='abc')", []),
        ("vae(shape=(4,), latents='many')", []),
        ("vae(shape=(4,), prior=MLP)", []),
        ("vae(shape=(-4,))", []),
        ("vae(shape=())", []),
        ("vae()", ["shape"]),
        ("vae", []),
        ("vae(shape=(4,)).sample", []),
        ("vae(shape=(10**9,))", []),
        ("__import__('os').system('true')", ["unknown recipe"]),
        ("vae(shape=(4,), net=vae)", []),
        ("vae(" + "(" * 5000, []),
        ("vae(shape=" + "9" * 30_000 + ")", []),
        ("vae(shape=(99999999999, 99999999999, 99999999999))", []),
        ("fa(shape=(1000000000,), latents=1000000000)", []),
        ("vae(shape=(1000000000000,))", []),
        ("vae(shape=(4,), latents=1000000000000)", []),
        ("vae(shape=(4,), net=MLP(hidden=(1000000, 1000000000)))", []),
        ("vae(shape=(4,), prior=VampPrior(components=100000000000))", []),
    ],
)
def test_hostile_calls_are_refused_without_allocation(call, words, tmp_path, refused):
    path = tmp_path / "m"
    save(MODELS["vae"](), path)
    rewritten(path, call=call)
    with refused(str(path), *words):
        load(path)


def test_files_of_a_newer_format_say_so(tmp_path, refused):
    path = tmp_path / "m"
    save(MODELS["vae"](), path)
    rewritten(path, latently={"format": 99, "version": "9.9"})
    with refused("format 99", "9.9", "upgrade"):
        load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"latently": None},
        {"latently": {"format": "1"}},
        {"latently": []},
        {"call": None},
        {"call": {"recipe": "vae"}},
        {"data": []},
        {"training": "text"},
    ],
)
def test_damaged_metadata_is_refused(metadata, tmp_path, refused):
    path = tmp_path / "m"
    save(MODELS["vae"](), path)
    rewritten(path, **metadata)
    with refused(str(path)):
        load(path)


def test_tensors_must_be_those_of_the_call(tmp_path, refused):
    path = tmp_path / "m"
    save(MODELS["vae"](), path)
    tensors = read_tensors(path)
    name = "encoder.net.layers.0.weight"
    cases = {
        "lacks": {n: t for n, t in tensors.items() if n != name},
        "junk": {**tensors, "junk": torch.zeros(3)},
        name: {**tensors, name: torch.zeros(1, 4)},
        "encoder.net": {**tensors, name: torch.zeros(5, 4, dtype=torch.int64)},
    }
    for word, case in cases.items():
        write_tensors(path, case, read_header(path)[0])
        with refused(str(path), word):
            load(path)


def test_truncated_and_bit_flipped_files_never_surprise(tmp_path):
    path = tmp_path / "m"
    save(MODELS["vamp"](), path)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    rng = random.Random(0)
    cuts = rng.sample(range(header), 20)
    for size in [
        0,
        1,
        7,
        8,
        9,
        header - 1,
        header,
        len(content) - 1,
        *cuts,
    ]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError):
            load(path)
    refusals = []
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(header)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            load(path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert all(len(message.splitlines()) == 1 for message in refusals)
    path.write_bytes(content + b"more")
    with pytest.raises(UserError):
        load(path)


def test_other_files_are_no_models(tmp_path, refused):
    write_tensors(tmp_path / "m", {"a": torch.ones(1)}, {})
    with refused("no latently model"):
        load(tmp_path / "m")
    torch.save(MODELS["vae"]().state_dict(), tmp_path / "pickle")
    with refused("no model file"):
        load(tmp_path / "pickle")
    with refused("cannot read"):
        load(tmp_path / "none")


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_a_full_disk_keeps_the_old_model(where, tmp_path, monkeypatch, refused):
    path = tmp_path / "m"
    save(MODELS["vae"](), path)
    old = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, refused("No space left"):
        patch.setattr(where, full)
        save(noisy(MODELS["vae"]()), path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    load(path)


def test_new_rows_are_read_as_the_model_reads_them(tmp_path, refused):
    table = {"zip": [10 + k % 4 for k in range(30)], "age": [20.5 + k for k in range(30)]}
    data = Data.from_frame(table, kinds={"zip": "categorical"})
    path, new = tmp_path / "m.safetensors", tmp_path / "new.csv"
    model = vae(
        (2,),
        latents=1,
        likelihood=partial(Mixed, columns=(partial(Categorical, levels=4), Normal)),
        net=TINY,
    )
    save(model, path, data=data)
    saved = load_saved(path)
    new.write_text("age,zip\n33,11\n41.5,99\n")
    for rows in (
        saved.read(new),
        saved.read(str(new)),
        saved.read({"age": [33, 41.5], "zip": [11, 99]}),
    ):
        assert rows.table == data.table
        assert rows.x.tolist() == [[1.0, 33.0], [0.0, 41.5]]
        assert rows.mask.tolist() == [[True, True], [False, True]]
    with refused("age"):
        saved.read({"zip": [11]})
    with refused("missing", "zip"):
        saved.read({"age": [33], "zip": [None]}, missing="refuse")
    with refused("split='test'"):
        saved.read(table, "test")


def test_new_numbers_are_read_on_the_levels_of_the_fit(tmp_path, refused):
    path = tmp_path / "m.safetensors"
    model = vae((4,), latents=1, likelihood=partial(DiscretizedLogistic, levels=9), net=TINY)
    save(model, path, data=Data.from_array(torch.arange(8).view(2, 4), levels=9))
    rows = load_saved(path).read([[0, 1, 2, 3]])
    assert (rows.levels, rows.family) == (9, "DiscretizedLogistic(levels=9)")
    with refused("shape"):
        load_saved(path).read([[0, 1, 2]])
    save(model, path)
    with refused("does not say what rows"):
        load_saved(path).read([[0, 1, 2, 3]])
