"""The archive holds each event once, whatever was killed, and feeds a log again."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.errors import InputError
from recsys.events import archive as archives
from recsys.events.archive import archive, replay
from recsys.events.event import Event, parse
from recsys.events.log import START
from recsys.events.memory_log import MemoryLog

NOW = dt.datetime(2026, 3, 1, 0, 30, tzinfo=dt.UTC)


def events_of(*numbers: int) -> list[Event]:
    """One every ten minutes into the past: the first four are of the first of March, the others of February."""
    raw = [
        {
            "event_id": f"e{number:02}",
            "user_id": str(number % 3),
            "item_id": "1",
            "timestamp": NOW - dt.timedelta(minutes=10 * number),
            "parameters": {"n": number, "name": "ü"},
            "label": number / 4,
        }
        for number in numbers
    ]
    return [event for _, event in parse(raw, NOW)[0]]


def test_where_no_folder_can_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="cannot be an archive") as refused:
            asyncio.run(archive(filled(1), folder))
        assert "\n" not in str(refused.value)


def filled(*numbers: int) -> MemoryLog:
    log = MemoryLog()
    asyncio.run(log.append(events_of(*numbers)))
    return log


def archived(folder: Path) -> list[str]:
    return sorted(
        name for path in folder.glob("day=*/*") for name in pq.ParquetFile(path).read()["event_id"].to_pylist()
    )


def test_events_lie_by_day_and_come_back_in_their_order(tmp_path: Path) -> None:
    log = filled(*range(10))
    assert asyncio.run(archive(log, tmp_path, portion=4)) == 10
    assert sorted(path.name for path in tmp_path.glob("day=*")) == ["day=2026-02-28", "day=2026-03-01"]
    again = MemoryLog()
    assert asyncio.run(replay(again, tmp_path)) == {"accepted": 10, "duplicates": 0, "conflicts": 0, "erased": 0}
    assert again.events == log.events
    assert asyncio.run(replay(again, tmp_path))["duplicates"] == 10
    assert asyncio.run(archive(log, tmp_path)) == 0
    asyncio.run(log.append(events_of(10)))
    assert asyncio.run(archive(log, tmp_path)) == 1
    assert archived(tmp_path) == [f"e{number:02}" for number in range(11)]


def test_of_an_empty_log_there_is_an_archive_too(tmp_path: Path) -> None:
    assert asyncio.run(archive(MemoryLog(), tmp_path)) == 0
    assert sum(asyncio.run(replay(MemoryLog(), tmp_path)).values()) == 0
    assert asyncio.run(archive(filled(1, 2), tmp_path)) == 2


def test_a_range_of_time_is_replayed(tmp_path: Path) -> None:
    asyncio.run(archive(filled(*range(10)), tmp_path))
    log = MemoryLog()
    since, until = NOW - dt.timedelta(minutes=40), NOW - dt.timedelta(minutes=10)
    asyncio.run(replay(log, tmp_path, since, until))
    assert sorted(event.event_id for event in log.events if event) == ["e02", "e03", "e04"]


@pytest.mark.parametrize("failing", ["_save", "sync"])
def test_killed_at_any_step_it_goes_on_and_holds_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The files of an unfinished portion stand when the process dies; the next portion is cut otherwise."""
    real, n = getattr(archives, failing), 0

    def die(*arguments: object) -> None:
        nonlocal n
        n += 1
        if n % 3 == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(archives, failing, die)
    log = filled(*range(20))
    for portion in (6, 3, 7, 5, 2, 50, 4, 9, 3, 8, 6, 5, 4, 7, 20, 20, 20, 20):
        try:
            asyncio.run(archive(log, tmp_path, portion=portion))
        except KeyboardInterrupt:
            continue
    monkeypatch.setattr(archives, failing, real)
    asyncio.run(archive(log, tmp_path))
    assert archived(tmp_path) == [f"e{number:02}" for number in range(20)]
    again = MemoryLog()
    asyncio.run(replay(again, tmp_path))
    assert again.events == log.events


def test_what_is_no_archive_or_anothers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an archive"):
        asyncio.run(replay(MemoryLog(), tmp_path / "nothing"))
    asyncio.run(archive(filled(1), tmp_path))
    other = MemoryLog()
    other.name = "kafka:other"
    with pytest.raises(InputError, match="not of kafka:other"):
        asyncio.run(archive(other, tmp_path))
    assert archives._state(tmp_path, "memory")["after"] != START
