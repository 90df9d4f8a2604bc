"""Lists into Postgres: 400,000 lists of 100 written, checked and published, against a plain binary COPY.

    python -m research.benchmarks.publication [--lists 400000] [--runs 3]

Both sides take the same arrays, in turns, on the same server. The plain side builds the binary format in numpy
and copies it into a bare table: no checks, no primary key, no partition. Ours is `recsys.storage.lists.write`
followed by `publications.publish`; verification (every row read back) is timed apart. The embedded Postgres is
used (a temporary one) unless DATABASE_URL is set; rows written are removed at the end of each run.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from recsys.settings import Settings
from recsys.storage import embedded, publications
from recsys.storage import lists as list_store
from recsys.storage.engine import engine_of, migrate
from recsys.storage.list_format import COLUMNS, encode
from recsys.storage.pruning import erase
from recsys.types import Lists

LENGTH, N_ITEMS, BLOCK = 100, 50_000, 20_000


def lists_of(n: int) -> list[Lists]:
    """`n` lists of distinct items with descending scores, in blocks."""
    rng = np.random.default_rng(42)
    blocks = []
    for start in range(0, n, BLOCK):
        rows = min(BLOCK, n - start)
        stride = rng.integers(1, N_ITEMS // LENGTH, (rows, 1))
        item = (rng.integers(0, N_ITEMS, (rows, 1)) + stride * np.arange(LENGTH)) % N_ITEMS + 1
        score = -np.sort(-rng.random((rows, LENGTH), dtype=np.float32), axis=1)
        source = rng.integers(0, 5, (rows, LENGTH)).astype(np.int16)
        blocks.append(Lists(np.arange(start, start + rows, dtype=np.int32), item.astype(np.int32), score, source))
    return blocks


def plain_copy(engine: sa.Engine, blocks: list[Lists]) -> None:
    """Binary COPY of the arrays into a bare table."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "create table plain (list_version_id bigint, owner_key integer, item_keys integer[], scores real[],"
                " sources smallint[])"
            )
        )
        with closing(connection.connection.cursor()) as cursor:
            for block in blocks:
                for start in range(0, len(block), 10_000):
                    data = encode(1, block.take(slice(start, start + 10_000)))
                    cursor.copy_expert(
                        f"copy plain ({', '.join(COLUMNS)}) from stdin (format binary)", io.BytesIO(data)
                    )


def publish(engine: sa.Engine, blocks: list[Lists]) -> None:
    """Write, check and publish them as personal lists, with default lists beside them."""
    about = {"dataset": "dataset/benchmark", "made_by": "benchmark", "sources": ["a", "b", "c", "d", "e"]}
    fence = publications.read_fence(engine)
    default = list_store.write(engine, "default", "benchmark", lambda: [blocks[0].take(slice(0, 100))], **about)
    personal = list_store.write(engine, "personal", "benchmark", lambda: blocks, **about)
    manifest = {"default": default.list_version_id, "personal": personal.list_version_id}
    publications.publish(engine, manifest, fence, dataset="dataset/benchmark")


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(engine: sa.Engine, n_lists: int, runs: int) -> dict[str, float]:
    """Medians over the runs, both sides in turns."""
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.text("insert into items (item_key, item_id) select k, k::text from generate_series(1, :n) k"),
            {"n": N_ITEMS},
        )
    blocks = lists_of(n_lists)
    times: dict[str, list[float]] = {"plain": [], "published": [], "verified": []}
    for _ in range(runs):
        times["plain"].append(seconds(lambda: plain_copy(engine, blocks)))
        with engine.begin() as connection:
            connection.execute(sa.text("drop table plain"))
        times["published"].append(seconds(lambda: publish(engine, blocks)))
        times["verified"].append(seconds(lambda: publications.verify(engine)))
        with engine.begin() as connection:
            erase(connection)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "lists": n_lists,
        "plain_copy_s": round(median["plain"], 2),
        "published_s": round(median["published"], 2),
        "verify_s": round(median["verified"], 2),
        "plain_rows_per_s": round(n_lists / median["plain"]),
        "published_rows_per_s": round(n_lists / median["published"]),
        "published_over_plain": round(
            statistics.median(b / a for a, b in zip(times["plain"], times["published"], strict=True)), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    url = Settings().database_url
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            engine = engine_of(url or embedded.ensure(folder, 5599).url("recsys"))
            print(json.dumps(measure(engine, arguments.lists, arguments.runs), indent=1))
            engine.dispose()
        finally:
            embedded.stop(folder)


if __name__ == "__main__":
    main()
