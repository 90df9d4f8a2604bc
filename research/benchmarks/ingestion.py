"""POST /online/data/add in batches of 100 against a bare `INSERT … unnest` of the same batches, in one run.

    python -m research.benchmarks.ingestion [--users 200000] [--items 50000] [--seconds 4] [--rounds 5]

One uvicorn worker and the bare writer use the same embedded Postgres (a temporary one, fsync and synchronous_commit
on). The bare statement runs on one connection, one batch after the other, and on as many as the service has; its table
has the same columns and a primary key alone. Batches hold events with ids of their own, of random users and items, with
parameters. Rounds alternate; medians, and the median of the ratios within a round, are reported. On a machine that
others use as well only the ratio means something.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import orjson
import sqlalchemy as sa

from research.benchmarks.serving import cpu_s, filled, free_port, wait

BATCH = 100
N_WRITERS = 4  # connections that write, as the service has
_BARE_TABLE = """
create table bare_events (
    event_id text primary key, user_id text, session_id text, item_id text not null, event_type text not null,
    occurred_at timestamptz not null, label real, parameters jsonb not null, features jsonb not null, digest bytea
)
"""
_BARE_SQL = """
insert into bare_events
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::real[],
                     $8::jsonb[], $9::jsonb[], $10::bytea[])
"""


def batches(n_users: int, n_items: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Samples as a client posts them, without end."""
    pick = random.Random(seed)
    for number in itertools.count():
        yield [
            {
                "event_id": f"{seed}-{number}-{place}",
                "user_id": 7 * pick.randint(1, n_users),
                "item_id": 1000 + pick.randint(1, n_items),
                "event_type": pick.choice(("view", "view", "view", "addtocart", "transaction")),
                "timestamp": time.time(),
                "parameters": {"price": pick.randint(1, 100), "device": "phone"},
            }
            for place in range(BATCH)
        ]


async def post(port: int, bodies: Iterator[bytes], seconds: float, n_connections: int) -> float:
    """Events per second of a closed loop."""
    until, n = time.perf_counter() + seconds, 0
    head = b"POST /online/data/add HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n"

    async def client() -> None:
        nonlocal n
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            body = next(bodies)
            writer.write(head % len(body) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            n += BATCH
        writer.close()

    await asyncio.gather(*(client() for _ in range(n_connections)))
    return n / seconds


async def insert(url: str, rows: Iterator[list[Any]], seconds: float, n_connections: int) -> float:
    """Rows per second of the bare statement, one transaction a batch."""
    connections = [await asyncpg.connect(url) for _ in range(n_connections)]
    until, n = time.perf_counter() + seconds, 0

    async def writer(connection: asyncpg.Connection) -> None:
        nonlocal n
        while time.perf_counter() < until:
            await connection.execute(_BARE_SQL, *next(rows))
            n += BATCH
        await connection.close()

    await asyncio.gather(*map(writer, connections))
    return n / seconds


def columns(batch: list[dict[str, Any]]) -> list[Any]:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    return [
        [sample["event_id"] for sample in batch],
        [str(sample["user_id"]) for sample in batch],
        [None] * BATCH,
        [str(sample["item_id"]) for sample in batch],
        [sample["event_type"] for sample in batch],
        [now] * BATCH,
        [None] * BATCH,
        [orjson.dumps(sample["parameters"]).decode() for sample in batch],
        ["{}"] * BATCH,
        [bytes(32)] * BATCH,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    with filled(arguments.users, arguments.items) as (url, engine, _):
        with engine.begin() as connection:
            connection.execute(sa.text(_BARE_TABLE))
            for name in ("fsync", "synchronous_commit"):
                assert connection.execute(sa.text(f"show {name}")).scalar_one() == "on"
        compare(url, arguments)


def compare(url: str, arguments: argparse.Namespace) -> None:
    """Measure both by turns, print the medians."""
    port = free_port()
    environment = os.environ | {"DATABASE_URL": url, "API_PORT": str(port)}
    service = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=environment)
    figures: list[tuple[float, float, float, float]] = []
    try:
        wait(f"http://127.0.0.1:{port}/ready")
        for number in range(arguments.rounds + 1):  # the first round warms up
            made = list(
                itertools.islice(batches(arguments.users, arguments.items, number), int(3000 * arguments.seconds))
            )
            bodies = iter([orjson.dumps({"samples": batch}) for batch in made])
            rows = iter([columns(batch) for batch in made])
            before = cpu_s(service)
            posted = asyncio.run(post(port, bodies, arguments.seconds, arguments.connections))
            cpu = (cpu_s(service) - before) * 1e6 / (posted * arguments.seconds)
            one, several = (asyncio.run(insert(url, rows, arguments.seconds, n)) for n in (1, N_WRITERS))
            figures.append((posted, one, several, cpu))
    finally:
        service.terminate()
        service.wait(20)
    posted, one, several, cpu = (statistics.median(values) for values in zip(*figures[1:], strict=True))
    print(f"posted {posted:.0f} events/s, {cpu:.0f} µs of the worker's processor each")
    for name, rate, place in (("one connection", one, 1), (f"{N_WRITERS} connections", several, 2)):
        ratio = statistics.median(figure[0] / figure[place] for figure in figures[1:])
        print(f"bare INSERT on {name}: {rate:.0f} rows/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
