"""Preparation at RetailRocket's size against the same in pandas: time, CPU time, peak memory, equal results.

    python research/benchmarks/preparation.py [--folder F] [--scale 1.0]
    DATABASE_URL=… python research/benchmarks/preparation.py --postgres   # an empty database of its own

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

from recsys.data.prepare import prepare
from recsys.data.raw import Declared, RawTables
from recsys.features.item import item_features
from recsys.features.user import user_features

N_EVENTS, N_PROPERTIES, N_USERS, N_ITEMS = 2_760_000, 20_000_000, 1_400_000, 235_000
N_NAMES, N_CATEGORIES, N_WEEKS = 1100, 1669, 18
START_MS, DAY_MS = 1_430_622_000_000, 86_400_000
WEIGHTS = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0}
SECONDS_TARGET, GIB_TARGET, RATIO_TARGET = 60, 4, 5
BATCH = 2_000_000
UNCOMPARED = ("item_rank_decayed",)  # equal sums may differ in their last bit, and ranks of ties with them


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
    dataset = prepare(out, RawTables(**files), declared, at, memory_limit="2GB")
    con = dataset.connect()
    con.to_parquet(item_features(con, at).order_by("item_key"), out / "item_features.parquet")
    con.to_parquet(user_features(con, at, dataset.meta.event_types).order_by("user_key"), out / "user_features.parquet")


# --- the same in pandas, vectorised throughout


def prepare_pandas(raw: Path, out: Path, at: int) -> None:
    events = pd.read_parquet(raw / "events.parquet")
    told = pd.read_parquet(raw / "item_properties.parquet")
    tree = pd.read_parquet(raw / "category_tree.parquet")
    events = events[events["timestamp"] * 1000 < at]
    told = told[(told["timestamp"] * 1000 < at) & told["value"].notna()]

    def keyed(first: Any, name: str) -> Any:
        frame = first.reset_index(name="first_ms").sort_values(["first_ms", f"{name}_id"], ignore_index=True)
        frame[f"{name}_key"] = np.arange(1, len(frame) + 1, dtype=np.int32)
        return frame

    appearances = pd.concat([events.groupby("itemid")["timestamp"].min(), told.groupby("itemid")["timestamp"].min()])
    items = keyed(appearances.groupby(level=0).min().rename_axis("item_id"), "item")
    users = keyed(events.groupby("visitorid")["timestamp"].min().rename_axis("user_id"), "user")
    item_key = items.set_index("item_id")["item_key"]
    told["item_key"] = told.pop("itemid").map(item_key)
    told = told.sort_values(["item_key", "property", "timestamp"], kind="stable", ignore_index=True)

    # history of categories, availability and prices
    history = told[told["property"].isin(["categoryid", "available", "790"])]
    history = history.drop_duplicates(["item_key", "property", "timestamp"], keep="last")
    said_no = history["value"].str.lower().isin(["", "0", "false", "f", "no", "n", "n0.000"])
    value = history["value"].where(history["property"] != "available", np.where(said_no, "0", "1"))
    value = value.where(history["property"] != "790", history["value"].str.removeprefix("n"))
    history = history.assign(value=value, property=history["property"].replace("790", "price"))
    numeric = history["value"].str.match(r"^n?-?[0-9]+(\.[0-9]+)?$")
    history = history[(history["property"] != "price") | numeric]
    history = history.sort_values(["item_key", "property", "timestamp"], ignore_index=True)
    history["occurred_at"] = pd.to_datetime(history.pop("timestamp"), unit="ms", utc=True)

    # categories
    placed = history.loc[history["property"] == "categoryid", "value"]
    mentioned = [tree["categoryid"], tree["parentid"].dropna(), placed]
    categories = pd.DataFrame({"category_id": pd.concat(mentioned).unique()})
    categories["length"] = categories["category_id"].str.len()
    categories = categories.sort_values(["length", "category_id"], ignore_index=True).drop(columns="length")
    categories["category_key"] = np.arange(1, len(categories) + 1)
    category_key = categories.set_index("category_id")["category_key"]
    parent = tree.set_index("categoryid")["parentid"].map(category_key)
    categories["parent_category_key"] = categories["category_id"].map(parent)

    # items as of the cut-off
    state = history.drop_duplicates(["item_key", "property"], keep="last")
    state = state.set_index(["item_key", "property"])["value"].unstack().reindex(items["item_key"])  # noqa: PD010
    items["available"] = (state["available"] != "0").to_numpy()
    items["category_key"] = state["categoryid"].map(category_key).to_numpy()
    up = categories.set_index("category_key")["parent_category_key"]
    items["parent_category_key"] = items["category_key"].map(up)
    items["price"] = pd.to_numeric(state["price"]).to_numpy()
    latest = told.drop_duplicates(["item_key", "property"], keep="last")
    latest = latest[~latest["property"].isin(["categoryid", "available", "title"])]
    quoted = {text: json.dumps(text) for text in latest["value"].unique()}
    member = '"' + latest["property"] + '":' + latest["value"].map(quoted)
    objects = "{" + member.groupby(latest["item_key"]).agg(",".join) + "}"
    items["properties"] = items["item_key"].map(objects).fillna("{}")
    del told, latest, member, objects, quoted

    # events with keys, weights and sessions
    events["user_key"] = events.pop("visitorid").map(users.set_index("user_id")["user_key"])
    events["item_key"] = events.pop("itemid").map(item_key)
    events["weight"] = events["event"].map(WEIGHTS).astype(np.float32)
    events = events.sort_values(["user_key", "timestamp", "seq"], ignore_index=True)
    former = events[["user_key", "timestamp", "transactionid"]].shift()
    same_user = events["user_key"] == former["user_key"]
    pause = events["timestamp"] - former["timestamp"]
    both = events["transactionid"].notna() & former["transactionid"].notna()
    goes_on = np.where(both, events["transactionid"] == former["transactionid"], pause <= 30 * 60 * 1000)
    events["session_id"] = (~(same_user & goes_on)).cumsum() - 1
    events["occurred_at"] = pd.to_datetime(events["timestamp"], unit="ms", utc=True)
    events = events.rename(columns={"event": "event_type", "seq": "event_id"})
    events = events.sort_values(["timestamp", "event_id"], ignore_index=True)
    for frame in (items, users):
        frame["first_seen_at"] = pd.to_datetime(frame["first_ms"], unit="ms", utc=True)
    users["properties"] = "{}"
    columns = ["event_id", "user_key", "item_key", "event_type", "occurred_at", "weight", "session_id"]
    events[columns].to_parquet(out / "events.parquet")
    items.drop(columns="first_ms").to_parquet(out / "items.parquet")
    users.drop(columns="first_ms").to_parquet(out / "users.parquet")
    categories.to_parquet(out / "categories.parquet")
    history.to_parquet(out / "item_properties.parquet")
    events["age"] = (at - events["timestamp"] * 1000) / (DAY_MS * 1000)
    pandas_item_features(events, items, at).to_parquet(out / "item_features.parquet")
    pandas_user_features(events, items).to_parquet(out / "user_features.parquet")


def pandas_item_features(events: Any, items: Any, at: int) -> Any:
    """The columns of recsys.features.item, without the value's mean (there are no values)."""
    weight, age = events["weight"].to_numpy(np.float64), events["age"]
    events = events.assign(fast=weight * 2 ** (-age / 7), slow=weight * 2 ** (-age / 60), day=np.floor(age))
    for days in (1, 7, 14, 28, 90):
        events[f"n_{days}d"] = age <= days
    for days in (3, 14, 30):
        events[f"decayed_{days}d"] = weight * 2 ** (-age / days)
    events["weight_28d"] = events["weight"].where(age <= 28, 0.0)
    by_item = events.groupby("item_key")
    sums = ["n_1d", "n_7d", "n_14d", "n_28d", "n_90d", "weight_28d", "decayed_3d", "decayed_14d", "decayed_30d"]
    out = by_item[sums].sum().add_prefix("item_")
    met = events.groupby(["item_key", "user_key"])["age"].max().reset_index()
    for days in (7, 14, 28):
        out[f"item_n_new_{days}d"] = (met["age"] <= days).groupby(met["item_key"]).sum()
    for days in (14, 28):
        out[f"item_n_days_{days}d"] = events[age <= days].groupby("item_key")["day"].nunique()
    out["item_decayed_fast"], out["item_decayed_slow"] = by_item["fast"].sum(), by_item["slow"].sum()
    out["item_n_all"], out["item_n_users"] = by_item.size(), by_item["user_key"].nunique()
    out["item_n_sessions"] = by_item["session_id"].nunique()
    out["item_n_users_28d"] = events[age <= 28].groupby("item_key")["user_key"].nunique()
    out = out.reindex(items["item_key"]).fillna(0)
    extent = by_item["age"].agg(["max", "min"]).reindex(out.index)
    out["item_age_days"], out["item_last_days"] = extent["max"], extent["min"]
    gaps = (out["item_n_all"] - 1).where(out["item_n_all"] > 1)
    out["item_mean_gap_days"] = (extent["max"] - extent["min"]) / gaps
    known = items.set_index("item_key")
    out["item_known_days"] = (at - known["first_ms"] * 1000) / (DAY_MS * 1000)
    out["item_price"], out["item_available"] = known["price"], known["available"]
    out["item_category"], out["item_parent_category"] = known["category_key"], known["parent_category_key"]
    # sums over the events of a category, in which every event of an item counts
    by_category = out[["item_n_28d", "item_decayed_fast", "item_n_all"]].groupby(out["item_category"]).sum()
    by_category = by_category[by_category["item_n_all"] > 0]
    out["item_category_n_28d"] = out["item_category"].map(by_category["item_n_28d"])
    out["item_category_decayed"] = out["item_category"].map(by_category["item_decayed_fast"])
    for short, long in ((1, 7), (7, 28), (14, 90), (28, 90)):
        rate = [(out[f"item_n_{days}d"] + 1) / days for days in (short, long)]
        out[f"item_trend_{short}_{long}"] = rate[0] / rate[1]
    for days in (1, 7, 14, 28, 90):
        out[f"item_share_{days}d"] = out[f"item_n_{days}d"] / out[f"item_n_{days}d"].sum()
    for days in (3, 14, 30):
        decayed = out.pop(f"item_decayed_{days}d")
        out[f"item_decayed_share_{days}d"] = decayed / decayed.sum()
    for days in (7, 14, 28):
        n_users = events.loc[age <= days, "user_key"].nunique()
        out[f"item_new_rate_{days}d"] = out[f"item_n_new_{days}d"] / n_users
        out[f"item_new_share_{days}d"] = (out[f"item_n_new_{days}d"] + 1) / (out[f"item_n_{days}d"] + 2)
    out["item_decayed_share"] = out["item_decayed_fast"] / out["item_decayed_fast"].sum()
    out["item_share_of_category"] = out["item_decayed_fast"] / out["item_category_decayed"]
    out["item_events_per_user"] = out["item_n_all"] / out["item_n_users"].where(out["item_n_users"] > 0)
    out["item_rate"] = out["item_n_all"] / (out["item_age_days"] + 1)
    out["item_rank_7d"] = out["item_n_7d"].rank(method="dense", ascending=False)
    return out.reset_index()


