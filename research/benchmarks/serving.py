"""POST /recommend against a bare FastAPI route that reads one row by primary key with asyncpg, in one run.

    python -m research.benchmarks.serving [--users 200000] [--items 50000] [--seconds 2] [--rounds 9]

Then the same of what pays the general way: with an API key, a session, a filter by price and `explain`.

Both run as one uvicorn worker on the same embedded Postgres (a temporary one), with the same client (keep-alive
connections in one asyncio process) and the same 100-item ranked lists; ours blends them with the neighbours (50 an
item) of each user's 20 latest events, and leaves out what they bought by the 40 entries of their history. Rounds
alternate; medians, and medians of the ratios within a round, are reported. On a machine that others use as well only
the ratios mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy as sa

from recsys import api_key
from recsys.artifacts import ArtifactStore
from recsys.steps.publish import write_file
from recsys.storage import api_keys, embedded, lists, tables
from recsys.storage.engine import engine_of, migrate
from recsys.types import Lists

LENGTH, N_NEIGHBOURS, N_RECENT, N_HISTORY = 100, 50, 20, 40
EVENT_TYPES = ("view", "addtocart", "transaction")
_RECENT_SQL = """
insert into user_recent (owner, item_keys, event_types, occurred_ms, bought_types)
select 'user:' || 7 * k, array(select 1 + (k * 31 + p * 977) % :items from generate_series(1, :n) p),
       array(select (array['view', 'view', 'addtocart'])[1 + p % 3] from generate_series(1, :n) p),
       array(select 1790000000000 - p * 600000::bigint from generate_series(1, :n) p),
       array['transaction']
from generate_series(1, :users) k
"""


@contextlib.contextmanager
def filled(n_users: int, n_items: int) -> Iterator[tuple[str, sa.Engine, Path]]:
    """A temporary Postgres with the world of `fill`: its URL, an engine, and the folder, all gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="recsys-bench-"))
    folder.chmod(0o755)  # the embedded server does not run as root
    try:
        url = embedded.ensure(folder, free_port()).url("recsys")
        engine = engine_of(url)
        fill(engine, n_users, n_items, ArtifactStore(str(folder / "artifacts")))
        yield url, engine, folder
        engine.dispose()
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def fill(engine: sa.Engine, n_users: int, n_items: int, store: ArtifactStore | None = None) -> None:
    """A published catalogue with a ranked list and events for every user, and neighbours for every item."""
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("insert into id_types values ('user', 'integer'), ('item', 'integer')"))
        connection.execute(
            sa.text(
                "insert into items (item_key, item_id, properties)"
                " select k, (1000 + k)::text, jsonb_build_object('price', k % 100) from generate_series(1, :n) k"
            ),
            {"n": n_items},
        )
        connection.execute(
            sa.text("insert into users (user_key, user_id) select k, (7 * k)::text from generate_series(1, :n) k"),
            {"n": n_users},
        )
        connection.execute(sa.text(_RECENT_SQL), {"users": n_users, "items": n_items, "n": N_RECENT})
    publish(engine, "1", n_users, n_items, store=store)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("vacuum analyze"))


