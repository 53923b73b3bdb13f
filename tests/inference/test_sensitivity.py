"""What sensitivity says; what it computes is checked beside the models of what is missing."""

from functools import partial

import torch

from latently import Data, not_random, vae
from latently.inference.sensitivity import sensitivity
from latently.nets import MLP
from latently.probability.families import Normal


def test_the_column_that_moves_most_is_called_by_its_name():
    torch.manual_seed(0)
    model = not_random(vae((2,), latents=1, likelihood=Normal, net=partial(MLP, hidden=(4,))))
    ages = [30.0, None, 41.5, None, 28.0, 39.5]
    table = Data.from_frame({"size": [1.5, 2.0, 1.25, 1.75, 2.5, 2.25], "age": ages})
    x = (table.x - table.x.mean(0)) / table.x.std(0)
    model.initialise(x, table.mask)
    (told,) = sensitivity(model, table, samples=20).warnings
    assert told.startswith("column 'age': its imputed mean moves by ")
    plain = Data(table.x, table.family, "plain", mask=table.mask)
    (told,) = sensitivity(model, plain, samples=20).warnings
    assert told.startswith("column 1: its imputed mean moves by ")
