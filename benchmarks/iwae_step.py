"""How long is a training step of an IWAE with k = 50, against a loop written by hand?

    python benchmarks/iwae_step.py --data-dir DATA

VAE 784-200-200-50 tanh, Bernoulli, batch 100, 50 samples of the latents per image, dynamic
binarisation, Adam 1e-3 (fused on both sides), eager, float32, the plain gradient. By hand: a
good plain PyTorch loop (index batches, `logsumexp` over samples). A repetition is 20 steps of a
run that goes on; the first is not timed. Bar: ours at most 1.1 times the loop by hand.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
import latently
from epoch_time import images
from nets import ByHand, ours

STEPS, K, BAR = 20, 50, 1.1


def our_steps(data: latently.Data) -> Iterator[float]:
    model, total = ours(data.shape), torch.zeros(())
    objective = latently.Variational(latently.IWAE(), samples=K)
    steps = latently.train(model, data, objective, steps=10**6, batch_size=100, device="cpu")
    for step in steps:
        total += step.bound
        if step.index % STEPS == 0:
            yield float(total) / STEPS
            total = torch.zeros(())


def steps_by_hand(x: Tensor) -> Iterator[float]:
    torch.manual_seed(0)
    model, total, done = ByHand(), torch.zeros(()), 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    while True:
        for index in torch.randperm(len(x)).split(100):
            grey = x[index]
            batch = (torch.rand_like(grey) < grey).to(grey.dtype)
            mean, log_variance = model.encoder(batch).chunk(2, 1)
            eps = torch.randn(K, *mean.shape)
            z = mean + (0.5 * log_variance).exp() * eps
            logits = model.decoder(z)
            misfit = F.binary_cross_entropy_with_logits(
                logits, batch.expand_as(logits), reduction="none"
            ).sum(-1)
            log_ratio = 0.5 * (eps.square() + log_variance - z.square()).sum(-1)
            loss = -(torch.logsumexp(log_ratio - misfit, 0) - math.log(K)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total -= loss.detach()
            done += 1
            if done % STEPS == 0:
                yield float(total) / STEPS
                total = torch.zeros(())


def serve(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    data = images(options)
    sides: dict[str, Callable[[], Iterator[float]]] = {
        "ours": lambda: our_steps(data),
        "by hand": lambda: steps_by_hand(data.x.flatten(1)),
    }
    turns = sides[options.side]()
    next(turns)  # warms up
    harness.serve(lambda: {"bound": next(turns)})


def main() -> None:
    options = harness.parser(__doc__, repeats=9).parse_args()
    if options.side:
        return serve(options)
    own = [sys.executable, __file__, "--threads", str(options.threads)]
    own += ["--data-dir", options.data_dir] if options.data_dir else []
    sides = {name: [*own, "--side", name] for name in ("ours", "by hand")}
    timed = harness.alternate(sides, options.repeats, options.threads)
    result = {
        "unit": f"{STEPS} steps of batch 100, k = {K}",
        "sides": {name: harness.summary(times) for name, times in timed.items()},
        "ours_over": {"by hand": harness.ratio(timed["ours"], timed["by hand"], BAR)},
    }
    harness.save("iwae_step", result, options)


if __name__ == "__main__":
    main()
