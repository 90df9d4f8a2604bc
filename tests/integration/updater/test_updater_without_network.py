"""The updater's loop on real tables, with a trainer that remembers in the place of a network."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.events import meaning
from recsys.events.connections import Connections
from recsys.events.event import parse
from recsys.events.log import START, LogAwayError, LogGapError
from recsys.events.postgres_log import PostgresLog
from recsys.settings import Settings
from recsys.storage import tables
from recsys.updater import process, store
from recsys.updater.process import Updater
from recsys.updater.store import TrainingStore, UpdateRow
from recsys.updater.supervisor import Supervisor
from tests import online_world as world
from tests.integration import serving_shop as shop


class Trainer:
    """What the loop asks of a trainer."""

    learn_s = 0.0

    def __init__(self, *_: Any) -> None:
        self.spec = SimpleNamespace(cut_at=world.CUT)
        self.window = SimpleNamespace(metrics=lambda: {"n": 0})
        self.learned: list[str] = []
        self.followed: list[list[str]] = []
        TRAINERS.append(self)

    def begin(self) -> None:
        self.learned.clear()

    def without_key(self, _: Any) -> list[str]:
        return []

    def learn(self, known: Any, number: int, alive: Callable[[], None]) -> dict[str, float]:
        time.sleep(self.learn_s)
        alive()
        self.learned += [one.event.event_id for one in known]
        return {"examples": len(known), "loss": 0.0}

    def problem(self) -> None:
        return None

    def write(self, folder: Path, *, is_base: bool) -> None:
        np.save(folder / "weights.npy", np.arange(len(self.learned)))

    def committed(self) -> None:
        pass

    def restore(self, folder: Path) -> None:
        assert (folder / "weights.npy").exists()

    def follow(self, folder: Path, known: Any) -> None:
        self.followed.append([one.event.event_id for one in known])


TRAINERS: list[Trainer] = []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_database: sa.Engine) -> Settings:
    TRAINERS.clear()
    monkeypatch.setattr(process, "Trainer", Trainer)
    with ArtifactStore(str(tmp_path)).writing("deepfm_serving", "v1", made_by="tests") as (folder, _):
        (folder / "a file").write_text("of a model")
    world.stock(clean_database)
    return Settings(artifact_root=str(tmp_path), updater={"batch_s": 0, "batch_events": 40}, _env_file=None)


def append(url: str, first: int, last: int) -> None:
    samples = [
        {"event_id": f"e{n}", "user_id": "501", "item_id": "1001", "timestamp": world.CUT_AT + dt.timedelta(seconds=n)}
        for n in range(first, last)
    ]
    events, rejected = parse(samples, world.CUT_AT + dt.timedelta(days=1))
    assert not rejected

    async def work() -> None:
        connections = Connections(url, "tests")
        await PostgresLog(connections).append([event for _, event in events])
        await connections.close()

    asyncio.run(work())


def work(url: str, settings: Settings, until: Callable[[], bool], log: type[PostgresLog] = PostgresLog) -> None:
    """An updater at work until something is true."""

    async def run() -> None:
        connections = Connections(url, "tests")
        stop = asyncio.Event()
        try:
            task = asyncio.create_task(Updater(settings, connections, log(connections), "here:1").work(stop))
            deadline = time.monotonic() + 60
            while not (await asyncio.to_thread(until)) and not task.done():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            stop.set()
            await task
        finally:
            await connections.close()

    asyncio.run(run())


def names(first: int, last: int) -> list[str]:
    return [f"e{n}" for n in range(first, last)]


def execute(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def one(engine: sa.Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text(query)).scalar_one()


def test_it_beats_while_it_learns(
    clean_database_url: str, clean_database: sa.Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "learn_s", 4.0)
    beats: set[Any] = set()

    def learned() -> bool:
        beats.add(one(clean_database, "select heartbeat_at from training_state"))
        return bool(TRAINERS and TRAINERS[-1].learned)

    work(clean_database_url, settings, lambda: bool(one(clean_database, "select count(*) from model_updates")))
    append(clean_database_url, 0, 3)
    beats.clear()
    work(clean_database_url, settings, learned)
    assert len(beats) >= 4
    assert one(clean_database, "select state from training_state") == "stopped"


def test_it_begins_at_the_end_of_the_night_s_data(
    clean_database_url: str, clean_database: sa.Engine, settings: Settings
) -> None:
    append(clean_database_url, 0, 30)
    execute(clean_database, f"update events set received_at = '{world.CUT_AT - dt.timedelta(days=1)}'")
    append(clean_database_url, 30, 50)
    work(clean_database_url, settings, lambda: bool(TRAINERS and len(TRAINERS[-1].learned) >= 20))
    assert TRAINERS[-1].learned == names(30, 50)
    # however many updates there were since
    execute(clean_database, "delete from model_updates")
    work(clean_database_url, settings, lambda: bool(len(TRAINERS) > 1 and len(TRAINERS[-1].learned) >= 20))
    assert TRAINERS[-1].learned == names(30, 50)


class Gappy(PostgresLog):
    """A log that has kept nothing before `kept_from`, as Kafka's retention leaves it."""

    kept_from = START

    async def read(self, after: str, limit: int, until: str | None = None) -> Any:
        if self.later(after, self.kept_from) != after:
            raise LogGapError("has not kept what came next; `recsys skip-gap updater`")
        return await super().read(after, limit, until)