def pandas_user_features(events: Any, items: Any) -> Any:
    """The columns of recsys.features.user, without those of the value."""
    weight, age = events["weight"].to_numpy(np.float64), events["age"]
    events = events.assign(fast=weight * 2 ** (-age / 7), slow=weight * 2 ** (-age / 60), day=np.floor(age))
    for days in (7, 28, 90):
        events[f"n_{days}d"] = age <= days
    for kind in WEIGHTS:
        events[f"n_{kind}"] = events["event_type"] == kind
    by_user = events.groupby("user_key")
    sums = ["n_7d", "n_28d", "n_90d", *(f"n_{kind}" for kind in WEIGHTS)]
    out = by_user[sums].sum().add_prefix("user_")
    out["user_n_all"], out["user_n_items"] = by_user.size(), by_user["item_key"].nunique()
    out["user_n_sessions"], out["user_active_days"] = by_user["session_id"].nunique(), by_user["day"].nunique()
    out["user_last_days"], out["user_first_days"] = by_user["age"].min(), by_user["age"].max()
    gaps = (out["user_n_sessions"] - 1).where(out["user_n_sessions"] > 1)
    out["user_mean_gap_days"] = (out["user_first_days"] - out["user_last_days"]) / gaps
    out["user_decayed_fast"], out["user_decayed_slow"] = by_user["fast"].sum(), by_user["slow"].sum()
    out["user_mean_weight"] = by_user["weight"].mean()
    out["user_repeat_share"] = 1 - out["user_n_items"] / out["user_n_all"]
    out["user_segment"] = np.select([out["user_n_items"] <= 3, out["user_n_items"] <= 20], [0, 1], 2)
    out["user_due"] = out["user_last_days"] / out["user_mean_gap_days"].where(out["user_mean_gap_days"] != 0)
    out["user_items_per_session"] = out["user_n_items"] / out["user_n_sessions"]
    category = events["item_key"].map(items.set_index("item_key")["category_key"])
    liked = events.assign(category=category).groupby(["user_key", "category"])["slow"].sum().reset_index()
    liked = liked.sort_values(["user_key", "slow", "category"], ascending=[True, False, True])
    whole = liked.groupby("user_key")["slow"].sum()
    best = liked.drop_duplicates("user_key").set_index("user_key")
    out["user_favourite_category"] = best["category"]
    out["user_favourite_share"] = best["slow"] / whole
    return pd.DataFrame(out).reset_index()


# --- the comparison


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between the two results; empty when nothing does."""
    differences = []
    keys = {"events": ["event_id"], "items": ["item_key"], "users": ["user_key"], "categories": ["category_key"]}
    keys |= {"item_properties": ["item_key", "property", "occurred_at"]}
    keys |= {"item_features": ["item_key"], "user_features": ["user_key"]}
    for name, key in keys.items():
        left = pq.read_table(ours / f"{name}.parquet").to_pandas()
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
    call = [sys.executable, __file__, "--side", side, "--folder", str(raw), "--out", str(out)]
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
    url = ctx.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        for name in ("events", "item_properties", "category_tree"):
            table = pq.read_table(raw / f"{name}.parquet")
            if name == "events":
                table = table.append_column("import_id", pa.array([1] * len(table), pa.int64()))
            cursor.adbc_ingest(name, table, mode="append", db_schema_name="raw")
        connection.commit()
    with tempfile.TemporaryDirectory() as folder, raw_snapshot(ctx.engine) as snapshot:
        started = time.perf_counter()
        snapshot.export(Path(folder), as_of(raw))
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
