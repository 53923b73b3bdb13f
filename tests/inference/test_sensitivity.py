"""What sensitivity says; what it computes is checked beside the models of what is missing."""

from functools import partial

import torch

from latently import Data, not_random, vae
from latently.inference.sensitivity import sensitivity
from latently.nets import MLP
from latently.probability.families import Categorical, Mixed, Normal


def test_names_have_no_mean_and_heavy_weights_are_told():
    torch.manual_seed(0)
    x = torch.randn(40, 12).double()
    x[:, 0] = (x[:, 0] > 0).double()
    mask = torch.rand(40, 12) < 0.3
    columns = (partial(Categorical, levels=2), *[Normal] * 11)
    model = vae((12,), latents=2, likelihood=partial(Mixed, columns=columns)).double()
    model = not_random(model).double()
    model.initialise(x, mask)
    data = Data(x, "Mixed", "names", mask=mask)
    found = sensitivity(model, data, tilts=(-3.0, 3.0), samples=50, sweeps=0)
    assert found.moves[0].isnan()
    assert found.means[:, 0].isnan().all()
    assert found.moves[1:].isfinite().all()
    assert 0 < found.heavy <= 40
    assert "understated" in found.warnings[1]


def test_rows_without_a_mask_of_their_own_are_taken_and_odd_tilts_refused(refused):
    model = not_random(vae((3,), latents=1, likelihood=Normal))
    model.initialise(torch.randn(5, 3), torch.rand(5, 3) < 0.5)
    with refused("no missing value"):
        sensitivity(model, Data.from_array(torch.zeros(3, 3)))
    with refused("rows to judge are Data"):
        sensitivity(model, torch.zeros(3, 3))
    for tilts in (0.5, ("a", "b"), (0.5, float("nan"))):
        with refused("tilts=", "two numbers or more"):
            sensitivity(model, Data.from_array(torch.full((3, 3), torch.nan)), tilts=tilts)


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
