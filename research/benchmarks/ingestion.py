"""POST /online/data/add in batches of 100 against two references, in one run:

- a bare `INSERT … unnest` of the same batches, and
- what Gorse (a widely used open recommender) has Postgres do for the same feedback.

    python -m research.benchmarks.ingestion [--users 200000] [--items 50000] [--seconds 4] [--rounds 5]

One uvicorn worker and the references use the same embedded Postgres (a temporary one, fsync and synchronous_commit
on). Batches hold events with ids of their own, of random users and items, with parameters. Rounds alternate; medians,
and the median of the ratios within a round, are reported. On a machine that others use as well only the ratio means
something.

The bare statement runs on one connection, one batch after the other, and on as many as the service has; its table has
the same columns and a primary key alone.

Of Gorse only what it sends to Postgres for a batch of feedback is measured, written out by us from its storage layer:
users and items that are missing are inserted, then feedback is upserted; three statements, each a transaction of its
own, into tables with its keys and indexes. Each is prepared and gets arrays, where Gorse sends long lists of values,
and all users and items are there before. Neither Gorse's HTTP server, its validation nor its client is part of it,
while ours is measured over HTTP with all of these, in one worker: the reference is much better off than Gorse itself.
It keeps one row a user, item and type, where ours keeps each event, its parameters and the latest events of the user.
One client posts one batch after the other; four do so at once.
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
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import orjson
import sqlalchemy as sa

from research.benchmarks.serving import cpu_s, filled, free_port, wait

BATCH = 100
Insert = Callable[[asyncpg.Connection, list[Any]], Awaitable[None]]
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
_GORSE_TABLES = """
create table gorse_users (
    user_id varchar(256) primary key, labels json not null default '[]', subscribe json not null default '[]',
    comment text not null default ''
);
create table gorse_items (
    item_id varchar(256) primary key, is_hidden bool not null default false, categories json not null default '[]',
    time_stamp timestamptz not null default '0001-01-01', labels json not null default '[]',
    comment text not null default ''
);
create table gorse_feedback (
    feedback_type varchar(256), user_id varchar(256), item_id varchar(256), value double precision not null default 0,
    time_stamp timestamptz not null default '0001-01-01', updated timestamptz not null default '0001-01-01',
    comment text not null default '', primary key (feedback_type, user_id, item_id)
);
create index on gorse_feedback (user_id);
create index on gorse_feedback (item_id);
insert into gorse_users (user_id) select owner from (
    select distinct substr(owner, 6) as owner from user_recent where owner like 'user:%'
) known;
insert into gorse_items (item_id) select item_id from items;
"""
# Within a statement no row may be updated twice: the last of equal ones counts.
_GORSE_SQLS = (
    "insert into gorse_users (user_id) select distinct unnest($1::text[]) on conflict (user_id) do nothing",
    "insert into gorse_items (item_id) select distinct unnest($1::text[]) on conflict (item_id) do nothing",
    """
    insert into gorse_feedback (feedback_type, user_id, item_id, value, time_stamp, updated, comment)
    select distinct on (1, 2, 3) *, 1, $4::timestamptz, $4::timestamptz, ''
    from unnest($1::text[], $2::text[], $3::text[]) t
    on conflict (feedback_type, user_id, item_id) do update
    set value = excluded.value, time_stamp = excluded.time_stamp, updated = excluded.updated, comment = excluded.comment
    """,
)


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


async def insert(url: str, rows: Iterator[list[Any]], seconds: float, n_connections: int, work: Insert) -> float:
    """Rows per second, one transaction a batch."""
    connections = [await asyncpg.connect(url) for _ in range(n_connections)]
    until, n = time.perf_counter() + seconds, 0

    async def writer(connection: asyncpg.Connection) -> None:
        nonlocal n
        while time.perf_counter() < until:
            await work(connection, next(rows))
            n += BATCH
        await connection.close()

    await asyncio.gather(*map(writer, connections))
    return n / seconds


async def insert_bare(connection: asyncpg.Connection, row: list[Any]) -> None:
    await connection.execute(_BARE_SQL, *row)


async def upsert_as_gorse(connection: asyncpg.Connection, row: list[Any]) -> None:
    _, users, _, items, types, at, *_ = row
    await connection.execute(_GORSE_SQLS[0], users)
    await connection.execute(_GORSE_SQLS[1], items)
    await connection.execute(_GORSE_SQLS[2], types, users, items, at[0])


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
            connection.execute(sa.text(_GORSE_TABLES))
            for name in ("fsync", "synchronous_commit"):
                assert connection.execute(sa.text(f"show {name}")).scalar_one() == "on"
        compare(url, arguments)


def compare(url: str, arguments: argparse.Namespace) -> None:
    """Measure both by turns, print the medians."""
    port = free_port()
    environment = os.environ | {"DATABASE_URL": url, "API_PORT": str(port)}
    service = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=environment)
    figures: list[dict[str, float]] = []
    try:
        wait(f"http://127.0.0.1:{port}/ready")
        seeds = itertools.count()

        def made() -> list[list[dict[str, Any]]]:
            some = batches(arguments.users, arguments.items, next(seeds))
            return list(itertools.islice(some, int(2500 * arguments.seconds)))

        def posted(n: int) -> float:
            bodies = iter([orjson.dumps({"samples": batch}) for batch in made()])
            return asyncio.run(post(port, bodies, arguments.seconds, n))

        def inserted(n: int, work: Insert) -> float:
            return asyncio.run(insert(url, iter([columns(batch) for batch in made()]), arguments.seconds, n, work))

        for _ in range(arguments.rounds + 1):  # the first round warms up
            before = cpu_s(service)
            round_ = {"posted": posted(arguments.connections)}
            round_["cpu"] = (cpu_s(service) - before) * 1e6 / (round_["posted"] * arguments.seconds)
            for n in (1, N_WRITERS):
                round_[f"bare {n}"] = inserted(n, insert_bare)
                round_[f"Gorse {n}"] = inserted(n, upsert_as_gorse)
                round_[f"posted {n}"] = posted(n)
            figures.append(round_)
    finally:
        service.terminate()
        service.wait(20)
    medians = {name: statistics.median(figure[name] for figure in figures[1:]) for name in figures[0]}
    print(f"posted {medians['posted']:.0f} events/s, {medians['cpu']:.0f} µs of the worker's processor each")
    for n in (1, N_WRITERS):
        ratio = statistics.median(figure["posted"] / figure[f"bare {n}"] for figure in figures[1:])
        print(f"bare INSERT, connections {n}: {medians[f'bare {n}']:.0f} rows/s, ratio {ratio:.2f}")
    for n in (1, N_WRITERS):
        ours, theirs = medians[f"posted {n}"] / BATCH, medians[f"Gorse {n}"] / BATCH
        ratio = statistics.median(figure[f"posted {n}"] / figure[f"Gorse {n}"] for figure in figures[1:])
        print(f"clients {n}: {ours:.0f} batches/s, Gorse's statements {theirs:.0f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
