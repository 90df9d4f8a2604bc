"""New users at once: answers for users whom no nightly model knows, from their first events.

    RECSYS_DATA_DIR=… python -m research.benchmarks.fold_in [--users N] [--only NAME]

Online Retail, ML-1M and RetailRocket's sessions from RECSYS_DATA_DIR, with default hyper-parameters. Of the first two
four cuts: the instants by which 60, 70, 80 and 90 % of the users have come. Everything before a cut is learned from;
the next tenth of the users are new. The sessions are guests, split as published (they have no times in training, so
they are spread evenly over the months before the test, in their order). Each new user is asked for after their first k
distinct items, if they have more; labels are the next 10. All columns are answers of the cascade itself, to the same
users; `fold-in alone` has neither i2i neighbours nor an index of sessions. 1:1 and 1:2 are the weights of the list and
of the i2i neighbours in the fusion; `sessions` have an index of sessions, alone and fused with the list by weight, and
the last column is what is served, 1:16. The 95 % intervals are of its differences to i2i alone and to 1:2, which was
served before (bootstrap over users). Below, the time that folding in takes of an answer, and the memory of the vectors,
for two sizes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.serving import cascade
from recsys.serving.config import ServingConfig, SurfaceConfig
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.recent import EventMeaning, Recent
from recsys.serving.snapshot import NOBODY, Query, Snapshot, UserState
from recsys.serving.sources import FoldedIn
from recsys.steps.benchmarks.served import snapshot_of
from recsys.types import Catalogue, Interactions

LEAST_ITEMS = 3  # that a new user has
N_EVENTS = (1, 2, 3, 5, 10)
N_LABELS = TOP_K = 10
MOST_USERS = 1500  # of a cut
CUTS = (0.6, 0.7, 0.8, 0.9)  # shares of the users who have come
WEIGHTS = {"sessions 1:1": 1.0, "sessions 1:2": 2.0, "sessions 1:8": 8.0}  # in place of what is served
COLUMNS = ("popular", "i2i alone", "fold-in alone", "i2i 1:1", "i2i 1:2", "sessions alone", *WEIGHTS, "served")
MICROSECONDS = 1_000_000


def online_retail(folder: Path) -> pd.DataFrame:
    """Columns user, item, at (microseconds), in time order."""
    frame = pd.read_parquet(folder / "online-retail" / "online_retail.parquet")
    bought = ~frame["InvoiceNo"].astype(str).str.startswith("C") & (frame["Quantity"] > 0) & (frame["UnitPrice"] > 0)
    frame = frame[bought & frame["CustomerID"].notna()]
    at = frame["InvoiceDate"].astype("datetime64[us]").astype("int64")
    return _events(frame["CustomerID"], frame["StockCode"].astype(str), at)


def ml_1m(folder: Path) -> pd.DataFrame:
    """The same; ratings of one second are in the order of the file."""
    frame = pd.read_parquet(folder / "ml-1m" / "ratings.parquet")
    seconds = frame["Timestamp"].fillna(frame["timestamp_lo"]).fillna(frame["timestamp_hi"]).astype("int64")
    return _events(frame["UserID"], frame["MovieID"], seconds * MICROSECONDS)


def sessions(folder: Path) -> tuple[pd.DataFrame, float]:
    """The same, a session its user, and the share of those that are learned from."""
    train = pd.read_parquet(folder / "retailrocket-sessions" / "train_sessions.parquet")
    test = pd.read_parquet(folder / "retailrocket-sessions" / "test.parquet")
    test["items"] = [[*prefix, target] for prefix, target in zip(test["prefix"], test["target"], strict=True)]
    whole = test.loc[test["items"].str.len().groupby(test["session_id"]).idxmax()].sort_values("time")
    start = int(whole["time"].iloc[0])
    spread = start - 130 * 86_400 * (1 - np.arange(len(train)) / len(train)) - 3600
    began, items = [*spread.tolist(), *whole["time"].tolist()], [*train["items"], *whole["items"]]
    rows = [
        (session, item, int(at * MICROSECONDS) + place)
        for session, (at, clicked) in enumerate(zip(began, items, strict=True))
        for place, item in enumerate(clicked)
    ]
    user, item, at = (pd.Series(column) for column in zip(*rows, strict=True))
    return _events(user, item, at), len(train) / (len(train) + len(whole))


def _events(user: pd.Series, item: pd.Series, at: pd.Series) -> pd.DataFrame:
    codes = {"user": pd.factorize(user)[0], "item": pd.factorize(item)[0] + 1, "at": at.to_numpy()}
    return pd.DataFrame(codes).sort_values("at", kind="stable", ignore_index=True)


def learned(events: pd.DataFrame, event_type: str, cut_at: int) -> Snapshot:
    """What the service would hold of a night that knew these events."""
    n = len(events)
    user = events["user"].to_numpy(np.int32)
    history = Interactions(
        user, events["item"].to_numpy(np.int32), np.zeros(n, np.int8), np.ones(n, np.float32),
        events["at"].to_numpy(np.int64), user.astype(np.int64), np.full(n, np.nan), (event_type,), cut_at,
    )  # fmt: skip
    keys = np.unique(history.item_key)
    none = np.full(len(keys), -1, dtype=np.int32)
    catalogue = Catalogue(keys, np.ones(len(keys), dtype=bool), none, none, np.zeros(len(keys), dtype=np.int64))
    snapshot = snapshot_of(history, catalogue, SessionNeighbours().fit(history, catalogue).index)
    assert snapshot.fold_in is not None
    snapshot.fold_in.least_items = 1
    return replace(snapshot, meaning=EventMeaning({event_type: 1.0}, bought=()))


def weighted(weight: float) -> ServingConfig:
    """With this weight of the sessions beside 1 of the folded list."""
    return ServingConfig(surfaces={"homepage": SurfaceConfig(recent_weight=weight * FoldedIn.weight_beside_sessions)})


def ndcg(found: list[int], labels: set[int]) -> float:
    """With gain 1 a label, cut at TOP_K."""
    gain = sum(1 / np.log2(place + 2) for place, key in enumerate(found) if key in labels)
    return float(gain / sum(1 / np.log2(place + 2) for place in range(min(TOP_K, len(labels)))))


def answered(snapshot: Snapshot, events: pd.DataFrame, event_type: str, k: int) -> list[float]:
    """NDCG@10 of one user by column."""
    first = events.drop_duplicates("item")
    known, labels = first[:k], set(first["item"][k : k + N_LABELS].tolist())
    recent = [Recent(row.item, event_type, row.at // 1000) for row in known.itertuples()][::-1]
    equal = ServingConfig(surfaces={"homepage": SurfaceConfig(recent_weight=0.5)})
    former = replace(snapshot, sessions=None)
    without, alone = ServingConfig(fold_in=False), replace(former, neighbours={})
    queries = [
        (alone, NOBODY._replace(recent=recent), without),  # what they have is left out here as well
        (former, UserState(recent=recent), without),
        (alone, UserState(recent=recent), ServingConfig()),
        (former, UserState(recent=recent), equal),
        (former, UserState(recent=recent), ServingConfig()),
        (snapshot, UserState(recent=recent), without),
        *((snapshot, UserState(recent=recent), weighted(weight)) for weight in WEIGHTS.values()),
        (snapshot, UserState(recent=recent), ServingConfig()),
    ]
    query = Query(TOP_K, excluded={event.item_key for event in recent})
    return [
        ndcg([pick.item_key for pick in cascade.recommend(of, who, query, how)], labels) for of, who, how in queries
    ]


def new_users(events: pd.DataFrame, start_at: float, end_at: float, most: int) -> list[pd.DataFrame]:
    """Events of each of the users who came in [start_at, end_at)."""
    of_user = events.groupby("user").agg(came=("at", "min"), n_items=("item", "nunique"))
    new = of_user[(of_user["came"] >= start_at) & (of_user["came"] < end_at)]
    enough = new.index[new["n_items"] > LEAST_ITEMS].to_numpy()
    users = np.random.default_rng(0).choice(enough, min(most, len(enough)), replace=False)
    return [events[events["user"] == user] for user in users]


def accuracy(name: str, events: pd.DataFrame, event_type: str, most: int, cuts: tuple[float, ...] = CUTS) -> None:
    came = events.groupby("user")["at"].min()
    found: dict[int, list[list[float]]] = {k: [] for k in N_EVENTS}
    for share, until in zip(cuts, (*cuts[1:], 1.0), strict=True):
        cut_at, end_at = (int(at) for at in np.quantile(came, (share, until)))
        snapshot = learned(events[events["at"] < cut_at], event_type, cut_at)
        for group in new_users(events, cut_at, end_at, most):
            for k in N_EVENTS:
                if group["item"].nunique() > k:
                    found[k].append(answered(snapshot, group, event_type, k))
    print(f"\n{name}, NDCG@10\n")
    print(f"| events | users | {' | '.join(COLUMNS)} | served - i2i alone | served - i2i 1:2 |")
    print("|---" * (len(COLUMNS) + 4) + "|")
    for k in N_EVENTS:
        print(f"| {k} | {len(found[k]):,} | " + " | ".join(_row(np.array(found[k]))) + " |")


def _row(found: np.ndarray) -> list[str]:
    """Means of the columns (n_users, n_columns), and the intervals of two differences."""
    draws = np.random.default_rng(0).integers(0, len(found), (1000, len(found)))
    cells = [f"{mean:.4f}" for mean in found.mean(0)]
    for reference in (1, 4):
        low, high = np.quantile((found[:, -1] - found[:, reference])[draws].mean(1), (0.025, 0.975))
        cells.append(f"{low:+.4f} to {high:+.4f}")
    return cells


def speed(n_items: int, skew: float) -> None:
    """Vectors of normally distributed numbers, the length of the i-th (1 + i)^-skew."""
    random = np.random.default_rng(0)
    lengths = (1.0 + np.arange(n_items)) ** -skew
    vectors = (random.normal(0.1, 0.2, (n_items, 64)) * lengths[:, None]).astype(np.float32)
    started = time.perf_counter()
    factors = ItemFactors(np.arange(n_items), vectors)
    params = {"half_life_days": 90, "alpha": 1, "regularization": 0.05, "bm25_k1": 10, "bm25_b": 0.4}
    fold = FoldIn(factors, np.ones(n_items, np.float32), np.ones(n_items), 10.0, 1.0, params)
    prepared = time.perf_counter() - started
    available = bytearray(b"\1" * n_items)
    for n_events in (3, 50):
        seconds = []
        for _ in range(500):
            weights = dict.fromkeys(random.choice(n_items, n_events, replace=False).tolist(), 1.0)
            started = time.perf_counter()
            fold.recommend(weights, lambda: np.array(available, dtype=bool))
            seconds.append(time.perf_counter() - started)
        median, p99 = statistics.median(seconds) * 1e3, float(np.quantile(seconds, 0.99)) * 1e3
        print(
            f"| {n_items:,} | {'equal' if not skew else 'skewed'} | {n_events} | {median:.2f} | {p99:.2f}"
            f" | {prepared:.2f} | {factors.vectors.nbytes / 2**20:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=MOST_USERS, help="of a cut, at most")
    parser.add_argument("--only", choices=["online-retail", "ml-1m", "sessions"], help="this data set, no speed")
    args = parser.parse_args()
    folder = os.environ.get("RECSYS_DATA_DIR")
    if folder:
        if args.only in (None, "online-retail"):
            accuracy("Online Retail", online_retail(Path(folder)), "purchase", args.users)
        if args.only in (None, "ml-1m"):
            accuracy("ML-1M", ml_1m(Path(folder)), "rating", args.users)
        if args.only in (None, "sessions"):
            events, share = sessions(Path(folder))
            accuracy("RetailRocket's sessions", events, "view", args.users, (share,))
    else:
        print("RECSYS_DATA_DIR is not set: speed alone")
    if args.only:
        return
    print("\n| items of 64 | lengths | events | median ms | p99 ms | prepared in s | MiB |\n" + "|---" * 7 + "|")
    with threadpool_limits(1, "blas"):  # as the service does
        for n_items in (50_000, 235_000):
            for skew in (0.0, 0.3):
                speed(n_items, skew)


if __name__ == "__main__":
    main()
