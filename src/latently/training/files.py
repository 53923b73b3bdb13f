"""Files that are never half-written, and tensors that never come by pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latently.errors import UserError

__all__ = [
    "atomic_write",
    "check_regular",
    "named_tensors",
    "read_header",
    "set_tensors",
    "write_tensors",
]

_SUM = "checksum"
MAX_HEADER = 16 * 2**20
MAX_DEPTH = 64


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary)`, flushes it to disk and renames it over `path`.

    Raises:
        UserError: the disk is full or the folder cannot be written; `path` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; nothing there was changed") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, shared ones once."""
    kept = module.state_dict().keys()
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in kept}


def set_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `named_tensors`: values and types are taken over, ties and devices stay."""
    for name, held in [*module.named_parameters(), *module.named_buffers()]:
        if name in tensors:
            held.data = tensors[name].to(held.device)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes safetensors with each metadata value as JSON and a checksum, atomically."""
    from safetensors.torch import save

    held = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    told = {**metadata, _SUM: _checksum(held)}
    header = {key: json.dumps(value) for key, value in told.items()}
    content = save(held, metadata=header)  # in memory: the file gets the usual permissions
    atomic_write(path, lambda temporary: temporary.write_bytes(content))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of names and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].flatten().contiguous()
        flat = flat.as_strided(flat.shape, (1,))  # a single number may have any other stride
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_regular(path: Path) -> None:
    """Refuses a pipe or a device, which may never answer or never end.

    Raises:
        UserError: `path` is such.
        OSError: it is not there; a folder is left to whoever opens it.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"cannot read {path}: a pipe, socket or device; name a file")


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensor descriptions of a safetensors file, checked before anything is read.

    Raises:
        UserError: no such file, not a safetensors file, truncated, or hostile (a header that is
            too long or nests too deeply).
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise UserError(f"{path} is no model file, or is truncated; fit it again")
            raw = file.read(length)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if raw.count(b"{") + raw.count(b"[") > len(raw) // 4 + MAX_DEPTH:
        raise UserError(f"{path}: its header nests too deeply; this is no file of ours")
    try:
        header = json.loads(raw)
        metadata = {key: json.loads(v) for key, v in header.pop("__metadata__", {}).items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{path}: its header cannot be read; the file is damaged") from None
    _check_extent(path, header, size - 8 - length)
    return metadata, header


def _check_extent(path: Path, tensors: Mapping[str, Any], size: int) -> None:
    try:
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = [entry["shape"] for entry in tensors.values()]
        fine = all(isinstance(n, int) and n >= 0 for shape in shapes for n in shape) and all(
            isinstance(entry["shape"], list) and isinstance(entry["dtype"], str)
            for entry in tensors.values()
        )
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{path}: its tensor table cannot be read; it is damaged") from None
    if not fine or end != size:
        raise UserError(
            f"{path} is truncated or damaged: its tensors need {end} bytes and it holds {size}"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file whose header was read before.

    They are copied to memory of torch's own: a file packs them at any address, and products of
    unaligned ones may differ in their last bit.

    Raises:
        UserError: the file cannot be read, or holds other bytes than were written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    known = read_header(path)[0].get(_SUM)
    if known is not None and known != _checksum(found):
        raise UserError(
            f"{path} is damaged: its numbers are not those that were written; fetch it again, or "
            "fit it again"
        )
    return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps a second process off `path`; freed by the system however the holder ends.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise UserError(
            f"another fit is writing {path}; wait for it or choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write beside {path}: {error.strerror or error}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(held.lock_file).unlink()
        held.release()
