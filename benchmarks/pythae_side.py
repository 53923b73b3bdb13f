"""The Pythae side of epoch_time.py; runs in Pythae's own environment, without latently.

One repetition is one call of `BaseTrainer.train_step`, an epoch of steps. What Pythae does besides
(once a run: sanity check, saving; once an epoch: a deep copy of the best model, printing) is left
out, in its favour, and so is per-sample binarisation: the batch is binarised inside the model.
"""

import argparse
import tempfile

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

import harness


def body(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh()]


class Encoder(BaseEncoder):
    """784-200-200 tanh, two heads of 50."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*body(784))
        self.mean, self.log_variance = nn.Linear(200, 50), nn.Linear(200, 50)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.body(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))


class Decoder(BaseDecoder):
    """50-200-200-784 tanh; Pythae's cross-entropy reads probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*body(50), nn.Linear(200, 784), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z))


class Binarised(VAE):
    """Pythae's VAE on a fresh binarisation of the batch."""

    def forward(self, inputs: DatasetOutput, **keywords: object) -> ModelOutput:
        x = inputs["data"]
        inputs["data"] = (torch.rand_like(x) < x).to(x.dtype)
        return super().forward(inputs, **keywords)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--images", required=True, help="npy file of (n, 784) grey values")
    options.add_argument("--threads", type=int, required=True)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = torch.from_numpy(np.load(given.images, allow_pickle=False))
    config = VAEConfig(input_dim=(784,), latent_dim=50, reconstruction_loss="bce")
    model = Binarised(config, encoder=Encoder(), decoder=Decoder())
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model,
            BaseDataset(x, torch.ones(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=1_000,
                learning_rate=1e-3,
                per_device_train_batch_size=100,
                optimizer_cls="Adam",
            ),
        )
        trainer.prepare_training()
        epochs = iter(range(1, 1_000))
        trainer.train_step(next(epochs))  # warms up
        harness.serve(lambda: {"bound": -float(trainer.train_step(next(epochs)))})


if __name__ == "__main__":
    main()
