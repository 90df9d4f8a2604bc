# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One shop's data
#
# What events, users and items look like, and what follows from it for the recommender. Online Retail where
# `RECSYS_DATA_DIR` holds it, else a generated shop; `make notebooks` runs this, `make notebooks QUICK=--quick` does
# on the generated shop.

# %%
# %matplotlib inline
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from recsys.candidates.covisitation import last_events
from recsys.candidates.next_item import NextItem
from recsys.evaluation import segments
from recsys.evaluation.beyond import gini
from recsys.evaluation.protocol import labels_of, windows
from recsys.types import MICROSECONDS_PER_DAY, Task
from research.notebooks.data import shop

# %% tags=["parameters"]
QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))
WINDOW_DAYS = 14  # as RECSYS_LABEL_WINDOW_DAYS

# %%
data = shop(QUICK)
meta, events = data.meta, data.interactions()
bought = events.of_types(meta.bought_event_types)
frame = pd.DataFrame(
    {
        "user": events.user_key,
        "item": events.item_key,
        "session": events.session_id,
        "type": np.array(events.event_types)[events.event_type],
        "at": pd.to_datetime(events.occurred_at, unit="us"),
    }
)
print(
    f"{meta.source}: {len(events):,} events of {frame['user'].nunique():,} users on {frame['item'].nunique():,} items, "
    f"{frame['at'].min():%Y-%m-%d} to {frame['at'].max():%Y-%m-%d}; bought means {', '.join(meta.bought_event_types)}"
)

# %% [markdown]
# ## Events over time
#
# Whether the load is steady, and whether the last days are whole: the newest label window trains and judges the
# ranker, so a gap at the end is a gap in what it learns.

# %%
by_day = pd.crosstab(frame["at"].dt.floor("D"), frame["type"]).asfreq("D", fill_value=0)
axes = by_day.plot(figsize=(9, 3.2), xlabel="", ylabel="events a day", title="Events by day")
axes.axvspan(frame["at"].max() - pd.Timedelta(days=WINDOW_DAYS), frame["at"].max(), alpha=0.15, label="newest window")
axes.legend(fontsize="small")
plt.show()
total = by_day.sum(axis=1)
print(f"{total.median():,.0f} events on a median day, {(total == 0).sum()} of {len(total)} days without any")

# %% [markdown]
# ## Who acts, and on what
#
# Both distributions have a long tail. A few items take most events, so popularity is a strong row that every model
# has to beat, and concentration is measured beside accuracy. Users with few items are most of all users: their lists
# depend on the last events and on what others did next, not on factors of their own.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
inequality = {}
for axis, name in ((left, "item"), (right, "user")):
    counts = np.sort(frame[name].value_counts().to_numpy())[::-1]
    inequality[name] = gini(frame[name].to_numpy()[:, None], len(counts))
    axis.loglog(np.arange(1, len(counts) + 1), counts)
    axis.set(
        xlabel=f"{name}s, the busiest first", ylabel="events", title=f"Events by {name}, Gini {inequality[name]:.2f}"
    )
    axis.grid(alpha=0.3)
plt.show()
counts = frame["item"].value_counts()
n_items_of_user = frame.groupby("user")["item"].nunique()
light = (n_items_of_user <= segments.LIGHT_ITEMS).mean()
print(
    f"The busiest tenth of the items has {counts.head(len(counts) // 10).sum() / counts.sum():.0%} of the events; "
    f"{(counts < 5).mean():.0%} of the items have fewer than five. {light:.0%} of the users have at most "
    f"{segments.LIGHT_ITEMS} distinct items (the segment `light`), the median has {n_items_of_user.median():.0f}."
)

# %% [markdown]
# ## Sessions, baskets, and how often people come back
#
# Where a session or basket holds many items, what is in it together says more than its order (co-visitation); where
# it holds one or two, only the order across sessions is left (`next_item`). Users with one session have no history at
# all when they come next: the popular list and the session's own clicks serve them.

# %%
session_size = frame.groupby("session")["item"].nunique()
n_sessions = frame.groupby("user")["session"].nunique()
starts = frame.groupby("session").agg(user=("user", "first"), at=("at", "min")).sort_values(["user", "at"])
pause_days = starts.groupby("user")["at"].diff().dropna().dt.total_seconds() / 86_400
figure, parts = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
for axis, values, label in (
    (parts[0], session_size, "distinct items of a session"),
    (parts[1], n_sessions, "sessions of a user"),
    (parts[2], pause_days, "days between two sessions of a user"),
):
    axis.hist(values.clip(upper=values.quantile(0.98)), bins=40)
    axis.set(xlabel=label, yscale="log")
