"""The original files of named sets: where they lie, where they come from, and whether they are it.

Contents are checked, not files: the arrays of any container hash to the same SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latently.errors import UserError

__all__ = ["DIGESTS", "check_content", "content_digest", "find", "integers"]

DIGESTS = {
    "mnist/train": "62f83d1c0c46ba53d4d6eac2868eb70a2ba6656b09eedb8dd6b5c1f2a2635918",
    "mnist/test": "3769a625e80f131f34d09edb945f3444d1b727bf3852343b224a0af6a38752e7",
    "fashion_mnist/train": "6f6df5f91b0079d3590ab213c50709af402a67f812f9d7f7fd55b6bebc3114c1",
    "fashion_mnist/test": "38ac0a0317f5e561581560bc8b2fad74adc27386051d3c88c17403f05a574646",
    "omniglot/omniglot28": "c1997805223707e638a4c611a57b1b2ea43d3ea0000fdb153c0850d8ad4f77cb",
    "frey_faces/frey_faces": "d7ecdb605e50d779d9c245f0bb4f7b4985ab4733fbacc2bd0709717e5e472267",
    "cifar10/train": "c5691c5200241fe3bd23d97cdbe1d12680fd8d70ff1ce2a0313300ee765746f8",
    "cifar10/test": "cfcd7bb6de7c6dfec95994b71805cd502eed52688c4d483d5e0fc8923bef796f",
}


def find(folder: str, files: Sequence[str], data_dir: Path | None, hint: str) -> Path:
    """The first of `files` that lies in a folder of the data folder.

    Raises:
        UserError: None does; the message says which belongs where, and `hint` where to get it.
    """
    root = data_dir or os.environ.get("LATENTLY_DATA")
    place = Path(root or "").expanduser() / folder
    for file in files if root else ():
        if (place / file).is_file():
            return place / file
    missing = f"no {place / files[0]}" if root else "no folder set"
    raise UserError(
        f"the images of {folder} are not at hand ({missing}); set LATENTLY_DATA or --data-dir to "
        f"a folder with {hint}"
    )


def integers(
    path: Path, name: str, array: np.ndarray | None, shape: tuple[int, ...], dtype: str = "u1"
) -> np.ndarray:
    """An array as the integers it must be.

    Raises:
        UserError: No array, another shape, or other than integers.
    """
    if array is None or array.shape != shape or array.dtype.kind not in "iu":
        found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise UserError(
            f"{path}: {name} is {found}, not integers of shape {shape}; the protocol's numbers "
            "need the original images"
        )
    return array.astype(dtype)


def content_digest(*arrays: np.ndarray) -> str:
    """SHA-256 of what arrays hold: type, shape and values, whatever file they came from."""
    sha = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        sha.update(f"{array.dtype.str.lstrip('<>|=')}{array.shape}".encode())
        sha.update(little.data)
    return sha.hexdigest()


def check_content(path: Path, key: str, *arrays: np.ndarray) -> None:
    """Refuse arrays that are not the original ones.

    Raises:
        UserError: Another digest than that of `DIGESTS[key]`.
    """
    if content_digest(*arrays) != DIGESTS[key]:
        raise UserError(
            f"{path}: these are not the original images of {key.partition('/')[0]}, or not in "
            "their order (the SHA-256 of the content differs); get them again, or load this file "
            "by its path, as data of your own"
        )
