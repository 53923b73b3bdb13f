"""Files: all or nothing on disk, and hostile until read."""

import errno
import json
import os

import pytest
import torch
from torch import nn

from latently.errors import UserError
from latently.training import files
from latently.training.files import (
    atomic_write,
    locked,
    named_tensors,
    read_header,
    read_tensors,
    set_tensors,
    write_tensors,
)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


@pytest.mark.parametrize("where", ["os.fsync", "os.replace", "pathlib.Path.write_bytes"])
def test_a_full_disk_leaves_the_old_file(where, tmp_path, monkeypatch, refused):
    path = tmp_path / "m.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"k": 1})
    old = path.read_bytes()
    monkeypatch.setattr(where, full)
    with refused("cannot write", "No space left"):
        write_tensors(path, {"a": torch.zeros(3)}, {"k": 2})
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == []


def test_any_failure_while_writing_leaves_no_temporary_file(tmp_path):
    def broken(temporary):
        temporary.write_text("half")
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        atomic_write(tmp_path / "f", broken)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_impossible_ones_named(tmp_path, refused):
    write_tensors(tmp_path / "a" / "b" / "m", {"a": torch.ones(1)}, {})
    (tmp_path / "file").write_text("")
    with refused("cannot write"):
        write_tensors(tmp_path / "file" / "m", {"a": torch.ones(1)}, {})
    (tmp_path / "folder").mkdir()
    with refused("cannot write"):
        write_tensors(tmp_path / "folder", {"a": torch.ones(1)}, {})


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "m"
    tensors = {"a": torch.randn(2, 3).T, "b": torch.tensor(4), "c": torch.zeros(0, 2)}
    write_tensors(path, tensors, {"x": {"y": [1, None, "é"]}})
    metadata, table = read_header(path)
    assert len(metadata.pop("checksum")) == 32
    assert metadata == {"x": {"y": [1, None, "é"]}}
    assert table["a"]["shape"] == [3, 2]
    found = read_tensors(path)
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)


def raw(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        b"\x80\x04pickle....",
        raw({}, length=2**63),
        raw({}, length=10),
        raw(b"not json"),
        raw(b"\xff\xfe{}"),
        raw([]),
        raw(3),
        raw("text"),
        raw(None),
        raw(b"[" * 100_000 + b"]" * 100_000),
        raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        raw({"__metadata__": {"k": "[" * 100_000}}),
        raw({"__metadata__": {"k": "not json"}}),
        raw({"__metadata__": {"k": 3}}),
        raw({"__metadata__": []}),
        raw({"a": ENTRY}),
        raw({"a": ENTRY}, b"123"),
        raw({"a": ENTRY}, b"12345"),
        raw({"a": {**ENTRY, "shape": [-1]}}, b"1234"),
        raw({"a": {**ENTRY, "shape": ["1"]}}, b"1234"),
        raw({"a": {**ENTRY, "shape": 1}}, b"1234"),
        raw({"a": {**ENTRY, "data_offsets": ["0", "4"]}}, b"1234"),
        raw({"a": {**ENTRY, "data_offsets": [4]}}, b"1234"),
        raw({"a": {"dtype": "F32"}}, b"1234"),
        raw({"a": None}, b""),
        raw({"a": "text"}, b""),
    ],
)
def test_hostile_headers_are_refused_in_one_line(content, tmp_path, refused):
    path = tmp_path / "m"
    path.write_bytes(content)
    with refused(str(path)):
        read_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        {**ENTRY, "shape": [10**12]},
        {**ENTRY, "shape": [2**62, 4]},
        {**ENTRY, "dtype": "F99"},
        {**ENTRY, "data_offsets": [4, 4]},
        {**ENTRY, "data_offsets": [-4, 4]},
    ],
)
def test_tensor_tables_that_lie_are_refused_without_allocation(entry, tmp_path, refused):
    path = tmp_path / "m"
    path.write_bytes(raw({"a": entry}, b"1234"))
    with refused(str(path)):
        read_header(path)
        read_tensors(path)


def test_missing_files_are_named(tmp_path, refused):
    with refused("cannot read", "none", "No such file"):
        read_header(tmp_path / "none")
    with refused("cannot read"):
        read_header(tmp_path)


def test_ties_types_and_persistence_survive_named_and_set_tensors():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("kept", torch.zeros(2))
            self.register_buffer("scratch", torch.zeros(2), persistent=False)

    old, new = Tied(), Tied()
    tensors = named_tensors(old)
    assert set(tensors) == {"a.weight", "a.bias", "b.bias", "kept"}
    set_tensors(new, {name: t.double() + 1 for name, t in tensors.items()})
    assert new.b.weight is new.a.weight
    assert new.a.weight.dtype == torch.float64
    assert torch.equal(new.a.weight, old.a.weight.double() + 1)
    assert new.kept.tolist() == [1, 1]


def test_a_lock_keeps_others_off_and_errors_inside_keep_their_names(tmp_path, refused):
    path = tmp_path / "run.ckpt"
    with locked(path):
        with refused("another fit", str(path)), locked(path):
            pass
    with locked(path):
        pass
    with pytest.raises(FileNotFoundError), locked(path):
        raise FileNotFoundError("the body's own")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with refused("cannot write beside"), locked(tmp_path / "file" / "run"):
        pass


def test_header_limits_are_stated():
    assert files.MAX_HEADER <= 2**26
    with pytest.raises(UserError):
        read_header(files.Path("/nonexistent/file"))


def test_changed_numbers_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {"a": torch.randn(30), "b": torch.arange(4), "c": torch.tensor(True)}
    tensors |= {"d": torch.zeros(0, 3), "e": torch.ones(5, dtype=torch.bfloat16)}
    tensors["f"] = torch.arange(16.0).as_strided((1, 1), (16, 16))
    write_tensors(path, tensors, {"k": 1})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(path).items())
    content = path.read_bytes()
    for place in (1, 40, 150):
        changed = bytearray(content)
        changed[-place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match="numbers are not those that were written"):
            read_tensors(path)