plt.show()
print(
    f"A session has {session_size.mean():.1f} distinct items (median {session_size.median():.0f}); "
    f"{(n_sessions == 1).mean():.0%} of the users have one session only; "
    f"the median pause is {pause_days.median():.1f} days."
)

# %% [markdown]
# ## What is bought again
#
# The share of purchases of an item that the user has bought before. It decides the task: where it is large, lists for
# *all purchases* should show own items again (`RECSYS_TASK=all`, generator `recent`); *discovery* hides them.

# %%
purchases = pd.DataFrame({"user": bought.user_key, "item": bought.item_key, "session": bought.session_id})
purchases = purchases.drop_duplicates(["session", "item"])
purchases["again"] = purchases.duplicated(["user", "item"])
order = purchases.drop_duplicates(["user", "session"]).groupby("user").cumcount()
purchases["n_before"] = order.reindex(purchases.index)
purchases["n_before"] = purchases.groupby(["user", "session"])["n_before"].transform("first")
by_order = purchases[purchases["n_before"] < 15].groupby("n_before")["again"].mean()
axes = by_order.plot.bar(figsize=(7, 3), xlabel="purchases before", ylabel="share of own items", title="Bought again")
plt.show()
print(f"{purchases['again'].mean():.0%} of what is bought had been bought by the same user before.")

# %% [markdown]
# ## How far back the best predictor of a purchase is
#
# Rules of what follows what (`next_item`) are learned before the newest window. Then, for each first purchase of an
# item in it, the own item that is nearest to it by these rules is the *best predictor*. If recency did not matter,
# that item would stand as far back as an own item drawn at random does. The more the two curves part near zero, the
# more a half-life in sessions (`history_half_life_sessions`, `history_half_life_places`) is worth.

# %%
window = windows(events.cut_at, n=1, days=WINDOW_DAYS)[0]
history, catalogue = events.before(window.cut_at), data.catalogue(window.cut_at)
rules = NextItem(backward=0.0).fit(history, catalogue)
own = last_events(history, 100)
last_session = pd.Series(own.session_id).groupby(own.user_key).rank(method="dense", ascending=False).to_numpy() - 1
labels = labels_of(events, window, meta, Task.DISCOVERY)
first_of = np.searchsorted(own.user_key, labels.user_key)
end_of = np.searchsorted(own.user_key, labels.user_key, side="right")
age_days = (window.cut_at - own.occurred_at) / MICROSECONDS_PER_DAY
places = np.searchsorted(own.user_key, own.user_key, side="right") - 1 - np.arange(len(own))
found, rng = [], np.random.default_rng(1)
for row, item in zip(labels.row, rules.items.positions(labels.item_key), strict=True):
    mine = slice(first_of[row], end_of[row])
    at = rules.items.positions(own.item_key[mine])
    if item < 0 or len(at) < 2 or (at < 0).any():
        continue
    near = rules.nearness_between(at, np.array([item]))[:, 0]
    if near.max() > 0:
        drawn = {"": mine.start + int(near.argmax()), "any ": int(rng.integers(mine.start, mine.stop))}
        found.append(
            {
                f"{which}{name}": values[at]
                for which, at in drawn.items()
                for name, values in (("sessions", last_session), ("days", age_days), ("places", places))
            }
        )
distance = pd.DataFrame(found)
figure, parts = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained", sharey=True)
for axis, name in zip(parts, ("sessions", "places", "days"), strict=True):
    for column, label in ((name, "best predictor"), (f"any {name}", "own item at random")):
        values = np.sort(distance[column].to_numpy())
        axis.plot(values, np.linspace(0, 1, len(values)), label=label)
    axis.set(xlabel=f"{name} before the user's last event" if name != "days" else "days before the window")
    axis.grid(alpha=0.3)
parts[0].set(ylabel="share of new purchases")
parts[0].legend()
plt.show()
share = (distance[["sessions", "any sessions"]] == 0).mean()
print(
    f"{len(distance):,} of {len(labels.item_key):,} new purchases have a predictor among the user's own items. "
    f"The best one is {distance['sessions'].mean():.1f} sessions and {distance['days'].mean():.0f} days back (mean), "
    f"one at random {distance['any sessions'].mean():.1f} sessions and {distance['any days'].mean():.0f} days; "
    f"of the last session are {share['sessions']:.0%} of the best, and {share['any sessions']:.0%} at random."
)

# %% [markdown]
# ## Whether the order of two items matters
#
# For the last item before the window and the first one in it: how often is the next item among the 20 nearest by
# rules forward (what came after), backward (what came before), and by both. Where forward wins, a directed generator
# (`next_item`) pays beside a symmetric one; where both alike are best, a visit is a basket without order.

