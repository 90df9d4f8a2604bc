"""One reading of an instant in text, and of the end of data in names."""

from __future__ import annotations

import datetime as dt

import pytest

from recsys.artifacts import version_of
from recsys.instants import age_days, data_ends_at, instant_of

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "2026-03-01T12:00Z", "2026-03-01 14:00:00+02:00"])
def test_an_instant_without_a_zone_is_utc(text: str) -> None:
    assert instant_of(text) == NOON
    assert instant_of(text).tzinfo is not None


@pytest.mark.parametrize("text", ["", "noon", "2026-13-01"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the callers say what was expected
        instant_of(text)


def test_names_say_when_their_data_end() -> None:
    version = version_of(NOON, {})
    assert data_ends_at(version) == data_ends_at(f"dataset/{version}") == NOON
    assert data_ends_at("deepfm_update/000000000001-f1") is None
    later = version_of(NOON + dt.timedelta(days=1, hours=12), {})
    assert age_days(f"ranker/{version}", f"dataset/{later}") == 1.5
    assert age_days(f"ranker/{later}", version) == -1.5
    assert age_days("v1", version) is None
