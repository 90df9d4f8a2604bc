"""Old events go when an archive has them and every reader has passed them, and never before."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from recsys.artifacts import ArtifactStore
from recsys.errors import InputError
from recsys.events import commands, retention
from recsys.events.connections import Connections, keep_offset
from recsys.events.event import parse
from recsys.events.postgres_log import PostgresLog
from recsys.settings import Settings
from recsys.steps import housekeeping
from recsys.steps.context import Context
from recsys.tracking import Tracker
from recsys.updater.store import TrainingStore, UpdateRow
from tests.integration import connected
from tests.integration import serving_shop as shop

NOW = dt.datetime.now(dt.UTC)
YEARS = dt.timedelta(days=500)


def append(url: str, first: int, last: int) -> None:
    raw = [{"event_id": f"e{n:02}", "user_id": "501", "item_id": "1001", "timestamp": NOW} for n in range(first, last)]
    events = [event for _, event in parse(raw, NOW)[0]]
    connected.run(url, lambda connections: PostgresLog(connections).append(events))


def left(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return [int(name[1:]) for name in connection.scalars(sa.text("select event_id from events order by 1"))]


@pytest.fixture
def world(clean_database_url: str, clean_database: sa.Engine, tmp_path: Path) -> tuple[str, sa.Engine, Path]:
    """Events 0 to 9 and 10 to 19 were received long ago, 20 to 29 now."""
    shop.stock(clean_database)
    append(clean_database_url, 0, 10)
    append(clean_database_url, 10, 20)
    with clean_database.begin() as connection:
        connection.execute(sa.text("update events set received_at = :at"), {"at": NOW - YEARS})
    append(clean_database_url, 20, 30)
    return clean_database_url, clean_database, tmp_path / "archive"


def archived(folder: Path) -> list[int]:
    return sorted(
        int(name[1:]) for path in folder.rglob("*.parquet") for name in pq.read_table(path)["event_id"].to_pylist()
    )


def test_old_ones_are_archived_and_go_and_new_ones_stay(world: tuple[str, sa.Engine, Path]) -> None:
    url, engine, folder = world
    settings = Settings(database_url=url, event_days=400, event_archive=folder, _env_file=None)
    assert commands.delete_old(settings, NOW, dry_run=True) == 20
    assert left(engine) == list(range(30))
    assert not folder.exists()
    assert commands.delete_old(settings, NOW, dry_run=False) == 20
    assert left(engine) == list(range(20, 30))
    assert archived(folder) == list(range(30))
    append(url, 30, 33)
    assert commands.delete_old(settings, NOW, dry_run=False) == 0
    assert archived(folder) == list(range(33))
    assert commands.delete_old(settings.model_copy(update={"event_days": None}), NOW, dry_run=False) == 0


def test_it_is_a_rule_of_housekeeping_where_it_is_asked_for(world: tuple[str, sa.Engine, Path]) -> None:
    _, engine, folder = world
    for days, there in ((None, 30), (400, 10)):
        settings = Settings(event_days=days, event_archive=folder, local_dir=folder.parent, _env_file=None)
        ctx = Context(
            settings, engine, ArtifactStore(str(folder.parent / "artifacts")), Tracker("sqlite://", "nowhere")
        )
        rules = [rule for name, rule in housekeeping._rules(ctx, NOW, False) if name.startswith("events received")]
        assert sum(rule().n for rule in rules) == 30 - there
        assert len(left(engine)) == there


def test_what_a_reader_has_not_passed_stays(world: tuple[str, sa.Engine, Path]) -> None:
    url, engine, folder = world
    before = NOW - dt.timedelta(days=400)

    async def work(connections: Connections) -> None:
        log = PostgresLog(connections)
        after = [(await log.read("", n)).after for n in (5, 12, 30)]
        row = UpdateRow(1, "m/v1", True, "u/1", None, "c", log.name, after[0], 5, None, 0)
        await TrainingStore(connections).commit(row)
        assert await retention.delete_old(connections, folder, before, portion=2) == 5
        row = row._replace(number=2, after=after[2], parent="c", chain="d")
        await TrainingStore(connections).commit(row)
        assert await retention.delete_old(connections, folder, before, outbox=True) == 0  # the relay has read nothing
        await connections.transaction(lambda connection: keep_offset(connection, "relay", after[1]))
        assert await retention.delete_old(connections, folder, before, outbox=True) == 7
        assert left(engine) == list(range(12, 30))
        assert await retention.delete_old(connections, folder, before) == 8

    connected.run(url, work)
    assert left(engine) == list(range(20, 30))
    assert archived(folder) == list(range(30))


def housekept(url: str, engine: sa.Engine, folder: Path) -> int:
    """How many events housekeeping lets go of."""
    settings = Settings(database_url=url, event_days=400, event_archive=folder, local_dir=folder.parent, _env_file=None)
    assert commands.delete_old(settings, NOW, dry_run=True) == commands.delete_old(settings, NOW, dry_run=False) == 0
    n = commands.archive(settings, folder)["events"]
    assert n == 0, "it is in the archive already"
    ctx = Context(settings, engine, ArtifactStore(str(folder.parent / "artifacts")), Tracker("sqlite://", "nowhere"))
    rules = [rule for name, rule in housekeeping._rules(ctx, NOW, False) if name.startswith("events received")]
    return sum(rule().n for rule in rules)


def test_of_an_empty_log_nothing_goes_and_nothing_fails(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    settings = Settings(database_url=clean_database_url, _env_file=None)
    assert commands.archive(settings, tmp_path / "other")["events"] == 0
    assert housekept(clean_database_url, clean_database, tmp_path / "archive") == 0
    assert archived(tmp_path / "archive") == []


def test_of_a_log_whose_events_are_all_newer_nothing_goes(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    append(clean_database_url, 0, 10)
    assert housekept(clean_database_url, clean_database, tmp_path / "archive") == 0
    assert left(clean_database) == archived(tmp_path / "archive") == list(range(10))


@pytest.mark.parametrize("reader", ["updater", "archive", "relay"])
def test_nothing_goes_while_a_reader_has_never_read(
    world: tuple[str, sa.Engine, Path], reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, engine, folder = world
    before, outbox = NOW - dt.timedelta(days=400), reader == "relay"

    async def work(connections: Connections) -> None:
        if reader == "updater":  # it works, and no publication uses its model yet
            assert await TrainingStore(connections).take_lease("here") == 1
        if reader == "archive":  # made when there was no event
            await connections.transaction(lambda c: keep_offset(c, "archive:weekly", ""))
        await connections.transaction(lambda c: keep_offset(c, "archive:of_kafka", '{"0": 5}'))
        assert await retention.count(connections, folder, before, outbox=outbox) == 0
        assert await retention.delete_old(connections, folder, before, outbox=outbox) == 0

    connected.run(url, work)
    assert left(engine) == archived(folder) == list(range(30))
    assert f"until {'archive:weekly' if reader == 'archive' else reader} has read them" in caplog.text


def test_an_updater_that_nobody_wants_holds_nothing_up(world: tuple[str, sa.Engine, Path]) -> None:
    url, engine, folder = world
    connected.run(url, lambda connections: TrainingStore(connections).take_lease("here"))
    with engine.begin() as connection:
        connection.execute(sa.text("update training_state set wanted = 'stopped'"))
    settings = Settings(database_url=url, event_days=400, event_archive=folder, _env_file=None)
    assert commands.delete_old(settings, NOW, dry_run=False) == 20


def test_it_is_refused_where_rows_say_what_counts_and_where_a_retry_would_count_twice(tmp_path: Path) -> None:
    options: dict[str, Any] = {"event_days": 400, "kafka_bootstrap_servers": "127.0.0.1:1", "_env_file": None}
    with pytest.raises(InputError, match="Kafka"):
        commands.delete_old(Settings(local_dir=tmp_path, **options), NOW, dry_run=True)
    with pytest.raises(ValidationError, match="event_days"):
        Settings(event_days=300, _env_file=None)
