"""Preparation at RetailRocket's size against the same in pandas: time, CPU time, peak memory, equal results.

    python -m research.benchmarks.preparation [--folder F] [--scale 1.0]
    DATABASE_URL=… python -m research.benchmarks.preparation --postgres   # an empty database of its own

Timed, in a process of its own for each side, imports left out: from the raw tables as Parquet files to the
prepared Parquet files and the item and user features as of the end. Reading from Postgres is not in it; the
second form times that apart, and the whole step `prepare_dataset` with its keys and catalogue in Postgres.

The files are made up: 2,760,000 events of 1,400,000 visitors on 235,000 items, 20,000,000 property rows of
1,100 properties in 18 weekly snapshots, 1,669 categories. Times have no structure: nothing is learnt here.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import columns as col
from recsys.data.prepare import prepare
from recsys.data.raw import Declared, RawTables
from recsys.features.item import item_features
from recsys.features.user import user_features
from recsys.storage.engine import url_of
from research.benchmarks.preparation_pandas import DAY_MS, WEIGHTS, prepare_pandas

N_EVENTS, N_PROPERTIES, N_USERS, N_ITEMS = 2_760_000, 20_000_000, 1_400_000, 235_000
N_NAMES, N_CATEGORIES, N_WEEKS = 1100, 1669, 18
START_MS = 1_430_622_000_000
SECONDS_TARGET, GIB_TARGET, RATIO_TARGET = 60, 4, 5
BATCH = 2_000_000
# Equal sums may differ in their last bit, and ranks of ties with them; here every event speaks for its item.
UNCOMPARED = ("item_rank_decayed", col.ACTION_LABEL)


def generate(folder: Path, scale: float, seed: int = 7) -> None:
    """Write the three raw tables as Parquet."""
    rng = np.random.default_rng(seed)
    n_events, n_properties, n_users, n_items = (round(n * scale) for n in (N_EVENTS, N_PROPERTIES, N_USERS, N_ITEMS))
    skewed = rng.random((2, n_events)) ** 3
    users = rng.permutation(np.r_[np.arange(n_users), (n_users * skewed[0, n_users:]).astype(int)])
    items = rng.permutation(np.r_[np.arange(n_items), (n_items * skewed[1, n_items:]).astype(int)])
    kind = rng.choice(3, n_events, p=[0.967, 0.025, 0.008])
    order = pa.array(rng.integers(0, 20_000, n_events), mask=kind != 2).cast(pa.string())
    events = {
        "timestamp": START_MS + rng.integers(0, N_WEEKS * 7 * DAY_MS, n_events),
        "visitorid": pa.array(users).cast(pa.string()),
        "event": pa.array(np.array(list(WEIGHTS))[kind]),
        "itemid": pa.array(items).cast(pa.string()),
        "transactionid": order,
        "value": pa.nulls(n_events, pa.float64()),
        "seq": np.arange(1, n_events + 1),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    names = np.array(["888", "790", "available", "categoryid", *(str(1000 + i) for i in range(N_NAMES - 4))])
    share = 1 / np.arange(1, N_NAMES + 1) ** 0.8
    with pq.ParquetWriter(folder / "item_properties.parquet", pa.schema(_PROPERTIES)) as writer:
        for start in range(0, n_properties, BATCH):
            n = min(BATCH, n_properties - start)
            name = rng.choice(N_NAMES, n, p=share / share.sum())
            word = np.char.mod("%d", rng.integers(0, 200_000, n))
            value = np.select(
                [name == 0, name == 1, name == 2, name == 3],
                [
                    np.char.add(np.char.add(word, " n12.000 "), word[::-1]),
                    np.char.add(np.char.add("n", word), ".000"),
                    np.char.mod("%d", rng.integers(0, 2, n)),
                    np.char.mod("%d", rng.integers(0, N_CATEGORIES, n)),
                ],
                word,
            )
            rows = {
                "timestamp": START_MS + 7 * DAY_MS * rng.integers(0, N_WEEKS, n) + DAY_MS // 8,
                "itemid": pa.array(rng.integers(0, n_items, n)).cast(pa.string()),
                "property": pa.array(names[name]),
                "value": pa.array(value),
            }
            writer.write_table(pa.table(rows, schema=pa.schema(_PROPERTIES)))
    category = np.arange(N_CATEGORIES)
    tree = {
        "categoryid": pa.array(category).cast(pa.string()),
        "parentid": pa.array(category // 4, mask=category < 25).cast(pa.string()),
    }
    pq.write_table(pa.table(tree), folder / "category_tree.parquet")


_PROPERTIES = {"timestamp": pa.int64(), "itemid": pa.string(), "property": pa.string(), "value": pa.string()}


def as_of(raw: Path) -> int:
    times = pq.read_table(raw / "events.parquet", columns=["timestamp"])["timestamp"]
    return (int(times.to_numpy().max()) + 1) * 1000


# --- ours


def prepare_ours(raw: Path, out: Path, at: int) -> None:
    files = {name: raw / f"{name}.parquet" for name in ("events", "item_properties", "category_tree")}
    ids = dict.fromkeys(("user", "item", "category"), "integer")
    declared = Declared("generated", WEIGHTS, ("transaction",), ("transaction",), ids)
    dataset, people = prepare(out, RawTables(**files), declared, at, memory_limit="2GB")
    pq.write_table(people, out / "people.parquet")
    con = dataset.connect()
    con.to_parquet(item_features(con, at).order_by("item_key"), out / "item_features.parquet")
    con.to_parquet(user_features(con, at, dataset.meta.event_types).order_by("user_key"), out / "user_features.parquet")


# --- the comparison


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between the two results; empty when nothing does."""
    differences = []
    keys = {"events": ["event_id"], "items": ["item_key"], "users": ["user_key"], "categories": ["category_key"]}
    keys |= {"item_properties": ["item_key", "property", "occurred_at"]}
    keys |= {"item_features": ["item_key"], "user_features": ["user_key"]}
    for name, key in keys.items():
        left = pq.read_table(ours / f"{'people' if name == 'users' else name}.parquet").to_pandas()
        right = pq.read_table(theirs / f"{name}.parquet").to_pandas()
        by = {column: left[column].astype(str) if column == "property" else left[column] for column in key}
        left = left.assign(**by).sort_values(key, ignore_index=True)
        right = right.sort_values(key, ignore_index=True)
        if len(left) != len(right):
            differences.append(f"{name}: {len(left)} and {len(right)} rows")
            continue
        absent = set(right.columns) - set(left.columns)
        differences += [f"{name}.{column}: not ours" for column in sorted(absent)]
        extra = [column for column in left if column not in right and left[column].notna().any()]
        differences += [f"{name}.{column}: not in pandas" for column in extra if column not in UNCOMPARED]
        for column in right.columns.intersection(left.columns):
            if not _equal(left[column], right[column], column):
                differences.append(f"{name}.{column}")
    return differences