def publish(
    engine: sa.Engine, version: str, n_users: int, n_items: int, step: int = 1, first: int = 1,
    store: ArtifactStore | None = None,
) -> int:  # fmt: skip
    """Lists of all kinds, their files in `store`, and a publication of them, which the pointer moves to; its id.

    They hold items `first`, `first + step`, … alone, so that an answer shows which publication it is made of.
    """
    rng = np.random.default_rng(1)
    n_own = (n_items - first) // step + 1

    def blocks(kind: str, owners: np.ndarray) -> Iterator[Lists]:
        length = {"i2i": N_NEIGHBOURS, "similar": N_NEIGHBOURS, "history": N_HISTORY}.get(kind, LENGTH)
        sources = np.arange(length, dtype=np.int16) % len(sources_of(kind))
        for part in np.array_split(owners, max(1, len(owners) // 20_000)):
            start = rng.integers(0, n_own, len(part))[:, None]
            item_key = ((start + np.arange(length) * 37) % n_own * step + first).astype(np.int32)
            score = np.tile(np.linspace(1, 0.01, length, dtype=np.float32), (len(part), 1))
            yield Lists(part.astype(np.int32), item_key, score, np.tile(sources, (len(part), 1)))

    manifest = {}
    users, items = np.arange(1, n_users + 1), np.arange(1, n_items + 1)
    owners_by_kind = {"ranked": users, "default": np.array([0]), "i2i": items, "similar": items, "history": users}
    for kind, owners in owners_by_kind.items():
        written = lists.write(
            engine,
            kind,
            version,
            lambda kind=kind, owners=owners: blocks(kind, owners),
            dataset=f"dataset/{version}",
            made_by="x",
            sources=sources_of(kind),
        )
        manifest[kind] = written.list_version_id
        if store is not None:
            write_file(engine, store, written)
    publication = sa.insert(tables.publications).values(
        status="published", dataset=f"dataset/{version}", manifest=manifest, models={}, fence=1
    )
    with engine.begin() as connection:
        publication_id = connection.execute(publication.returning(tables.publications.c.publication_id)).scalar_one()
    point_at(engine, publication_id)
    return int(publication_id)


def point_at(engine: sa.Engine, publication_id: int) -> None:
    with engine.begin() as connection:
        moved = {"publication_id": publication_id, "fence": 1, "moved_at": sa.func.clock_timestamp()}
        connection.execute(sa.update(tables.publication_pointer).values(moved))


def sources_of(kind: str) -> tuple[str, ...]:
    return EVENT_TYPES if kind == "history" else ("als",)


def bare(dsn: str, port: int, list_version_id: int) -> None:
    """The peer: one route, one row."""
    import asyncpg
    import uvicorn
    from fastapi import FastAPI

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> object:
        async with asyncpg.create_pool(dsn, min_size=8, max_size=8) as app.state.pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/row/{key}")
    async def row(key: int) -> dict[str, object]:
        sql = f"select item_keys from lists_{list_version_id} where list_version_id = {list_version_id} and owner_key = $1"  # noqa: E501
        return {"item_keys": (await app.state.pool.fetchrow(sql, key))["item_keys"][:10]}

    uvicorn.run(app, port=port, access_log=False, log_level="warning")


async def load(port: int, request: Callable[[], bytes], seconds: float, connections: int) -> tuple[float, float]:
    """(requests per second, 99th percentile in ms) of a closed loop over so many connections."""
    durations: list[float] = []
    until = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < until:
            writer.write(request())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            durations.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return len(durations) / seconds, float(np.percentile(durations, 99) * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare(arguments.bare[0], int(arguments.bare[1]), int(arguments.bare[2]))
        return
    with filled(arguments.users, arguments.items) as (url, engine, folder):
        version = lists.find(engine, "ranked", "1")
        os.environ["ARTIFACT_ROOT"] = str(folder / "artifacts")
        compare(engine, url, version.list_version_id, arguments)


def compare(engine: sa.Engine, url: str, list_version_id: int, arguments: argparse.Namespace) -> None:
    """Start both, measure them by turns, print the medians."""
    service_port, bare_port = free_port(), free_port()
    environment = os.environ | {"DATABASE_URL": url, "API_PORT": str(service_port)}
    started = time.monotonic()
    service = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=environment)
    peer = subprocess.Popen([sys.executable, __file__, "--bare", url, str(bare_port), str(list_version_id)])
    pick = random.Random(2)

    def post(body: bytes, more: bytes = b"") -> bytes:
        head = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def recommend() -> bytes:
        return post(b'{"user_id": %d, "top_k": 10}' % (7 * pick.randint(1, arguments.users)))

    def general() -> bytes:
        body = b"""{"user_id": %d, "session_id": "s%d", "top_k": 10, "explain": true,
                "filters": {"properties": {"price": {"min": 10, "max": 90}}}}"""
        return post(body % (7 * pick.randint(1, arguments.users), pick.randint(1, 10**6)), key)

    def row() -> bytes:
        return b"GET /row/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % pick.randint(1, arguments.users)

    try:
        wait(f"http://127.0.0.1:{service_port}/ready")
        ready_s = time.monotonic() - started
        wait(f"http://127.0.0.1:{bare_port}/row/1")
        row_side = (bare_port, row, peer)
        measure({"bare row": row_side, "recommend": (service_port, recommend, service)}, arguments)
        text, _ = api_keys.create(engine, "benchmark", [api_key.RECOMMEND], rate_per_s=1e6)
        key = b"Authorization: Bearer %s\r\n" % text.encode()
        time.sleep(2)  # every worker knows it, and asks for it
        measure({"bare row": row_side, "general": (service_port, general, service)}, arguments)
        memory = psutil.Process(service.pid).memory_info()
        own = (memory.rss - memory.shared) / 2**20  # without the pages of files, which all workers share
        print(f"both ready after {ready_s:.1f} s, service {own:.0f} MiB of its own")
    finally:
        for process in (service, peer):
            process.terminate()
            process.wait(20)


def measure(sides: dict[str, tuple[int, Callable[[], bytes], subprocess.Popen[bytes]]], of: argparse.Namespace) -> None:
    """Both by turns; prints medians, and the ratios of the second to the first."""
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for _ in range(of.rounds + 1):  # the first round warms up
        for name, (port, request, process) in sides.items():
            before = cpu_s(process)
            rate, p99 = asyncio.run(load(port, request, of.seconds, of.connections))
            figures[name].append((rate, p99, (cpu_s(process) - before) * 1000 / (rate * of.seconds)))
    for name, rounds in figures.items():
        rate, p99, cpu_ms = (statistics.median(values) for values in zip(*rounds[1:], strict=True))
        print(f"{name:10} {rate:6.0f} requests/s, p99 {p99:6.1f} ms, {cpu_ms:.2f} ms of processor a request")
    theirs, ours = (rounds[1:] for rounds in figures.values())
    ratios = [statistics.median(a[i] / b[i] for a, b in zip(ours, theirs, strict=True)) for i in range(3)]
    print("ratios: throughput {:.2f}, p99 {:.2f}, processor time {:.2f}".format(*ratios))


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def wait(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own
            return
        time.sleep(0.1)
    raise TimeoutError(url)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
