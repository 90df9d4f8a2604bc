"""Where the log looks for an instant, it reads the events of a minute, by their index, however many came before."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.events.postgres_log import _RECEIVED_SQL

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
A_TRANSACTION = 10  # events
AN_EVENT = dt.timedelta(seconds=5)
IN_A_MINUTE = 13  # both ends
SQL = f"""
insert into events (event_id, user_id, item_id, event_type, occurred_at, received_at, digest, epoch_xid)
select 'e' || n, 'u' || n % 1000, 'i' || n % 500, 'view', at, at, '', 1 + n / {A_TRANSACTION}
from (select n, cast(:start as timestamptz) + n * interval '5 seconds' as at from generate_series(0, :n - 1) n) events
"""


@pytest.fixture(params=[100_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def n_events(request: pytest.FixtureRequest, clean_database: sa.Engine) -> int:
    """A log of so many events, five seconds apart."""
    n = int(request.param)
    with clean_database.begin() as connection:
        connection.execute(sa.text(SQL), {"start": START, "n": n})
    with clean_database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("vacuum analyze events"))
    return n


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read a table."""
    if "Relation Name" in plan:
        yield plan
    for child in plan.get("Plans", []):
        yield from scans(child)


def n_read(scan: dict[str, Any]) -> float:
    """Rows that a scan has read, those that it left out included."""
    return float((scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"])


def test_an_instant_is_looked_up_by_its_index_and_no_more_is_read_than_a_minute(
    n_events: int, clean_database_url: str
) -> None:
    instants = [START + AN_EVENT * n for n in (0, n_events // 2, n_events - 100, n_events + 100)]

    async def explained(connection: asyncpg.Connection, instant: dt.datetime) -> dict[str, Any]:
        literal = _RECEIVED_SQL.replace("$1", f"timestamptz '{instant.isoformat()}'")
        plan = await connection.fetchval(f"explain (analyze, format json) {literal}")
        return dict(json.loads(plan)[0]["Plan"])

    async def work() -> None:
        connections = Connections(clean_database_url, "tests")
        plain = await asyncpg.connect(clean_database_url)  # whatever the connection's settings
        try:
            for instant in instants:
                for plan in (
                    await explained(plain, instant),
                    await connections.transaction(lambda connection, at=instant: explained(connection, at)),
                ):
                    found = list(scans(plan))
                    assert {scan["Relation Name"] for scan in found} == {"events"}
                    assert {scan["Node Type"] for scan in found} <= {"Index Scan", "Index Only Scan"}, plan
                    assert {scan["Index Name"] for scan in found} == {"ix_events_received_at"}, plan
                    assert sum(map(n_read, found)) <= IN_A_MINUTE + 1, plan
        finally:
            await plain.close()
            await connections.close()

    asyncio.run(work())
