"""Archives the log as Parquet files, one folder a day, and replays them.

    FOLDER/archive.json                          the offset of the archive
    FOLDER/day=2026-03-01/part-00000007.parquet  events that occurred on the day (UTC), of the seventh part

A part is committed when archive.json names it; files that a killed process left uncommitted are deleted by the next
one. So each event is in exactly one file, whatever failed in between.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts import sync
from recsys.errors import InputError
from recsys.events.connections import keep_offset
from recsys.events.event import Event
from recsys.events.log import START, EventLog, Offset, Transactions

_PORTION: Final = 50_000
_APPENDED: Final = 500
_STATE: Final = "archive.json"
_PART: Final = re.compile(r"part-(\d{8})\.parquet\Z")
SCHEMA: Final = pa.schema(
    [
        ("place", pa.int64()),  # in the portion
        ("event_id", pa.string()),
        ("retry_of", pa.string()),
        ("retried_as", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("label", pa.float64()),
        ("parameters", pa.string()),  # JSON
        ("features", pa.string()),
        ("version", pa.string()),
        ("digest", pa.binary()),
    ]
)


async def archive(log: EventLog, folder: Path, portion: int = _PORTION) -> int:
    """Write the events after the last part; the number of events. LogAwayError, LogGapError, InputError."""
    n = 0
    with _locked(folder):
        state = _state(folder, log.name)
        _clean(folder, state["parts"])
        if not (folder / _STATE).exists():  # an empty log gets an archive, too
            _save(folder, state)
        while True:
            events, after = await _portion(log, state["after"], portion)
            if after == state["after"]:
                return n
            if events:
                _write(folder, state["parts"] + 1, events)
            state |= {"after": after, "parts": state["parts"] + bool(events)}
            _save(folder, state)
            n += len(events)


async def archive_and_report(log: EventLog, connections: Transactions, folder: Path) -> int:
    """`archive`, and store the archive's offset in Postgres."""
    n = await archive(log, folder)
    after = offset_of_archive(folder)
    await connections.transaction(lambda connection: keep_offset(connection, reader_of(folder), after))
    return n


def reader_of(folder: Path) -> str:
    """The name of an archive among the readers of the log."""
    return f"archive:{folder.resolve().name}"


def offset_of_archive(folder: Path) -> Offset:
    """The offset up to which an archive has the log."""
    after: Offset = json.loads((folder / _STATE).read_text())["after"]
    return after


async def skip_gap(log: EventLog, connections: Transactions, folder: Path) -> Offset:
    """Move an archive's offset to the oldest event that the log has, in its folder and in Postgres; the offset.

    LogAwayError; InputError without an archive.
    """
    with _locked(folder, must_exist=True):
        state = _state(folder, log.name)
        after = log.later(state["after"], await log.oldest())
        _save(folder, state | {"after": after})
    await connections.transaction(lambda connection: keep_offset(connection, reader_of(folder), after))
    return after


async def replay(
    log: EventLog, folder: Path, since: dt.datetime | None = None, until: dt.datetime | None = None
) -> dict[str, int]:
    """Append the events of an archive that occurred in [since, until), in order; counts by outcome.

    Events that the log already has are duplicates: it is idempotent. InputError where there is no archive.
    """
    counts = dict.fromkeys(("accepted", "duplicates", "conflicts", "erased"), 0)
    with _locked(folder, must_exist=True):
        for events in _portions(folder, since, until):
            for start in range(0, len(events), _APPENDED):
                appended = await log.append(events[start : start + _APPENDED])
                for name in counts:
                    counts[name] += len(getattr(appended, name))
    return counts


async def _portion(log: EventLog, after: Offset, limit: int) -> tuple[list[Event], Offset]:
    """All events up to the limit: a single read may return fewer."""
    events: list[Event] = []
    while len(events) < limit:
        batch = await log.read(after, limit - len(events))
        events += batch.events
        if batch.after == after:
            break
        after = batch.after
    return events, after


def _write(folder: Path, part: int, events: Sequence[Event]) -> None:
    columns: dict[str, Sequence[Any]] = dict(zip(Event._fields, zip(*events, strict=True), strict=True))
    for name in ("parameters", "features"):
        columns[name] = [text.decode() for text in columns[name]]
    table = pa.table(columns | {"place": range(len(events))}, schema=SCHEMA)
    days = pc.strftime(table["occurred_at"], "%Y-%m-%d")
    for day in pc.unique(days).to_pylist():
        path = folder / f"day={day}" / f"part-{part:08}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.filter(pc.equal(days, day)), path, compression="zstd")
        sync(path)
        sync(path.parent)


def _portions(folder: Path, since: dt.datetime | None, until: dt.datetime | None) -> Iterator[list[Event]]:
    parts = json.loads((folder / _STATE).read_text())["parts"]
    files_by_part: dict[int, list[Path]] = {}
    for path, part in _files(folder):
        if part <= parts:
            files_by_part.setdefault(part, []).append(path)
    for _, files in sorted(files_by_part.items()):
        table = pa.concat_tables([pq.read_table(path, schema=SCHEMA, partitioning=None) for path in files])
        if since is not None:
            table = table.filter(pc.greater_equal(table["occurred_at"], pa.scalar(since, SCHEMA.field(8).type)))
        if until is not None:
            table = table.filter(pc.less(table["occurred_at"], pa.scalar(until, SCHEMA.field(8).type)))
        yield [_event(row) for row in table.sort_by("place").to_pylist()]


def _event(row: dict[str, Any]) -> Event:
    del row["place"]
    row |= {name: row[name].encode() for name in ("parameters", "features")}
    row["occurred_at"] = row["occurred_at"].astimezone(dt.UTC)
    return Event(**row)


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.glob("day=*/part-*.parquet")):
        if found := _PART.search(path.name):
            yield path, int(found[1])


def _clean(folder: Path, parts: int) -> None:
    for path, part in _files(folder):
        if part > parts:
            path.unlink()


def _state(folder: Path, log_name: str) -> dict[str, Any]:
    path = folder / _STATE
    state = json.loads(path.read_text()) if path.exists() else {"log": log_name, "after": START, "parts": 0}
    if state["log"] != log_name:
        raise InputError(f"{folder} is an archive of {state['log']}, not of {log_name}; give another folder")
    return dict(state)


def _save(folder: Path, state: dict[str, Any]) -> None:
    part = folder / f"{_STATE}.part"
    part.write_text(json.dumps(state))
    sync(part)
    part.replace(folder / _STATE)
    sync(folder)


@contextmanager
def _locked(folder: Path, *, must_exist: bool = False) -> Iterator[None]:
    if must_exist and not (folder / _STATE).exists():
        raise InputError(f"{folder} is not an archive: {_STATE} is missing; create one with `recsys archive`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("w")
    except OSError as error:
        raise InputError(f"{folder} cannot be an archive: {error.strerror or error}; give another folder") from None
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process works on the archive {folder}") from None
        yield