def test_events_that_were_learned_may_leave_the_log_and_others_need_a_command(
    clean_database_url: str, clean_database: sa.Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(clean_database_url, 0, 20)
    work(clean_database_url, settings, lambda: bool(TRAINERS and len(TRAINERS[-1].learned) == 20), Gappy)
    learned_to = one(clean_database, 'select "after" from model_updates order by number desc limit 1')
    monkeypatch.setattr(Gappy, "kept_from", learned_to)
    append(clean_database_url, 20, 30)
    work(clean_database_url, settings, lambda: TRAINERS[-1].learned == names(20, 30), Gappy)
    reasons = "select array_agg(reason order by number) from model_updates where is_base"
    assert one(clean_database, reasons)[-1] == "events that were learned are gone from the log"

    append(clean_database_url, 30, 40)
    position = one(clean_database, "select concat(epoch_xid, ':', position) from events where event_id = 'e34'")
    monkeypatch.setattr(Gappy, "kept_from", position)
    with pytest.raises(LogGapError, match="skip-gap updater"):
        work(clean_database_url, settings, lambda: False, Gappy)
    assert one(clean_database, "select reason from training_state").startswith("has not kept")
    execute(clean_database, f"insert into log_offsets (reader, \"after\") values ('updater', '{position}')")
    for _ in range(2):  # it goes on, and can be started again
        work(clean_database_url, settings, lambda: True, Gappy)
    work(
        clean_database_url,
        settings,
        lambda: one(clean_database, "select sum(n_events) from model_updates") == 35,
        Gappy,
    )
    assert one(clean_database, 'select "after" from model_updates order by number desc limit 1') != position


def test_events_that_cannot_be_learned_at_the_end_are_learned_after_the_next_start(
    clean_database_url: str, clean_database: sa.Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.updater.batch_events, settings.updater.batch_s = 100, 600
    append(clean_database_url, 0, 5)

    class Closing(PostgresLog):
        """Says when events were read."""

        has_read = False

        async def read(self, after: str, limit: int, until: str | None = None) -> Any:
            batch = await super().read(after, limit, until)
            Closing.has_read |= bool(batch.events)
            return batch

    async def away(*_: Any) -> Any:
        raise LogAwayError("Postgres is away: tests")

    with monkeypatch.context() as without_postgres:
        without_postgres.setattr(process, "known", away)
        work(clean_database_url, settings, lambda: Closing.has_read, Closing)
    assert TRAINERS[-1].learned == []
    assert one(clean_database, "select state from training_state") == "stopped"
    monkeypatch.setattr(Closing, "has_read", False)
    work(clean_database_url, settings, lambda: Closing.has_read, Closing)  # learns them as it ends
    assert one(clean_database, "select sum(n_events) from model_updates") == 5


def test_the_bases_that_somebody_may_begin_with_stay_however_old(
    clean_database_url: str, clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_UPDATES_KEPT", 5)
    shop.stock(clean_database)

    async def commit() -> None:
        connections = Connections(clean_database_url, "tests")
        for number in range(1, 31):
            row = UpdateRow(number, "m/v1", number in {1, 4, 8, 12}, f"u/{number}", "p", "c", "log", "", 1, None, 0)
            await TrainingStore(connections).commit(row)
        await connections.close()

    asyncio.run(commit())
    kept = one(clean_database, "select array_agg(number order by number) from model_updates")
    assert kept == list(range(4, 31))  # three bases, and all that follows the oldest


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Traceback; sleep 2; echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", "No space left"),
        ("echo 'INFO begins'; sleep 2; echo 'ERROR run train_deepfm'; exit 1", "ERROR run train_deepfm"),
    ],
)
def test_the_status_says_what_an_updater_died_of(
    script: str, reason: str, clean_database_url: str, clean_database: sa.Engine, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where its lines are in the log in Postgres already."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("recsys.updater.supervisor.sys.executable", str(program))
    execute(clean_database, "update training_state set max_restarts = 0")

    async def supervise() -> str:
        connections, stop = Connections(clean_database_url, "tests"), asyncio.Event()
        task = asyncio.create_task(Supervisor(connections).work(stop))
        query = "select state || ': ' || reason from training_state"
        deadline = time.monotonic() + 30
        while not (problem := await asyncio.to_thread(one, clean_database, query)).startswith("failed: "):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        stop.set()
        await task
        await connections.close()
        return str(problem)

    problem = asyncio.run(supervise())
    assert "ended with status 1" in problem
    assert reason in problem


def test_events_weigh_by_the_newest_configuration_that_can_be_read(database_url: str, database: sa.Engine) -> None:
    async def weights() -> dict[str, float]:
        connections = Connections(database_url, "tests")
        try:
            return await connections.transaction(meaning.weights)
        finally:
            await connections.close()

    assert asyncio.run(weights())["transaction"] == 5
    with database.begin() as connection:
        for config in ({"event_weights": {"view": 2.0}}, {"event_weights": {"view": 3.0}, "of a later release": 1}):
            connection.execute(sa.insert(tables.config_versions).values(config=config))
    assert asyncio.run(weights()) == {"view": 2.0}, "as the service, which passes over what it cannot read"
