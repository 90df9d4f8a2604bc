"""Preparation and features in pandas, vectorised throughout: `preparation.py` compares with it, time and result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DAY_MS = 86_400_000
WEIGHTS = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0}


def prepare_pandas(raw: Path, out: Path, at: int) -> None:
    events = pd.read_parquet(raw / "events.parquet")
    properties = pd.read_parquet(raw / "item_properties.parquet")
    tree = pd.read_parquet(raw / "category_tree.parquet")
    events = events[events["timestamp"] * 1000 < at]
    properties = properties[(properties["timestamp"] * 1000 < at) & properties["value"].notna()]

    def keyed(first: Any, name: str) -> Any:
        frame = first.reset_index(name="first_ms").sort_values(["first_ms", f"{name}_id"], ignore_index=True)
        frame[f"{name}_key"] = np.arange(1, len(frame) + 1, dtype=np.int32)
        return frame

    appearances = pd.concat(
        [events.groupby("itemid")["timestamp"].min(), properties.groupby("itemid")["timestamp"].min()]
    )
    items = keyed(appearances.groupby(level=0).min().rename_axis("item_id"), "item")
    users = keyed(events.groupby("visitorid")["timestamp"].min().rename_axis("user_id"), "user")
    item_key = items.set_index("item_id")["item_key"]
    properties["item_key"] = properties.pop("itemid").map(item_key)
    properties = properties.sort_values(["item_key", "property", "timestamp"], kind="stable", ignore_index=True)

    # history of categories, availability and prices
    history = properties[properties["property"].isin(["categoryid", "available", "790"])]
    history = history.drop_duplicates(["item_key", "property", "timestamp"], keep="last")
    is_unavailable = history["value"].str.lower().isin(["", "0", "false", "f", "no", "n", "n0.000"])
    value = history["value"].where(history["property"] != "available", np.where(is_unavailable, "0", "1"))
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
    latest = properties.drop_duplicates(["item_key", "property"], keep="last")
    latest = latest[~latest["property"].isin(["categoryid", "available", "title"])]
    quoted = {text: json.dumps(text) for text in latest["value"].unique()}
    member = '"' + latest["property"] + '":' + latest["value"].map(quoted)
    objects = "{" + member.groupby(latest["item_key"]).agg(",".join) + "}"
    items["properties"] = items["item_key"].map(objects).fillna("{}")
    del properties, latest, member, objects, quoted

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
