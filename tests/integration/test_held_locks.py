"""What a service that waits holds on to in Postgres: nothing."""

from __future__ import annotations

import asyncio

import asyncpg
import sqlalchemy as sa

from fast_api_service.held import HeldConnections
from recsys.dsn import postgres_url


def test_a_statement_that_is_prepared_ahead_locks_no_table(clean_database: sa.Engine, clean_database_url: str) -> None:
    async def look() -> list[asyncpg.Record]:
        held = HeldConnections(lambda: asyncpg.connect(postgres_url(clean_database_url)), 2)
        other = await asyncpg.connect(postgres_url(clean_database_url))
        try:
            await held.fetch("select 1", (), 5)
            await held.prepare("select item_id from items where item_id = $1", ("a",))
            await other.execute("set lock_timeout = '1s'")
            await other.execute("truncate items cascade")  # as `recsys import --replace` does
            return await held.fetch("select item_id from items where item_id = $1", ("a",), 5)
        finally:
            await held.close()
            await other.close()

    assert asyncio.run(look()) == []
