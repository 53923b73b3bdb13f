import json

import pytest

from latently.interfaces.cards import Card, card, cards, markdown_table
from latently.interfaces.request import read_request

CARDS = cards()


@pytest.mark.parametrize("made", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_call_can_be_read(made, quick):
    fit, evaluate = made.budget(quick)
    request = read_request([*fit, "--out", "m.safetensors"])
    assert request.files["data"] == made.fit[made.fit.index("--data") + 1]
    options = dict(zip(evaluate[::2], evaluate[1::2], strict=True))
    assert set(options) <= {"--data", "--samples", "--seed"}
    assert "/test" in options["--data"]


@pytest.mark.parametrize("made", CARDS.values(), ids=CARDS)
def test_a_recorded_result_is_no_lower_than_its_bar(made):
    if made.ours and made.bar is not None:
        assert made.ours["nats"] >= made.bar
        assert not made.ours.get("quick")


def test_quick_replaces_and_adds():
    made = Card(
        "n", "", ["vae", "--epochs", "9"], [], {"fit": ["--epochs", "1", "--seed", "2"]}, ""
    )
    assert made.budget(True)[0] == ["vae", "--epochs", "1", "--seed", "2"]
    assert made.budget(False)[0] == ["vae", "--epochs", "9"]


def test_the_table_has_every_card():
    assert all(f"`latently reproduce {name}`" in markdown_table() for name in CARDS)


def test_unknown_cards_name_the_closest(refused):
    with refused("did you mean digits-vae"):
        card("digit-vae")


def test_reproduce_quick_runs_and_is_not_run_twice(done, tmp_path):
    words = ("reproduce", "digits-ppca32", "--quick", "--out", tmp_path)
    shown = done(*words)
    assert "expected: below FA" in shown
    record = json.loads((tmp_path / "digits-ppca32.quick.json").read_text())
    assert record["quick"] is True
    assert record["protocol"] == "digits/test"
    assert record["hardware"]["threads"] >= 1
    assert "only evaluating it" in done(*words)
    again = json.loads((tmp_path / "digits-ppca32.quick.json").read_text())
    assert again["nats"] == record["nats"]
