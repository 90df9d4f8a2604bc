"""Locks and backends of the service in Postgres: no locks while idle, no backends of cancelled queries."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import asyncpg
import pytest
import sqlalchemy as sa

from fast_api_service.dashboard import queries
from fast_api_service.postgres.away import DatabaseAwayError
from fast_api_service.postgres.read_pool import ReadPool
from fast_api_service.recommend import exposures
from fast_api_service.runtime import database
from fast_api_service.runtime.state import State
from recsys.dsn import postgres_url
from recsys.events.connections import LOST
from tests.integration import serving_shop as shop
from tests.integration.recommend.test_exposures import shown
from tests.integration.runtime.test_background import backends, run, until


def test_a_statement_that_is_prepared_ahead_locks_no_table(clean_database: sa.Engine, clean_database_url: str) -> None:
    async def look() -> list[asyncpg.Record]:
        reads = ReadPool(lambda: asyncpg.connect(postgres_url(clean_database_url)), 2)
        other = await asyncpg.connect(postgres_url(clean_database_url))
        try:
            await reads.fetch("select 1", (), 5)
            await reads.prepare("select item_id from items where item_id = $1", ("a",))
            await other.execute("set lock_timeout = '1s'")
            await other.execute("truncate items cascade")  # as `recsys import --replace` does
            return await reads.fetch("select item_id from items where item_id = $1", ("a",), 5)
        finally:
            await reads.close()
            await other.close()

    assert asyncio.run(look()) == []


def test_looks_and_writes_that_were_given_up_leave_no_backend_while_somebody_holds_a_long_lock(
    clean_database: sa.Engine, clean_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    for module, name in ((database, "_LOOK_S"), (exposures, "_TIMEOUT_S")):
        monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(queries, "_MORE_S", 0.3 - queries.STATEMENT_S)
    locked = sa.text(
        "lock table publication_pointer, items, users, lists, events, user_recent, predictions, config_versions,"
        " api_keys, training_state in access exclusive mode"
    )

    async def play(state: State) -> None:
        """Five times all that looks and writes, given up."""
        await until(lambda: state.snapshot is not None and state.snapshot.is_published)
        today = dt.datetime.now(dt.UTC)
        holder.execute(locked)
        for number in range(5):
            state.exposures.append(shown(number))
            with contextlib.suppress(DatabaseAwayError):
                await state.database.reads.user("501", None, 0.1)
            for look in (state.database.pointer, state.database.api_keys):
                with pytest.raises(DatabaseAwayError):
                    await look()
            with pytest.raises(LOST):
                await queries.compute(state.database.dsn, today, today, ["transaction"])

    with clean_database.connect() as holder:
        run(clean_database_url, play)
        shop.wait_until(lambda: backends(clean_database, "recsys-api%") == [], 15)
        assert holder.in_transaction(), "the lock is still held"
