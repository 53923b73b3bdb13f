"""The progress bar without a terminal: plain lines that say how fast, and how long it takes."""

from types import SimpleNamespace

import pytest

from latently.training import progress
from latently.training.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_what_comes_before_the_first_pass_slows_no_forecast(clock, capsys):
    with Bar(30, "pass", value="log p(x)") as bar:
        clock.now = 46.0  # starts of EM
        bar.update(1, -158.66)
        clock.now = 66.0
        bar.update(11, -157.0)
        clock.now = 104.0
        bar.update(30, -156.0)
    assert lines(capsys) == [
        "pass 1/30  log p(x) -158.66",
        "pass 11/30  log p(x) -157.00  0.5 passes/s  0:38 left",
        "pass 30/30  log p(x) -156.00  0.5 passes/s  0:00 left",
    ]


def test_lines_come_every_ten_seconds_and_at_the_end(clock, capsys):
    with Bar(400, "step") as bar:
        for step in range(1, 401):
            clock.now = step / 16
            bar.update(step, None)
    assert lines(capsys) == [
        "step 160/400  16 steps/s  0:15 left",
        "step 320/400  16 steps/s  0:05 left",
        "step 400/400  16 steps/s  0:00 left",
    ]


def test_a_single_step_is_told_with_its_rate(clock, capsys):
    with Bar(1, "row") as bar:
        clock.now = 4.0
        bar.update(1, None)
    assert lines(capsys) == ["row 1/1  0.25 rows/s  0:00 left"]


def test_a_run_that_goes_on_counts_its_own_steps(clock, capsys):
    with Bar(300, "step", 100, value="bound") as bar:
        clock.now = 20.0
        bar.update(101, -90.0)
        clock.now = 31.0
        bar.epoch(3, -88.0, -91.0)
        bar.update(123, -87.0)
    assert lines(capsys) == [
        "step 101/300  bound -90.00",
        "step 123/300  bound -87.00  2 steps/s  epoch 3: -88.00, validation -91.00  1:28 left",
    ]


def test_the_end_is_told_once(clock, capsys):
    with Bar(5, "row") as bar:
        for done in (3, 5, 5):
            clock.now += 1.0
            bar.update(done, None)
        clock.now += 60.0
    assert lines(capsys) == ["row 5/5  2 rows/s  0:00 left"]
