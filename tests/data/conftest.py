"""What the tests of the data floor share: fake image folders."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A data folder with fake MNIST and Fashion-MNIST of the true sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for folder in ("mnist", "fashion_mnist"):
        (root / folder).mkdir()
        for file, n in (("train", 60_000), ("test", 10_000)):
            x = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            np.savez(root / folder / f"{file}.npz", x=x, y=(np.arange(n) % 10).astype(np.uint8))
    return root
