"""A shop made up from a seed, written as RetailRocket's three files, with a structure that can be learnt.

What is true of it: users belong to taste groups, each a point in a latent space that holds the categories as
well; a user has three favourite categories of the group's and moves from the first to the last as time goes
by, keeps to one of four styles and to a price level. A session stays mostly in one category and style. Items
are skewed in popularity, three in ten arrive later and are looked at most in their first weeks, categories
have seasons, some items sell out for a time or for good. Whoever looks at an item of the own style puts it
into the cart more often. Item properties tell category, availability, price (`790`) and style (`364`); the
others are noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.errors import InputError

START_MS: Final = 1_430_622_000_000  # 3 May 2015, 03:00 UTC
N_DAYS: Final = 138
DAY_MS: Final = 86_400_000
MAX_USERS: Final = 1_500_000
N_GROUPS, N_FACTORS, N_STYLES, N_FAVOURITES = 64, 8, 4, 3
CART_SHARE, TRANSACTION_SHARE = 0.065, 0.026  # of all events
PROPERTY_ROWS_PER_ITEM: Final = 85  # as RetailRocket has them
_N_CATEGORY_ROWS, _N_AVAILABLE_ROWS, _N_PRICE_ROWS = 2, 6, 8
_N_TOLD_ROWS = _N_CATEGORY_ROWS + _N_AVAILABLE_ROWS + _N_PRICE_ROWS + 1
PRICE_PROPERTY, STYLE_PROPERTY = "790", "364"
_NEVER = np.float32(1e6)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shop:
    """The truth behind the files. Times are days since `START_MS`; items and users are positions, not ids."""

    category_parent: Ints  # (n_categories,), -1 for a root; leaves come last
    n_leaves: int
    group_category: Floats  # (N_GROUPS, n_leaves), cumulative shares
    leaf_phase: Floats  # (n_leaves,) season's phase
    item_leaf: Ints  # (n_items,), 0 … n_leaves - 1
    item_style: Ints
    item_popularity: Floats
    item_arrival: Floats  # ≤ 0: there from the start
    item_price_level: Floats  # 0 … 1 within its category
    item_price: Floats
    item_outage: Floats  # (n_items, 2): from, to
    item_retired: Floats
    user_group: Ints
    user_favourites: Ints  # (n_users, N_FAVOURITES) leaves
    user_style: Ints
    user_price_level: Floats
    user_activity: Floats
    user_birth: Floats

    @property
    def n_items(self) -> int:
        return len(self.item_leaf)

    @property
    def n_users(self) -> int:
        return len(self.user_group)

    def is_available(self, item: NDArray[Any], day: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether items can be bought at times; both arguments and the result have one shape."""
        sold_out = (day >= self.item_outage[item, 0]) & (day < self.item_outage[item, 1])
        return ~sold_out & (day < self.item_retired[item])


