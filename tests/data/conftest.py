"""What the tests of the data floor share: fake originals of the true sizes."""

import numpy as np
import pytest

from latently.data import originals

RNG = np.random.default_rng(1)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def digits(n):
    return (np.arange(n) % 10).astype(np.uint8)


@pytest.fixture(scope="session")
def _originals(tmp_path_factory):
    """A data folder with fakes, and the digests of their contents."""
    root, digests = tmp_path_factory.mktemp("images"), {}

    def save(key, **arrays):
        (root / key).parent.mkdir(exist_ok=True)
        np.savez(root / f"{key}.npz", **arrays)
        digests[key] = originals.content_digest(*arrays.values())

    for folder in ("mnist", "fashion_mnist"):
        for file, n in (("train", 60_000), ("test", 10_000)):
            save(f"{folder}/{file}", x=pixels(n, 28, 28), y=digits(n))
    for file, n in (("train", 10_000), ("test", 2_000)):
        save(f"cifar10/{file}", x=pixels(n, 32, 32, 3), y=digits(n))
    save("frey_faces/frey_faces", x=pixels(1965, 28, 20))
    row = np.arange(32_460)
    save(
        "omniglot/omniglot28",
        x=pixels(32_460, 28, 28),
        character=(row // 20).astype(np.uint16),
        drawer=(row % 20).astype(np.uint8),
        alphabet=(row // 650).astype(np.uint8),
    )
    return root, digests


@pytest.fixture
def image_folder(_originals, monkeypatch):
    """A data folder whose fakes pass for the originals."""
    root, digests = _originals
    monkeypatch.setattr(originals, "DIGESTS", digests)
    return root
