"""The generated shop has the structure that it says it has, and the same one for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from recsys.data.sources.generated import DAY_MS, N_DAYS, START_MS, draw_events, draw_shop
from recsys.data.sources.generated_files import write_shop
from recsys.data.sources.retailrocket import GeneratedShop
from recsys.errors import InputError

N_USERS, N_ITEMS, N_EVENTS = 2_000, 400, 40_000


@pytest.fixture(scope="module")
def shop():
    return draw_shop(N_USERS, N_ITEMS, seed=3)


@pytest.fixture(scope="module")
def events(shop):
    return {**draw_events(shop, N_EVENTS, seed=3)}


@pytest.fixture(scope="module")
def day(events):
    return (events["timestamp"] - START_MS) / DAY_MS


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        counts = write_shop(tmp_path / folder, 300, 60, 2_000, seed=seed)
    assert counts["events.csv"] == 2_000
    assert counts["item_properties_part1.csv"] + counts["item_properties_part2.csv"] == 60 * 85
    for name in counts:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_the_files_are_read_without_a_bad_row(tmp_path):
    counts = write_shop(tmp_path, 300, 60, 2_000)
    source = GeneratedShop(tmp_path, {})
    assert source.notes == []
    for part in source.parts():
        chunks = list(part.read())
        assert sum(chunk.rows.num_rows for chunk in chunks) == counts[part.name]
        assert not any(chunk.rejected for chunk in chunks)


def test_sizes_are_kept(shop, events, day):
    assert len(events["item"]) == N_EVENTS
    assert len(np.unique(events["user"])) == N_USERS
    assert (np.diff(events["timestamp"]) >= 0).all()
    assert day.min() >= 0
    assert day.max() < N_DAYS + 1


def test_carts_follow_views_and_purchases_follow_carts(events):
    first = {}
    for at, user, item, kind in zip(*(events[c] for c in ("timestamp", "user", "item", "event")), strict=True):
        if kind:
            assert first[user, item, kind - 1] < at
        first.setdefault((user, item, kind), at)
    bought = events["event"] == 2
    assert ((events["transaction"] >= 0) == bought).all()
    by_transaction = dict(zip(events["transaction"][bought], events["user"][bought], strict=True))
    assert all(
        by_transaction[t] == u for t, u in zip(events["transaction"][bought], events["user"][bought], strict=True)
    )


def test_new_items_are_seen_only_from_their_arrival_on_and_most_then(shop, events, day):
    age = day - shop.item_arrival[events["item"]]
    is_new = shop.item_arrival[events["item"]] > 0
    assert age.min() >= 0
    share_of_day = 1 / np.bincount(day.astype(int))[day.astype(int)]
    followed = is_new & (shop.item_arrival[events["item"]] < N_DAYS - 54)
    early = share_of_day[followed & (age < 14)].sum()
    late = share_of_day[followed & (age >= 40) & (age < 54)].sum()
    assert early > 1.2 * late


def test_what_is_not_available_is_not_bought(shop, events, day):
    in_cart = events["event"] > 0
    assert shop.is_available(events["item"], day)[in_cart].mean() > 0.99
    assert shop.is_available(events["item"], day).mean() < 0.999


def test_popularity_is_skewed(events):
    counts = np.sort(np.bincount(events["item"], minlength=N_ITEMS))[::-1]
    assert counts[: N_ITEMS // 10].sum() > 0.3 * N_EVENTS


def test_neighbours_of_the_past_predict_the_future_far_better_than_popularity(events, day):
    past = day < N_DAYS - 14
    seen, later = (
        sp.csr_matrix((np.ones(rows.sum()), (events["user"][rows], events["item"][rows])), shape=(N_USERS, N_ITEMS))
        for rows in (past, ~past)
    )
    seen, later = (seen > 0).astype(float).toarray(), (later > 0).astype(float).toarray()
    later[seen > 0] = 0
    users = (seen.sum(axis=1) > 0) & (later.sum(axis=1) > 0)
    together = seen.T @ seen
    norm = np.sqrt(np.maximum(np.diag(together), 1))
    neighbours = together / norm / norm[:, None]
    np.fill_diagonal(neighbours, 0)

    def hits(scores):
        top = np.argsort(-np.where(seen[users] > 0, -1.0, scores), axis=1)[:, :10]
        return np.take_along_axis(later[users], top, axis=1).sum()

    popular = hits(np.broadcast_to(seen.sum(axis=0), (users.sum(), N_ITEMS)))
    assert hits(seen[users] @ neighbours) > 2 * popular


@pytest.mark.parametrize("sizes", [(0, 100, 1000), (1_500_001, 100, 2_000_000), (10, 9, 100), (100, 100, 99)])
def test_sizes_that_make_no_shop_are_refused(tmp_path, sizes):
    with pytest.raises(InputError):
        write_shop(tmp_path / "shop", *sizes)
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize("sizes", [(1, 10, 1), (50, 10, 50), (10, 2_000, 500)])
def test_small_shops_are_shops(tmp_path, sizes):
    assert write_shop(tmp_path, *sizes)["events.csv"] == sizes[2]
