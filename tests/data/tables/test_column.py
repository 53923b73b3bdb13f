import pytest

from latently import expr
from latently.data.tables import KINDS, Column, Schema
from latently.data.tables.column import MODELLED, usual
from latently.errors import UserError
from latently.probability import families

NAMES = {name: getattr(families, name) for name in families.__all__}


@pytest.mark.parametrize("kind", MODELLED)
@pytest.mark.parametrize("low", [0.0, 1.0])
def test_the_usual_family_of_a_kind_exists_and_takes_one_column(kind, low):
    levels = 2 if kind == "binary" else 40
    constructor = expr.build(usual(kind, levels, low), NAMES)
    assert constructor((1,)).shape == (1,)


@pytest.mark.parametrize("levels", [2, 32, 33, 500])
def test_many_levels_are_embedded(levels):
    head = "Embedded" if levels > 32 else "Categorical"
    assert usual("categorical", levels) == f"{head}(levels={levels})"


def test_the_family_of_rows_is_built_from_its_text():
    columns = (
        Column("a", "real", "StudentT"),
        Column("b", "binary", "Bernoulli", categories=("x", "y")),
        Column("c", "identifier"),
        Column("d", "positive", "Hurdle(family=Gamma)"),
        Column("e", "count", "ZeroInflated(family=NegativeBinomial)"),
        Column("f", "categorical", "Embedded(levels=40)", categories=tuple(range(40))),
        Column("g", "ordinal", "Ordinal(levels=3)", categories=(1, 2, 3)),
        Column("h", "datetime", "Normal"),
    )
    for part in (columns, columns[:1]):
        schema = Schema(part)
        family = expr.build(schema.family, NAMES)((len(schema.modelled),))
        assert family.shape == (len(schema.modelled),)
    assert Schema(columns).names == ("a", "b", "d", "e", "f", "g", "h")


def test_kinds_that_are_left_out_have_no_family():
    for kind in set(KINDS) - set(MODELLED):
        assert usual(kind) is None
        with pytest.raises(UserError, match=f"kind {kind} has none"):
            Column("a", kind, "Normal", categories=("x",))