def _equal(left: Any, right: Any, column: str) -> bool:
    if column == "properties":
        return all(a == b or json.loads(a) == json.loads(b) for a, b in zip(left, right, strict=True))
    if pd.api.types.is_datetime64_any_dtype(left.dtype):
        return bool((left.dt.as_unit("us") == right.dt.as_unit("us")).all())
    if pd.api.types.is_numeric_dtype(left.dtype) or pd.api.types.is_bool_dtype(left.dtype):
        return bool(np.allclose(left.astype(float), right.astype(float), rtol=1e-6, equal_nan=True))
    return bool((left.astype(str) == right.astype(str)).all())


def measure(side: str, raw: Path, out: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    out.mkdir(exist_ok=True)
    call = [
        sys.executable,
        "-m",
        "research.benchmarks.preparation",
        "--side",
        side,
        "--folder",
        str(raw),
        "--out",
        str(out),
    ]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, raw: Path, out: Path) -> None:
    ibis.duckdb.connect().disconnect()  # imports the backend; imports are not timed
    at = as_of(raw)
    started, cpu = time.perf_counter(), time.process_time()
    {"ours": prepare_ours, "pandas": prepare_pandas}[side](raw, out, at)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "gib": gib}))


def run_postgres(raw: Path) -> None:
    """Fill raw.* of an empty database, then time the export of the raw tables and the whole step."""
    import sqlalchemy as sa
    from adbc_driver_postgresql import dbapi

    from recsys.steps import prepare_dataset
    from recsys.steps.context import Context
    from recsys.storage.engine import migrate
    from recsys.storage.raw_snapshot import raw_snapshot
    from recsys.storage.raw_tables import imports

    ctx = Context.open()
    migrate(ctx.engine)
    with ctx.engine.begin() as connection:
        if connection.execute(sa.select(sa.func.count()).select_from(imports)).scalar_one():
            sys.exit("the database holds imports already; give an empty one")
        values = {
            "source": "generated",
            "path": "made up",
            "options": {},
            "status": "complete",
            "event_weights": WEIGHTS,
        }
        ids = dict.fromkeys(("user_id_type", "item_id_type", "category_id_type"), "integer")
        kinds = {"label_event_types": ["transaction"], "bought_event_types": ["transaction"]}
        connection.execute(imports.insert().values(**values, **ids, **kinds))
    with dbapi.connect(url_of(ctx.engine)) as connection, connection.cursor() as cursor:
        for name in ("events", "item_properties", "category_tree"):
            table = pq.read_table(raw / f"{name}.parquet")
            cursor.adbc_ingest(name, table, mode="append", db_schema_name="raw")
        connection.commit()
    with tempfile.TemporaryDirectory() as folder, raw_snapshot(ctx.engine) as snapshot:
        started = time.perf_counter()
        snapshot.export(Path(folder), as_of(raw), as_of(raw))
        print(f"raw tables out of Postgres as Parquet: {time.perf_counter() - started:.1f} s")
    for what in ("first", "again, forced"):
        started = time.perf_counter()
        prepare_dataset.run(ctx=ctx, force=what != "first")
        print(f"step prepare_dataset, {what}: {time.perf_counter() - started:.1f} s")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the raw files are, or are made (kept)")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--postgres", action="store_true", help="time the step on DATABASE_URL instead")
    parser.add_argument("--side", choices=["ours", "pandas"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.folder, args.out)
        return
    with tempfile.TemporaryDirectory(prefix="recsys-preparation-") as temporary:
        raw = args.folder or Path(temporary)
        raw.mkdir(parents=True, exist_ok=True)
        if not (raw / "category_tree.parquet").exists():
            print("making the raw files up …", file=sys.stderr)
            generate(raw, args.scale)
        if args.postgres:
            run_postgres(raw)
            return
        outs = {side: Path(temporary) / side for side in ("ours", "pandas")}
        taken = {side: measure(side, raw, out) for side, out in outs.items()}
        differences = compare(outs["ours"], outs["pandas"])
    print("| side | seconds | CPU seconds | peak GiB |\n|---|---|---|---|")
    for side, figures in taken.items():
        print(f"| {side} | {figures['seconds']:.1f} | {figures['cpu_seconds']:.1f} | {figures['gib']:.2f} |")
    ratio = {name: taken["pandas"][name] / taken["ours"][name] for name in ("seconds", "cpu_seconds", "gib")}
    print(f"| pandas / ours | {ratio['seconds']:.1f} | {ratio['cpu_seconds']:.1f} | {ratio['gib']:.1f} |")
    print("results are equal" if not differences else f"results differ: {', '.join(differences)}")
    if differences:
        sys.exit(1)
    ours = taken["ours"]
    met = ours["seconds"] < SECONDS_TARGET and ours["gib"] < GIB_TARGET and ratio["seconds"] >= RATIO_TARGET
    targets = f"< {SECONDS_TARGET} s, < {GIB_TARGET} GiB, ≥ {RATIO_TARGET} times pandas"
    print(f"targets ({targets}): {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
