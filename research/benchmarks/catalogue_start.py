"""A worker reads the whole catalogue: in blocks of columns, as it does, against row by row, as it did.

    python -m research.benchmarks.catalogue_start [--items 2350000] [--rounds 3]

Items have ten properties, of which three are numbers: a JSON number, a text and a text in RetailRocket's form. Each
load is a process of its own, by turns, on the same embedded Postgres (a temporary one); medians are printed. Seconds
and processor time are those of the load alone, and Postgres' processor time is that of its connection; peak and growth
are of the resident memory of the process. The longest pause is by how much a millisecond's sleep on the event loop took
longer, in time and in processor time of the thread: only the latter means something where others use the machine as
well. Then a worker as users start it, from nothing to the first answer of `/ready`; the publication has no lists.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import sqlalchemy as sa

from fast_api_service.runtime import item_rows
from recsys.errors import InputError
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.item_numbers import MAX_NAMES, NUMBER, PRICE, ItemNumbers, number
from recsys.storage import embedded, tables
from recsys.storage.engine import engine_of, migrate
from research.benchmarks.serving import free_port, point_at, wait

_FILL_SQL = """
insert into items (item_key, item_id, category_key, available, properties)
select k, (1000 + 7::bigint * k)::text, case when k % 50 > 0 then k % 1000 end, k % 20 > 0, jsonb_build_object(
    'price', round((k::bigint * 7919 % 100000) / 100.0, 2)::text, 'weight', k % 5000, '790', 'n' || k % 977 || '.000',
    'brand', 'brand ' || k % 3000, 'colour', (array['red', 'green', 'blue', 'black'])[1 + k % 4],
    'size', (array['S', 'M', 'L', 'XL'])[1 + k % 4], 'material', 'cotton ' || k % 40, 'season', 'summer ' || k % 7,
    'maker', 'maker of ' || k % 900, 'code', 'code-' || k)
from generate_series(1, :n) k
"""
_NAMES_SQL = f"""
select p.key from items i, jsonb_each_text(i.properties) p
where i.deleted_at is null and p.value ~ '^{NUMBER}$'
group by p.key order by p.key <> '{PRICE}', count(*) desc, p.key limit {MAX_NAMES}
"""


async def by_rows(connection: asyncpg.Connection) -> ItemDictionary:
    """The reference: 250 rows at a time through a cursor, each added by itself."""
    names = [row[0] for row in await connection.fetch(_NAMES_SQL)]
    items = ItemDictionary("integer", ItemNumbers(names))
    values = ", ".join(f"properties ->> ${n}" for n in range(1, len(names) + 1))
    cursor = await connection.cursor(
        f"select item_key, item_id, category_key, available, array[{values}]::text[] from items"
        " where deleted_at is null order by item_key",
        *names,
    )
    while portion := await cursor.fetch(250):
        for key, id_, category_key, available, texts in portion:
            found = ((name, number(text)) for name, text in zip(names, texts, strict=True) if text is not None)
            with suppress(InputError):
                items.add(key, id_, category_key, available, {name: one for name, one in found if one is not None})
    return items


async def by_blocks(connection: asyncpg.Connection) -> ItemDictionary:
    """What the service does."""
    return await item_rows.load(connection, "integer")


LOADS = {"rows": by_rows, "blocks": by_blocks}


async def measured(how: str, url: str) -> dict[str, float]:
    """One load in this process."""
    longest = [0.0, 0.0]

    async def turn() -> None:
        while True:
            before = time.perf_counter() + 0.001, time.thread_time()
            await asyncio.sleep(0.001)
            after = time.perf_counter(), time.thread_time()
            longest[:] = (max(of, b - a) for of, a, b in zip(longest, before, after, strict=True))

    settings = {"jit": "off", "plan_cache_mode": "force_generic_plan"}  # those of the service that matter here
    connection = await asyncpg.connect(url, server_settings=settings)
    server, own = psutil.Process(connection.get_server_pid()), psutil.Process()
    turning = asyncio.create_task(turn())
    before, server_before, memory = time.process_time(), server.cpu_times(), own.memory_info().rss
    started = time.perf_counter()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        items = await LOADS[how](connection)
    seconds, cpu_s, server_after = time.perf_counter() - started, time.process_time() - before, server.cpu_times()
    turning.cancel()
    await connection.close()
    return {
        "items": len(items),
        "available": items.n_available,
        "numbers": len(items.numbers.names),
        "seconds": seconds,
        "cpu_s": cpu_s,
        "server_cpu_s": server_after.user + server_after.system - server_before.user - server_before.system,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "growth_mib": (own.memory_info().rss - memory) / 2**20,
        "pause_ms": longest[0] * 1000,
        "pause_cpu_ms": longest[1] * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_350_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(asyncio.run(measured(*arguments.load))))
        return
    folder = Path(tempfile.mkdtemp(prefix="recsys-bench-"))
    folder.chmod(0o755)  # the embedded server does not run as root
    try:
        url = embedded.ensure(folder, free_port()).url("recsys")
        fill(url, arguments.items)
        compare(url, arguments.rounds)
        print(f"a worker is ready {ready_s(url):.1f} s after its start")
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def fill(url: str, n_items: int) -> None:
    """The generated catalogue, and a publication without lists."""
    engine = engine_of(url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("insert into id_types values ('user', 'integer'), ('item', 'integer')"))
        connection.execute(sa.text(_FILL_SQL), {"n": n_items})
    published = {"status": "published", "dataset": "dataset/1", "manifest": {}, "models": {}, "fence": 1}
    with engine.begin() as connection:
        insert = sa.insert(tables.publications).values(published).returning(tables.publications.c.publication_id)
        publication_id = connection.execute(insert).scalar_one()
    point_at(engine, publication_id)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("vacuum analyze"))
    engine.dispose()


def compare(url: str, rounds: int) -> None:
    """Both by turns; prints medians."""
    found: dict[str, list[dict[str, float]]] = {how: [] for how in LOADS}
    for _ in range(rounds):
        for how, results in found.items():
            call = [sys.executable, "-m", "research.benchmarks.catalogue_start", "--load", how, url]
            results.append(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))
    for how, results in found.items():
        of = {name: statistics.median(result[name] for result in results) for name in results[0]}
        print(
            f"{how:6}: {of['items']:,.0f} items ({of['available']:,.0f} available, {of['numbers']:.0f} numbers) in"
            f" {of['seconds']:.1f} s, processor time {of['cpu_s']:.1f} s and Postgres {of['server_cpu_s']:.1f} s, peak"
            f" {of['peak_mib']:.0f} MiB, growth {of['growth_mib']:.0f} MiB, longest pause {of['pause_ms']:.0f} ms, of"
            f" processor time {of['pause_cpu_ms']:.0f} ms",
            flush=True,
        )


def ready_s(url: str) -> float:
    """Seconds from the start of a worker until it is ready."""
    port = free_port()
    started = time.perf_counter()
    service = subprocess.Popen(
        [sys.executable, "-m", "fast_api_service"], env=os.environ | {"DATABASE_URL": url, "API_PORT": str(port)}
    )
    try:
        wait(f"http://127.0.0.1:{port}/ready")
        return time.perf_counter() - started
    finally:
        service.terminate()
        service.wait(20)


if __name__ == "__main__":
    main()
