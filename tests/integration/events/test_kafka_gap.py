"""Where Kafka has not kept what came next, readers stop and say so, and one command lets each go on."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
import sqlalchemy as sa

from recsys.errors import InputError
from recsys.events import commands
from recsys.events.archive import offset_of_archive
from recsys.events.connections import Connections, keep_offset, offset_of
from recsys.events.event import parse
from recsys.events.kafka.log import KafkaLog
from recsys.events.log import LogGapError
from recsys.events.opening import open_log
from recsys.settings import Settings
from tests.integration import serving_shop as shop
from tests.kafka_broker import Broker

Answer = TypeVar("Answer")


def with_log(settings: Settings, work: Callable[[KafkaLog, Connections], Awaitable[Answer]]) -> Answer:
    async def bounded() -> Answer:
        assert settings.database_url is not None
        connections = Connections(settings.database_url, "tests")
        log = open_log(settings, connections, "tests")
        assert isinstance(log, KafkaLog)
        try:
            return await asyncio.wait_for(work(log, connections), 60)
        finally:
            await log.close()
            await connections.close()

    return asyncio.run(bounded())


def append(settings: Settings, first: int, last: int) -> None:
    raw = [{"event_id": f"e{number}", "user_id": "501", "item_id": "1001"} for number in range(first, last)]
    events = [event for _, event in parse(raw, dt.datetime.now(dt.UTC))[0]]
    with_log(settings, lambda log, _: log.append(events))


def test_every_reader_goes_on_with_what_is_kept(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    topic = broker.create(f"gap-{uuid4().hex[:8]}", n_partitions=1)
    settings = Settings(
        database_url=clean_database_url, kafka_bootstrap_servers=broker.servers, kafka_topic=topic, _env_file=None
    )
    folder = tmp_path / "archive"
    append(settings, 0, 5)
    assert commands.archive(settings, folder)["events"] == 5
    with_log(settings, lambda _, connections: connections.transaction(lambda c: keep_offset(c, "sink", '{"0":5}')))
    append(settings, 5, 20)
    broker.forget(topic, {0: 12})

    with pytest.raises(LogGapError, match="recsys skip-gap"):
        commands.archive(settings, folder)
    with pytest.raises(LogGapError, match="recsys skip-gap"):
        commands.sink(settings, once=True)
    for reader, given in (("nobody", None), ("archive", None), ("sink", folder)):
        with pytest.raises(InputError, match="readers are"):
            commands.skip_gap(settings, reader, given)
    with pytest.raises(InputError, match="no gaps"):
        commands.skip_gap(settings.model_copy(update={"kafka_bootstrap_servers": None}), "sink", None)

    commands.skip_gap(settings, "archive", folder)
    in_postgres = with_log(settings, lambda _, c: c.transaction(lambda one: offset_of(one, "archive:archive")))
    assert in_postgres == offset_of_archive(folder) == '{"0":12}', "who looks in Postgres sees it at once"
    commands.skip_gap(settings, "sink", None)
    commands.skip_gap(settings, "updater", None)
    assert commands.archive(settings, folder)["events"] == 8  # e12 to e19
    commands.sink(settings, once=True)

    async def offsets(_: KafkaLog, connections: Connections) -> list[str]:
        return [await connections.transaction(lambda c, r=reader: offset_of(c, r)) for reader in ("sink", "updater")]

    assert with_log(settings, offsets) == ['{"0":20}', '{"0":12}']
    commands.skip_gap(settings, "archive", folder)  # no step back
    append(settings, 20, 22)
    assert commands.archive(settings, folder)["events"] == 2
