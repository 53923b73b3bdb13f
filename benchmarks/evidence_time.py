"""How long does the evidence of test images take, and how much memory, against a loop by hand?

    python benchmarks/evidence_time.py --data-dir DATA          (--rows 10000 for all of MNIST)

`log p(x)` of the first 500 MNIST test images under a VAE 784-200-200-50 tanh after 600 steps of
training, importance weighted with exactly K = 5,000 draws an image. Sides, each in its own process
with the same weights:

- ours: `latently.evaluate(model, data, ImportanceSampling(5000))`, with its per-image seeds, error
  bars, effective sample sizes and k-hats;
- by hand, plain: what a user writes: batches of 100 images, 50 draws at a time, cross-entropy from
  logits, `logsumexp` of what was and what is new. The bar refers to it;
- by hand, tuned: the same with the draws in smaller chunks (100 images, 7 draws), whose
  temporaries fit the cache.

The loops by hand give the number only. Bars: ours at most 0.75 times the plain loop, under 2 GiB.
"""

from __future__ import annotations

import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import harness
import latently
from nets import ByHand, ours

SAMPLES = 5_000
BAR, BAR_MIB = 0.75, 2_048
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
CHUNKS = {"by hand, plain": 50, "by hand, tuned": 7}


def rows(options: Namespace, count: int) -> latently.Data:
    data = latently.data.load("mnist:binary-dynamic/test", data_dir=options.data_dir)
    return data.rows(slice(0, count))


@torch.inference_mode()
def by_hand(model: ByHand, x: Tensor, chunk: int) -> Tensor:
    """Importance weighted bound of (n, 784), batches of 100, `chunk` draws at a time."""
    values = []
    for batch in x.split(100):
        mean, log_variance = model.encoder(batch).chunk(2, 1)
        scale = (0.5 * log_variance).exp()
        total = torch.full((len(batch),), -math.inf)
        for start in range(0, SAMPLES, chunk):
            count = min(chunk, SAMPLES - start)
            noise = torch.randn(count, *mean.shape)
            z = mean + scale * noise
            logits = model.decoder(z)
            target = batch.expand_as(logits)
            misfit = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            log_prior = (-0.5 * z.square() - HALF_LOG_2PI).sum(-1)
            log_q = (-0.5 * noise.square() - HALF_LOG_2PI - 0.5 * log_variance).sum(-1)
            log_w = log_prior - log_q - misfit.sum(-1)
            total = torch.logaddexp(total, torch.logsumexp(log_w, 0))
        values.append(total - math.log(SAMPLES))
    return torch.cat(values)


def trained(options: Namespace, file: Path) -> None:
    """Trains our VAE briefly and writes its weights."""
    torch.set_num_threads(options.threads)
    data = latently.data.load("mnist:binary-dynamic/train", data_dir=options.data_dir)
    model = ours(data.shape)
    for _ in latently.train(model, data, steps=600, batch_size=100, device="cpu"):
        pass
    save_file(model.state_dict(), file)


def same_weights(model: latently.Model) -> ByHand:
    """The net by hand with our weights: its log variance is twice our log deviation."""
    twin, bound = ByHand(), 10.0
    twin.encoder.load_state_dict(model.encoder.net.layers.state_dict())
    twin.decoder.load_state_dict(model.decoder.net.layers.state_dict())
    with torch.no_grad():
        twin.decoder[-1].bias += model.decoder.offset.flatten()
        twin.encoder[-1].weight[50:] *= 2
        twin.encoder[-1].bias[50:] *= 2
    twin.encoder.append(_Bounded(2 * bound))
    return twin


class _Bounded(torch.nn.Module):
    """Our normal bounds its log deviation smoothly; done once an image, it costs nothing."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, h: Tensor) -> Tensor:
        mean, log_variance = h.chunk(2, 1)
        return torch.cat([mean, self.bound * torch.tanh(log_variance / self.bound)], 1)


def serve(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = rows(options, options.rows)
    model = ours(data.shape)
    model.load_state_dict(load_file(options.weights))
    evaluate: Callable[[latently.Data], float]
    if options.side == "ours":
        method = latently.ImportanceSampling(SAMPLES)
        evaluate = lambda some: latently.evaluate(model, some, method).nats  # noqa: E731
    else:
        twin, chunk = same_weights(model), CHUNKS[options.side]
        evaluate = lambda some: float(by_hand(twin, some.x.flatten(1), chunk).mean())  # noqa: E731
    evaluate(data.rows(slice(0, 20)))  # warms up
    harness.serve(lambda: {"nats": evaluate(data)})


def main() -> None:
    arguments = harness.parser(__doc__, repeats=5)
    arguments.add_argument("--rows", type=int, default=500, help="test images")
    arguments.add_argument("--weights", help="weights of our VAE; trained if not given")
    options = arguments.parse_args()
    if options.side:
        return serve(options)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or str(Path(folder) / "weights.safetensors")
        if not options.weights:
            trained(options, Path(weights))
        own = [sys.executable, __file__, "--threads", str(options.threads), "--weights", weights]
        own += ["--rows", str(options.rows)]
        own += ["--data-dir", options.data_dir] if options.data_dir else []
        sides = {name: [*own, "--side", name] for name in ("ours", *CHUNKS)}
        timed = harness.alternate(sides, options.repeats, options.threads)
    found = {name: harness.summary(times) for name, times in timed.items()}
    result = {
        "unit": f"{options.rows} images, K = {SAMPLES}",
        "sides": found,
        "ours_over": {
            name: harness.ratio(timed["ours"], timed[name], bar)
            for name, bar in zip(CHUNKS, (BAR, None), strict=True)
        },
        "memory": {
            "peak_mib": found["ours"]["peak_mib"],
            "bar_mib": BAR_MIB,
            "met": found["ours"]["peak_mib"] < BAR_MIB,
        },
    }
    harness.save("evidence_time", result, options)


if __name__ == "__main__":
    main()
