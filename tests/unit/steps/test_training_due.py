"""When training is due again."""

from __future__ import annotations

import datetime as dt

import pytest

from recsys.steps.training_due import next_due

THURSDAY = dt.datetime(2026, 3, 5, 2, 10, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 2 * * 0", dt.datetime(2026, 3, 8, 2, tzinfo=dt.UTC)),
        ("@weekly", dt.datetime(2026, 3, 8, tzinfo=dt.UTC)),
        ("@monthly", dt.datetime(2026, 4, 1, tzinfo=dt.UTC)),
        ("0 2 * * *", dt.datetime(2026, 3, 6, 2, tzinfo=dt.UTC)),
    ],
)
@pytest.mark.parametrize("hours_from_utc", [0, 5])
def test_a_schedule_is_read_in_utc(schedule: str, expected: dt.datetime, hours_from_utc: int) -> None:
    zone = dt.timezone(dt.timedelta(hours=hours_from_utc))
    assert next_due(schedule, THURSDAY.astimezone(zone)) == expected
