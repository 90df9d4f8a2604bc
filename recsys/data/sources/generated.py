"""A shop made up from a seed, with a structure that can be learnt; `generated_files` writes it down.

What is true of it: users belong to taste groups, each a point in a latent space that holds the categories as
well; a user has three favourite categories of the group's and moves from the first to the last as time goes
by, keeps to one of four styles and to a price level. A session stays mostly in one category and style. Items
are skewed in popularity, three in ten arrive later and are looked at most in their first weeks, categories
have seasons, some items sell out for a time or for good. Whoever looks at an item of the own style puts it
into the cart more often. Item properties tell category, availability, price (`790`) and style (`364`); the
others are noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

START_MS: Final = 1_430_622_000_000  # 3 May 2015, 03:00 UTC
N_DAYS: Final = 138
DAY_MS: Final = 86_400_000
N_GROUPS, N_FACTORS, N_STYLES, N_FAVOURITES = 64, 8, 4, 3
CART_SHARE, TRANSACTION_SHARE = 0.065, 0.026  # of all events
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