def write_shop(
    folder: Path,
    n_users: int,
    n_items: int,
    n_events: int,
    seed: int = 42,
    property_rows_per_item: int = PROPERTY_ROWS_PER_ITEM,
) -> dict[str, int]:
    """Write the files of a shop into `folder`; the same arguments give the same bytes. Counts rows by file.

    Exactly `n_events` events of exactly `n_users` users; a file appears when it is whole. Raises InputError for
    sizes that make no shop.
    """
    _check_sizes(n_users, n_items, n_events, property_rows_per_item)
    folder.mkdir(parents=True, exist_ok=True)
    shop = draw_shop(n_users, n_items, seed)
    item_ids = np.random.default_rng([seed, 10]).permutation(2 * n_items)[:n_items]
    category_ids = np.random.default_rng([seed, 11]).permutation(len(shop.category_parent))
    user_ids = np.random.default_rng([seed, 12]).permutation(n_users)

    counts = {"category_tree.csv": _write(folder / "category_tree.csv", [_tree_rows(shop, category_ids)])}
    halves = (0, n_items // 2, n_items)
    for part in (1, 2):
        name = f"item_properties_part{part}.csv"
        rng = np.random.default_rng([seed, 20 + part])
        rows = _property_rows(shop, item_ids, category_ids, halves[part - 1], halves[part], property_rows_per_item, rng)
        counts[name] = _write(folder / name, rows)
    events = draw_events(shop, n_events, seed)
    counts["events.csv"] = _write(folder / "events.csv", _event_rows(events, user_ids, item_ids))
    return counts


def draw_shop(n_users: int, n_items: int, seed: int) -> Shop:
    """Categories, items and users with their tastes."""
    rng = np.random.default_rng([seed, 1])
    n_leaves = int(np.clip(n_items // 40, 4, 1300))
    n_middle = max(2, n_leaves // 6)
    n_roots = int(np.clip(n_leaves // 30, 2, 25))
    middle_parent = np.arange(n_middle) % n_roots
    leaf_parent = np.arange(n_leaves) % n_middle
    parents = np.concatenate([np.full(n_roots, -1), middle_parent, n_roots + leaf_parent])
    # latent space: near relatives in the tree lie near each other
    root = rng.normal(size=(n_roots, N_FACTORS))
    middle = root[middle_parent] + 0.7 * rng.normal(size=(n_middle, N_FACTORS))
    leaf = middle[leaf_parent] + 0.5 * rng.normal(size=(n_leaves, N_FACTORS))
    taste = rng.normal(size=(N_GROUPS, N_FACTORS))
    leaf_share = np.log(_zipf(n_leaves, 0.6, rng))
    shares = np.exp(1.2 * taste @ leaf.T + leaf_share)
    cumulative = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)

    item_leaf = np.concatenate([np.arange(n_leaves), _draw(_zipf(n_leaves, 0.5, rng), n_items - n_leaves, rng)])
    is_new = rng.random(n_items) < 0.3
    arrival = np.where(is_new, rng.uniform(0, N_DAYS, n_items), -1.0)
    price_level = rng.random(n_items)
    price = np.round(np.exp(rng.normal(9, 0.6, n_leaves))[item_leaf] * (0.4 + 1.6 * price_level)) + 1
    from_day = rng.uniform(np.maximum(arrival, 0), N_DAYS)
    has_outage = rng.random(n_items) < 0.15
    outage = np.where(has_outage, [from_day, from_day + rng.uniform(3, 25, n_items)], _NEVER).T
    retired = np.where(rng.random(n_items) < 0.1, rng.uniform(np.maximum(arrival, 0) + 5, N_DAYS + 20), _NEVER)

    group = rng.integers(0, N_GROUPS, n_users)
    favourites = np.column_stack([_draw_by_row(cumulative, group, rng) for _ in range(N_FAVOURITES)])
    return Shop(
        category_parent=parents,
        n_leaves=n_leaves,
        group_category=cumulative,
        leaf_phase=rng.uniform(0, 2 * np.pi, n_leaves),
        item_leaf=item_leaf,
        item_style=rng.integers(0, N_STYLES, n_items),
        item_popularity=_zipf(n_items, 0.8, rng),
        item_arrival=arrival,
        item_price_level=price_level,
        item_price=price,
        item_outage=outage,
        item_retired=retired,
        user_group=group,
        user_favourites=favourites,
        user_style=rng.integers(0, N_STYLES, n_users),
        user_price_level=rng.random(n_users),
        user_activity=rng.pareto(1.3, n_users) + 0.2,
        user_birth=np.where(rng.random(n_users) < 0.3, 0.0, rng.uniform(0, N_DAYS, n_users)),
    )


def draw_events(shop: Shop, n_events: int, seed: int) -> dict[str, NDArray[Any]]:
    """Events by time: `timestamp` (ms), `user`, `item`, `event` (0 view, 1 addtocart, 2 transaction), `transaction`.

    All arrays have shape (n_events,); `transaction` is -1 but for transactions, which share one in a session.
    """
    rng = np.random.default_rng([seed, 2])
    n_carts, n_bought = int(n_events * CART_SHARE), int(n_events * TRANSACTION_SHARE)
    n_views = n_events - n_carts - n_bought
    if n_views < shop.n_users:
        n_carts, n_bought, n_views = 0, 0, n_events
    session, user, start = _draw_sessions(shop, n_views, rng)  # session: (n_views,), the others by session
    leaf, style = _draw_interests(shop, user, start, session, rng)
    item = _draw_items(shop, user[session], start[session], leaf, style, rng)
    first = np.concatenate([[True], session[1:] != session[:-1]])
    repeated = ~first & (rng.random(n_views) < 0.15)
    item = item[np.maximum.accumulate(np.where(repeated, 0, np.arange(n_views)))]

    gaps = np.where(first, 0.0, rng.exponential(50_000.0, n_views) + 1_000.0)
    passed = np.cumsum(gaps)
    passed -= passed[np.flatnonzero(first)][session]
    viewed_at = (START_MS + start[session] * DAY_MS + passed).astype(np.int64)
    ends_at = viewed_at[np.append(np.flatnonzero(first)[1:], n_views) - 1]  # by session

    liking = np.log(0.2 + (shop.item_style[item] == shop.user_style[user[session]]))
    liking = np.where(shop.is_available(item, start[session]), liking, -20.0)
    carts = _top(liking + rng.gumbel(size=n_views), n_carts)
    bought = carts[_top(rng.random(n_carts), n_bought)]
    pieces = {
        "timestamp": [viewed_at, viewed_at[carts] + 15_000, ends_at[session[bought]] + 90_000],
        "user": [user[session], user[session[carts]], user[session[bought]]],
        "item": [item, item[carts], item[bought]],
        "event": [np.full(n_views, 0), np.full(n_carts, 1), np.full(n_bought, 2)],
        "transaction": [np.full(n_views + n_carts, -1), np.unique(session[bought], return_inverse=True)[1]],
    }
    columns = {name: np.concatenate(parts) for name, parts in pieces.items()}
    order = np.argsort(columns["timestamp"], kind="stable")
    return {name: values[order] for name, values in columns.items()}


def _draw_sessions(shop: Shop, n_views: int, rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
    """The session of each view, and the user and start (days) of each session; every user has one at least."""
    views_each = float(np.clip(n_views / (1.4 * shop.n_users), 1.0, 4.0))
    n_sessions = max(shop.n_users, int(n_views / views_each))
    more = _draw(shop.user_activity, n_sessions - shop.n_users, rng)
    user = np.concatenate([np.arange(shop.n_users), more])
    day = np.arange(N_DAYS)
    by_day = np.cumsum((1 + 0.25 * np.sin(2 * np.pi * day / 7)) * (1 + 0.3 * day / N_DAYS))
    by_day = np.concatenate([[0.0], by_day / by_day[-1]])
    earliest = np.interp(shop.user_birth[user], np.arange(N_DAYS + 1), by_day)
    start = np.interp(rng.uniform(earliest, 1.0), by_day, np.arange(N_DAYS + 1))
    hour = np.clip(rng.normal(14, 5, n_sessions), 0, 23.9)
    start = np.floor(np.minimum(start, N_DAYS - 0.001)) + hour / 24
    extra = np.bincount(_draw(rng.exponential(size=n_sessions), n_views - n_sessions, rng), minlength=n_sessions)
    return np.repeat(np.arange(n_sessions), 1 + extra), user, start


def _draw_interests(
    shop: Shop, user: Ints, start: Floats, session: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Category leaf and style that each view looks for."""
    n_sessions, n_views = len(user), len(session)
    phase = start / N_DAYS * N_FAVOURITES + rng.normal(0, 0.5, n_sessions)  # favourites change as time goes by
    favourite = shop.user_favourites[user, np.clip(phase, 0, N_FAVOURITES - 1).astype(int)]
    from_group = _draw_by_row(shop.group_category, shop.user_group[user], rng)
    leaf_of_session = np.where(rng.random(n_sessions) < 0.75, favourite, from_group)
    other = _draw_by_row(shop.group_category, shop.user_group[user[session]], rng)
    leaf = np.where(rng.random(n_views) < 0.85, leaf_of_session[session], other)
    style = np.where(rng.random(n_views) < 0.7, shop.user_style[user[session]], rng.integers(0, N_STYLES, n_views))
    return leaf, style


def _draw_items(
    shop: Shop, user: Ints, day: Floats, leaf: Ints, style: Ints, rng: np.random.Generator, rounds: int = 40
) -> Ints:
    """An item of each view's category and style: by popularity, then accepted by what holds at that time."""
    bucket_of_item = shop.item_leaf * N_STYLES + shop.item_style
    by_bucket = np.argsort(bucket_of_item, kind="stable")
    edges = np.searchsorted(bucket_of_item[by_bucket], np.arange(shop.n_leaves * N_STYLES + 1))
    mass = np.concatenate([[0.0], np.cumsum(shop.item_popularity[by_bucket])])
    bucket = leaf * N_STYLES + style
    first, last = edges[bucket], edges[bucket + 1]
    whole_leaf = first == last  # no item of this style there
    first = np.where(whole_leaf, edges[leaf * N_STYLES], first)
    last = np.where(whole_leaf, edges[(leaf + 1) * N_STYLES], last)

    item = np.full(len(user), -1, dtype=np.int64)
    pending = np.arange(len(user))
    for _ in range(rounds):
        drawn = rng.uniform(mass[first[pending]], mass[last[pending]])
        position = np.clip(np.searchsorted(mass, drawn, side="right") - 1, first[pending], last[pending] - 1)
        tried = by_bucket[position]
        accepted = rng.random(len(pending)) < _appeal(shop, tried, user[pending], day[pending])
        item[pending[accepted]] = tried[accepted]
        pending = pending[~accepted]
        if not len(pending):
            return item
    there = np.flatnonzero(shop.item_arrival <= 0)
    item[pending] = there[_draw(shop.item_popularity[there], len(pending), rng)]
    return item


def _appeal(shop: Shop, item: Ints, user: Ints, day: Floats) -> Floats:
    """Chance 0 … 1 that a user who comes upon an item at a time looks at it."""
    age = day - shop.item_arrival[item]
    novelty = np.where(shop.item_arrival[item] > 0, 0.35 + 0.65 * np.exp(-age / 15), 0.5)
    season = 0.65 + 0.35 * np.sin(2 * np.pi * day / 90 + shop.leaf_phase[shop.item_leaf[item]])
    price = 1 - 0.7 * np.abs(shop.item_price_level[item] - shop.user_price_level[user])
    there = np.where(shop.is_available(item, day), 1.0, 0.1)
    return np.where(age >= 0, novelty * season * price * there, 0.0)


def _event_rows(events: Mapping[str, NDArray[Any]], user_ids: Ints, item_ids: Ints) -> Iterator[pa.RecordBatch]:
    names = pa.array(["view", "addtocart", "transaction"])
    transaction = events["transaction"]
    yield pa.record_batch(
        {
            "timestamp": events["timestamp"],
            "visitorid": user_ids[events["user"]],
            "event": names.take(pa.array(events["event"])),
            "itemid": item_ids[events["item"]],
            "transactionid": pa.array(transaction, mask=transaction < 0),
        }
    )


def _tree_rows(shop: Shop, category_ids: Ints) -> pa.RecordBatch:
    parent = shop.category_parent
    parents = pa.array(category_ids[np.maximum(parent, 0)], mask=parent < 0)
    return pa.record_batch({"categoryid": category_ids, "parentid": parents})


def _property_rows(
    shop: Shop, item_ids: Ints, category_ids: Ints, first: int, last: int, per_item: int, rng: np.random.Generator
) -> Iterator[pa.RecordBatch]:
    """Rows of the items `first` … `last`, some thousand items at a time, in no order."""
    leaf_id = category_ids[len(category_ids) - shop.n_leaves :].astype(str)
    noise = _Noise(rng)
    for start in range(first, last, 10_000):
        item = np.arange(start, min(start + 10_000, last))
        n = len(item)
        earliest = np.maximum(shop.item_arrival[item], 0.0)[:, None]

        def days(count: int, n: int = n, earliest: Floats = earliest) -> Floats:
            drawn = rng.uniform(np.broadcast_to(earliest, (n, count)), N_DAYS)
            drawn[:, 0] = earliest[:, 0]
            return drawn

        category_day, price_day = days(_N_CATEGORY_ROWS), days(_N_PRICE_ROWS)
        leaf = np.repeat(shop.item_leaf[item][:, None], _N_CATEGORY_ROWS, axis=1)
        moved = rng.random(n) < 0.05
        leaf[moved, 0] = rng.integers(0, shop.n_leaves, moved.sum())
        available_day = days(_N_AVAILABLE_ROWS)
        changes = np.column_stack([shop.item_outage[item], shop.item_retired[item]])
        told = changes < N_DAYS
        available_day[:, 1:4][told] = changes[told]
        is_available = shop.is_available(np.broadcast_to(item[:, None], available_day.shape), available_day)
        price = np.round(shop.item_price[item][:, None] * rng.normal(1, 0.05, price_day.shape)).astype(np.int64)
        others = per_item - _N_TOLD_ROWS
        other_day = rng.uniform(np.broadcast_to(earliest, (n, others)), N_DAYS)
        other_names, other_values = noise.draw(n * others)
        pieces = [
            (category_day, "categoryid", pa.array(leaf_id[leaf].ravel())),
            (available_day, "available", pc.if_else(pa.array(is_available.ravel()), "1", "0")),
            (price_day, PRICE_PROPERTY, _number_texts(price)),
            (earliest, STYLE_PROPERTY, pa.array((700_000 + 1_111 * shop.item_style[item]).astype(str))),
            (other_day, other_names, other_values),
        ]
        for day, name, value in pieces:
            owner = np.repeat(item_ids[item], day.shape[1])
            named = pa.repeat(name, len(owner)) if isinstance(name, str) else name
            timestamp = (START_MS + day.ravel() * DAY_MS).astype(np.int64)
            yield pa.record_batch({"timestamp": timestamp, "itemid": owner, "property": named, "value": value})


class _Noise:
    """Hashed properties that say nothing: names by a skewed law, values out of a stock of texts."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        names = np.setdiff1d(np.arange(1_100).astype(str), [PRICE_PROPERTY, STYLE_PROPERTY])
        self._names = pa.array(rng.permutation(names))
        self._cumulative = np.cumsum(1.0 / np.arange(1, len(names) + 1))
        tokens = rng.integers(1_000, 1_400_000, (20_000, 2)).astype(str)
        numbers = rng.integers(1, 5_000, 20_000).astype(str)
        shape = rng.integers(0, 3, 20_000)
        texts = [(a, f"{a} {b}", f"n{n}.000 {a}")[kind] for (a, b), n, kind in zip(tokens, numbers, shape, strict=True)]
        self._values = pa.array(texts)

    def draw(self, n: int) -> tuple[pa.Array, pa.Array]:
        drawn = self._rng.random(n) * self._cumulative[-1]
        names = self._names.take(pa.array(np.searchsorted(self._cumulative, drawn)))
        return names, self._values.take(pa.array(self._rng.integers(0, len(self._values), n)))


def _number_texts(values: Ints) -> pa.Array:
    """Numbers as RetailRocket writes them: `n12000.000`."""
    return pc.binary_join_element_wise("n", pa.array(values.ravel()).cast(pa.string()), ".000", "")


def _write(path: Path, batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch]) -> int:
    """Write batches as CSV, the file appearing when it is whole; gives the number of rows."""
    part = path.with_name(path.name + ".part")
    n = 0
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    with part.open("wb") as file:
        for batch in batches:
            if n == 0:
                file.write((",".join(batch.schema.names) + "\n").encode())
            pa.csv.write_csv(batch, file, options)
            n += batch.num_rows
    part.replace(path)
    return n


def _zipf(n: int, exponent: float, rng: np.random.Generator) -> Floats:
    """Weights rank^-exponent in random order."""
    return rng.permutation(np.arange(1, n + 1) ** -exponent)


def _draw(weights: Floats, n: int, rng: np.random.Generator) -> Ints:
    """`n` positions, each with a chance in proportion to its weight."""
    cumulative = np.cumsum(weights)
    return np.minimum(np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right"), len(weights) - 1)


def _draw_by_row(cumulative: Floats, row: Ints, rng: np.random.Generator) -> Ints:
    """A column for each of `row`, by that row's cumulative shares."""
    n_columns = cumulative.shape[1]
    flat = (cumulative + np.arange(len(cumulative))[:, None]).ravel()
    return np.clip(np.searchsorted(flat, row + rng.random(len(row)), side="right") - row * n_columns, 0, n_columns - 1)


def _top(values: Floats, n: int) -> Ints:
    """Positions of the `n` greatest values, ascending."""
    return np.sort(np.argpartition(values, len(values) - n)[len(values) - n :]) if n else np.empty(0, dtype=np.int64)


def _check_sizes(n_users: int, n_items: int, n_events: int, property_rows_per_item: int) -> None:
    if not 1 <= n_users <= MAX_USERS:
        raise InputError(f"a shop has 1 to {MAX_USERS:,} users, not {n_users:,}")
    if n_items < 10:
        raise InputError(f"a shop has at least 10 items, not {n_items:,}")
    if n_events < n_users:
        raise InputError(f"{n_events:,} events are too few for {n_users:,} users: each has one at least")
    if property_rows_per_item < _N_TOLD_ROWS + 1:
        raise InputError(f"an item has at least {_N_TOLD_ROWS + 1} property rows, not {property_rows_per_item}")
