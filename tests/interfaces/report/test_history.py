"""The course of training: what is drawn, and what is said of steps that were not usual."""

import math
import re

import pytest

from latently.interfaces.report.history import counts, small_curves


def history(n=10, **rows):
    return [
        {"epoch": i, "step": 5 * i, "seconds": 2.0 * i} | {k: v(i) for k, v in rows.items()}
        for i in range(1, n + 1)
    ]


def titles(drawn):
    return [re.search(r'aria-label="m, ([^"]*) by epoch', figure)[1] for figure in drawn]


def test_small_curves_show_what_changes():
    constant = history(learning_rate=lambda i: 1e-3, gradient_norm=lambda i: 10.0 ** (3 - i))
    assert titles(small_curves(constant, "m", 0)) == ["gradient norm", "seconds per epoch"]
    falling = history(learning_rate=lambda i: 1e-3 / i)
    assert titles(small_curves(falling, "m", 0)) == ["learning rate", "seconds per epoch"]
    assert "seconds per epoch by epoch: from 2 to 2" in small_curves(falling, "m", 0)[-1]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        history(2),
        [{"epoch": 1, "gradient_norm": math.nan}] * 5,
        [{"pass": 1, "log_prob": -1.0}] * 5,
    ],
)
def test_short_and_odd_histories_have_none(rows):
    assert small_curves(rows, "m", 0) == []
    assert counts(rows) == []


def test_gradients_of_zero_and_resumed_seconds_are_drawn():
    assert len(small_curves(history(gradient_norm=lambda i: 0.0), "m", 0)) == 2


def test_unusual_steps_are_counted_over_all_epochs():
    rows = history(skipped=lambda i: int(i == 3), clipped=lambda i: 2, non_finite=lambda i: 0)
    skipped, clipped = counts(rows)
    assert skipped.startswith("1 of 50 steps were not taken: the norm")
    assert clipped.startswith("20 of 50 steps were taken with the gradient shortened")
