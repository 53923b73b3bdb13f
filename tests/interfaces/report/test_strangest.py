"""Strange rows of a table: planted ones are found, with the cell that was planted."""

import torch

from latently.inference.evidence import evaluate
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.strangest import strangest, typical


def spoilt(data, row, **values):
    """The data with cells of one row changed."""
    x = data.x.clone()
    for name, value in values.items():
        x[row, Cells.of(data).names.index(name)] = value
    return type(data)(x, data.family, data.protocol, data.mask, table=data.table)


def test_planted_cells_are_found_and_said_in_the_words_of_the_table(people, mixed, subject):
    data = people(400, holes=False)
    model = mixed(data).model
    young = int((data.x[:, 0] < 35).nonzero()[0])
    old = int((data.x[:, 0] > 45).nonzero()[0])
    cells = Cells.of(data)
    bad = spoilt(data, young, joined=float(data.x[:, 5].max()) + 3 * 86400 * 365)
    bad = spoilt(bad, old, income=1.0)
    values = evaluate(model, bad).values
    found = strangest(subject(model, bad), values)
    assert {found[0].row, found[1].row} == {young, old}
    first = {row.row: row.cells[0] for row in found[:2]}
    assert first[young].name == "joined"
    assert first[young].value == cells.value(5, float(bad.x[young, 5]))
    assert first[old].name == "income"
    assert first[old].value == "1"
    low, _, high = first[old].range.partition(" to ")
    assert float(low) < float(first[old].expected) < float(high)
    assert float(low) > 1000
    assert float(first[old].excess) > 3


def test_an_odd_name_stands_beside_the_likeliest_one(people, mixed, subject):
    data = people(400, holes=False)
    model = mixed(data).model
    towns = data.table.columns[3].categories
    row = int((data.x[:, 0] > 50).nonzero()[0])
    bad = spoilt(data, row, town=float(towns.index("Aberdeen"))).rows([row])
    values = torch.zeros(1, dtype=torch.float64)
    (found,) = strangest(subject(model, bad), values)
    (town,) = [cell for cell in found.cells if cell.name == "town"]
    assert town.value == "Aberdeen"
    assert town.expected == "Hull"
    assert "; Aberdeen: " in town.range
    assert float(town.surprise) > 1.5


def test_typical_rows_show_their_values(people):
    data = people(60)
    values = torch.arange(60.0)
    found = typical(data, values)
    lacks = (~data.mask).sum(1)
    least = [row for row in range(59, -1, -1) if lacks[row] <= lacks.sort().values[15]]
    assert [one.row for one in found] == least[:6]
    cells = Cells.of(data)
    for one in found:
        for j, (name, value) in enumerate(one.cells):
            assert name == cells.names[j]
            seen = bool(data.mask[one.row, j])
            assert value == (cells.value(j, float(data.x[one.row, j])) if seen else "")
    assert typical(data.rows([0]), values[:1]) == ()


def test_rows_with_holes_are_not_the_most_typical(people):
    data = people(80)
    lacks = (~data.mask).sum(1)
    found = typical(data, lacks.double())  # the more holes, the higher
    assert found
    assert all(int(lacks[one.row]) <= int(lacks.median()) for one in found)
