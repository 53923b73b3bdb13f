from datetime import UTC, datetime

import numpy as np
import pytest

from latently.data.tables.dates import date_text, parse_dates, round_to, unit_of


def seconds(*parts):
    return datetime(*parts, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "form", "moment"),
    [
        ("2020-01", "%Y-%m", (2020, 1, 1)),
        ("2020-02-29", "%Y-%m-%d", (2020, 2, 29)),
        ("1899-12-31", "%Y-%m-%d", (1899, 12, 31)),
        ("2020-01-31 12:30", "%Y-%m-%d %H:%M", (2020, 1, 31, 12, 30)),
        ("2020-01-31T12:30:05", "%Y-%m-%dT%H:%M:%S", (2020, 1, 31, 12, 30, 5)),
        ("2020-01-31T12:30:05Z", "%Y-%m-%dT%H:%M:%SZ", (2020, 1, 31, 12, 30, 5)),
        ("2020/1/5", "%Y/%m/%d", (2020, 1, 5)),
        ("05.01.2020", "%d.%m.%Y", (2020, 1, 5)),
        ("31/01/2020", "%d/%m/%Y", (2020, 1, 31)),
        ("01-31-2020", "%m-%d-%Y", (2020, 1, 31)),
    ],
)
def test_dates_are_read_and_written_back(text, form, moment):
    dated = parse_dates([text])
    assert dated is not None
    assert dated.form == form
    assert dated.values.tolist() == [seconds(*moment)]
    written = date_text(dated.values[0], form)
    assert parse_dates([written], form).values.tolist() == dated.values.tolist()


def test_an_offset_is_counted_in():
    (value,) = parse_dates(["2020-01-31T12:30:00+02:00"]).values
    assert value == seconds(2020, 1, 31, 10, 30)
    assert date_text(value, "%Y-%m-%d %H:%M:%SZ") == "2020-01-31 10:30:00Z"


@pytest.mark.parametrize("text", ["2020", "2020-13", "2020-02-30", "32.01.2020", "12:30", "word"])
def test_what_is_no_date_of_the_calendar_is_none(text):
    assert parse_dates([text]) is None
    assert np.isnan(parse_dates([text, "2020-01-31"]).values[0])


def test_day_and_month_are_told_apart_by_the_column_or_by_what_is_known():
    assert parse_dates(["01/02/2020", "03/04/2020"]) is None
    assert parse_dates(["01/02/2020", "13/04/2020"]).values[0] == seconds(2020, 2, 1)
    assert parse_dates(["01/02/2020", "04/13/2020"]).values[0] == seconds(2020, 1, 2)
    assert parse_dates(["13/02/2020", "04/13/2020"]) is None
    assert parse_dates(["01/02/2020"], "%d/%m/%Y").values[0] == seconds(2020, 2, 1)
    assert parse_dates(["01/02/2020"], "%m/%d/%Y").values[0] == seconds(2020, 1, 2)


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["2020-01-01", "2020-01-02"], "day"),
        (["2020-01", "2020-02", "2020-05"], "month"),
        (["2020-01", "2020-02"], "day"),
        (["2020-01-01 10:00", "2020-01-02 00:00"], "hour"),
        (["2020-01-01 10:30"], "minute"),
        (["2020-01-01 10:30:01"], "second"),
        (["2020-01-01 10:30:01.5"], None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_units_are_the_largest_that_lose_nothing(texts, unit):
    values = parse_dates(texts).values
    assert unit_of(values) == unit
    np.testing.assert_array_equal(round_to(values, unit), values)


def test_months_are_rounded_down_and_days_to_the_nearest():
    moment = np.array([seconds(2020, 2, 28, 20)])
    assert round_to(moment, "month").tolist() == [seconds(2020, 2, 1)]
    assert round_to(moment, "day").tolist() == [seconds(2020, 2, 29)]
    before = np.array([seconds(1969, 12, 31, 23, 59, 59)])
    assert round_to(before, "month").tolist() == [seconds(1969, 12, 1)]
