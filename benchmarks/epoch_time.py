"""How long is a training epoch of a VAE, against a hand-written loop and against Pythae?

    python benchmarks/epoch_time.py --data-dir DATA --pythae-python ENV/bin/python

VAE 784-200-200-50 tanh, Bernoulli, batch 100, the 60,000 MNIST training images binarised anew for
every batch, Adam 1e-3, one sample, eager, float32. Sides, each in its own process:

- ours: `latently.train`, the generator a user writes a loop with, on Lightning Fabric;
- by hand: a good plain PyTorch loop (tensors in memory, index batches, cross-entropy from logits,
  analytic KL), once with `Adam(...)` and once with `Adam(..., fused=True)`;
- Pythae: its `BaseTrainer`, same net and batches (see pythae_side.py for what is left out).

A repetition is one whole epoch, 600 steps, of a run that goes on; the first epoch is not timed.
Bars: ours at most 1.1 times the hand-written loop and 0.7 times Pythae.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import harness
import latently
from nets import ByHand, ours

LONG = 1_000  # epochs nobody waits for
BAR_BY_HAND, BAR_PYTHAE = 1.1, 0.7


def images(options: Namespace) -> latently.Data:
    return latently.data.load("mnist:binary-dynamic/train+val", data_dir=options.data_dir)


def our_epochs(data: latently.Data) -> Iterator[float]:
    total, model = torch.zeros(()), ours(data.shape)
    for step in latently.train(model, data, epochs=LONG, batch_size=100, device="cpu"):
        total += step.bound
        if step.ends_epoch:
            yield float(total) / 600
            total = torch.zeros(())


def epochs_by_hand(x: Tensor, fused: bool) -> Iterator[float]:
    torch.manual_seed(0)
    model = ByHand()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    for _ in range(LONG):
        total = torch.zeros(())
        for index in torch.randperm(len(x)).split(100):
            grey = x[index]
            batch = (torch.rand_like(grey) < grey).to(grey.dtype)
            logits, mean, log_variance = model(batch)
            kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
            misfit = F.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
            loss = (misfit + kl) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total -= loss.detach()
        yield float(total) / 600


def serve(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    data = images(options)
    sides: dict[str, Callable[[], Iterator[float]]] = {
        "ours": lambda: our_epochs(data),
        "by hand": lambda: epochs_by_hand(data.x.flatten(1), fused=False),
        "by hand, fused Adam": lambda: epochs_by_hand(data.x.flatten(1), fused=True),
    }
    epochs = sides[options.side]()
    next(epochs)  # warms up
    harness.serve(lambda: {"bound": next(epochs)})


def main() -> None:
    arguments = harness.parser(__doc__, repeats=7)
    arguments.add_argument("--pythae-python", help="python of Pythae's environment")
    options = arguments.parse_args()
    if options.side:
        return serve(options)
    own = [sys.executable, __file__, "--threads", str(options.threads)]
    own += ["--data-dir", options.data_dir] if options.data_dir else []
    names = ("ours", "by hand", "by hand, fused Adam")
    sides = {name: [*own, "--side", name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        if options.pythae_python:
            file = Path(folder) / "images.npy"
            np.save(file, images(options).x.flatten(1).numpy())
            beside = Path(__file__).with_name("pythae_side.py")
            sides["pythae"] = [options.pythae_python, str(beside), "--images", str(file)]
            sides["pythae"] += ["--threads", str(options.threads)]
        timed = harness.alternate(sides, options.repeats, options.threads)
    bars = {"by hand": BAR_BY_HAND, "pythae": BAR_PYTHAE}
    result = {
        "unit": "one epoch of 60,000 images, 600 steps",
        "sides": {name: harness.summary(times) for name, times in timed.items()},
        "ours_over": {
            name: harness.ratio(timed["ours"], times, bars.get(name))
            for name, times in timed.items()
            if name != "ours"
        },
    }
    harness.save("epoch_time", result, options)


if __name__ == "__main__":
    main()