# %%
symmetric = NextItem(backward=1.0).fit(history, catalogue)
last = own.item_key[end_of[np.arange(len(labels))] - 1]
later = events.between(window.cut_at, window.end_at).of_types(meta.label_event_types).in_favour
first = pd.Series(later.item_key).groupby(later.user_key).first()
first = first[first.index.isin(labels.user_key)]
pairs = pd.DataFrame({"last": pd.Series(last, labels.user_key), "next": first}).dropna().astype(np.int32)
pairs = pairs[pairs["last"] != pairs["next"]]
at_last, at_next = (rules.items.positions(pairs[name].to_numpy()) for name in ("last", "next"))
known = (at_last >= 0) & (at_next >= 0)
hit = {}
for name, matrix in (("forward", rules.near), ("backward", rules.near.T.tocsr()), ("both", symmetric.near)):
    rows = matrix[at_last[known]].toarray()
    rank = (rows > rows[np.arange(len(rows)), at_next[known]][:, None]).sum(axis=1)
    hit[name] = float(((rank < 20) & (rows[np.arange(len(rows)), at_next[known]] > 0)).mean())
pd.Series(hit).plot.barh(figsize=(6, 2), xlabel="next item among the 20 nearest", title="Direction of rules")
plt.show()
print(f"{known.sum():,} users; " + ", ".join(f"{name} {share:.1%}" for name, share in hit.items()))

# %% [markdown]
# ## Seasons
#
# Days of the week and hours say when a night may run and when the service is busy; changes of what sells from month
# to month say how fast popularity and trends must forget (`half_life_days` of `popular`, `trend_half_life_days`).

# %%
figure, parts = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
frame["at"].dt.day_name().value_counts().reindex(
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"], fill_value=0
).plot.bar(ax=parts[0], title="by day of the week", xlabel="")
frame["at"].dt.hour.value_counts().reindex(range(24), fill_value=0).plot.bar(
    ax=parts[1], title="by hour, UTC", xlabel=""
)
best_of = {
    period: set(items.value_counts().head(100).index)
    for period, items in frame.groupby(pd.Grouper(key="at", freq=f"{WINDOW_DAYS}D"))["item"]
}
periods = list(best_of)
kept = [len(best_of[one] & best_of[two]) / 100 for one, two in pairwise(periods)]
parts[2].plot(periods[1:], kept, marker="o")
parts[2].set(title=f"of the 100 top items, kept after {WINDOW_DAYS} days", ylim=(0, 1))
parts[2].tick_params(axis="x", rotation=45)
plt.show()
print(f"From one {WINDOW_DAYS} days to the next, {np.mean(kept):.0%} of the 100 most popular items stay among them.")

# %% [markdown]
# ## Cold items and users
#
# Items first seen in a label window cannot be proposed by any stage that learned before it, and their share lowers
# every row alike; items seen only recently need attributes and trends. Users who are new in a window get the popular
# list and, from their first events on, neighbours and folded-in factors.

# %%
rows = []
for one in windows(events.cut_at, n=4, days=WINDOW_DAYS):
    before, during = events.before(one.cut_at), events.between(one.cut_at, one.end_at)
    known_items = data.catalogue(one.cut_at)
    recent = segments.items(before, known_items)["new items"]
    rows.append(
        {
            "window from": pd.to_datetime(one.cut_at, unit="us").date(),
            "events on unknown items": 1 - np.isin(during.item_key, known_items.item_key).mean(),
            f"on items of the last {segments.NEW_DAYS} days": np.isin(during.item_key, recent).mean(),
            "events of unknown users": 1 - np.isin(during.user_key, before.user_key).mean(),
        }
    )
cold = pd.DataFrame(rows).set_index("window from")
cold.plot.bar(figsize=(8, 3), ylabel="share of the window's events", title="Cold items and users")
plt.show()
cold.round(3)

# %% [markdown]
# ## What is missing
#
# Attributes that most items lack are of little use as features, and an event type without values gets its weight from
# the type alone.

# %%
items = data.table("items").to_pandas()
missing = {f"items.{name}": float(items[name].isna().mean()) for name in items.columns}
missing["events.value"] = float(np.isnan(events.value).mean())
gone = pd.Series(missing).sort_values()
gone.plot.barh(figsize=(7, 3), xlabel="share that is missing", xlim=(0, 1), title="Missing values")
plt.show()
print(
    f"Missing altogether: {', '.join(gone.index[gone == 1]) or 'nothing'}. "
    f"{1 - items['available'].mean():.0%} of the items cannot be bought now and are never recommended."
)
