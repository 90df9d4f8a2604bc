"""The cascade on random catalogues and lists: never a forbidden item, never one twice, always as many as there are."""

import datetime as dt
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from recsys.serving import cascade
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.snapshot import ALL_ITEMS, ListVersion, Publication, Snapshot, StoredList
from recsys.storage import tables

N_ITEMS = 30
# 1 ─┬─ 2 ─── 4
#    └─ 3
PARENTS = {1: None, 2: 1, 3: 1, 4: 2}


def stored(keys: Sequence[int]) -> StoredList:
    return StoredList(keys, [1.0 / (i + 1) for i in range(len(keys))], [0] * len(keys))


def snapshot_of(rows: Mapping[int, tuple[int | None, bool]], defaults: Mapping[int, Sequence[int]]) -> Snapshot:
    items = ItemDictionary("integer")
    for key, (category, available) in rows.items():
        items.add(key, str(1000 + key), category, available)
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    versions = {
        kind: ListVersion(i, kind, "v1", "dataset/1", "test", at, None, None, (f"model of {kind}",))
        for i, kind in enumerate(tables.LIST_KINDS)
    }
    return Snapshot(
        publication=Publication(7, 7, at, "published", "dataset/1", {}, {}, versions),
        items=items,
        categories=CategoryTree("integer", {key: str(key) for key in PARENTS}, PARENTS),
        default_lists={owner: stored(keys) for owner, keys in defaults.items()},
        user_id_type="integer",
    )


lists_of_keys = st.lists(st.integers(1, N_ITEMS + 5), unique=True, max_size=12)  # some keys are of no item
catalogues = st.dictionaries(
    st.integers(1, N_ITEMS), st.tuples(st.none() | st.sampled_from(sorted(PARENTS)), st.booleans()), max_size=N_ITEMS
)


@given(
    rows=catalogues,
    defaults=st.dictionaries(st.sampled_from([ALL_ITEMS, *PARENTS]), lists_of_keys),
    ranked=st.none() | lists_of_keys,
    personal=st.none() | lists_of_keys,
    category=st.none() | st.sampled_from(sorted(PARENTS)),
    excluded=st.sets(st.integers(1, N_ITEMS), max_size=8),
    top_k=st.integers(1, N_ITEMS + 5),
)
def test_every_answer_keeps_the_rules_and_is_as_long_as_it_can_be(
    rows: dict[int, tuple[int | None, bool]],
    defaults: dict[int, list[int]],
    ranked: list[int] | None,
    personal: list[int] | None,
    category: int | None,
    excluded: set[int],
    top_k: int,
) -> None:
    below = {None: set(PARENTS), 1: {1, 2, 3, 4}, 2: {2, 4}, 3: {3}, 4: {4}}[category]
    possible = {
        key
        for key, (of, available) in rows.items()
        if available and key not in excluded and (category is None or of in below)
    }
    picks = cascade.recommend(
        snapshot_of(rows, defaults),
        None if ranked is None else stored(ranked),
        None if personal is None else stored(personal),
        category_key=category,
        excluded=excluded,
        top_k=top_k,
    )
    keys = [pick.item_key for pick in picks]
    assert len(keys) == len(set(keys)) == min(top_k, len(possible))
    assert set(keys) <= possible
    order = [cascade.RANKED, cascade.PERSONAL, cascade.POPULAR_IN_CATEGORY, cascade.POPULAR, cascade.AVAILABLE]
    places = [order.index(pick.source) for pick in picks]
    assert places == sorted(places)  # tiers do not mix
    from_ranked = [key for key in ranked or [] if key in possible][:top_k]
    assert keys[: len(from_ranked)] == from_ranked  # the best list is neither reordered nor thinned out


def test_the_narrowest_popular_list_comes_first() -> None:
    rows: dict[int, tuple[int | None, bool]] = {1: (4, True), 2: (4, True), 3: (2, True), 4: (3, True), 5: (4, True)}
    snapshot = snapshot_of(rows, {4: [2], 2: [3, 1], ALL_ITEMS: [4, 3, 2]})
    picks = cascade.recommend(snapshot, None, None, category_key=4, excluded=set(), top_k=5)
    assert [(pick.item_key, pick.source) for pick in picks] == [
        (2, "popular_in_category"),
        (1, "popular_in_category"),  # from the parent's list
        (5, "available"),
    ]
    assert picks[0].generator == "model of default"
    assert cascade.tier(picks) == "popular_in_category"


def test_neighbours_are_never_the_item_itself_and_are_not_filled_up() -> None:
    rows: dict[int, tuple[int | None, bool]] = {1: (4, True), 2: (4, True), 3: (2, False), 4: (3, True)}
    snapshot = snapshot_of(rows, {ALL_ITEMS: [4, 3, 2]})
    picks = cascade.neighbours(snapshot, 1, stored([1, 3, 2]), stored([2, 4]), top_k=10)
    assert [(pick.item_key, pick.source) for pick in picks] == [(2, "i2i"), (4, "similar")]
    assert cascade.tier(cascade.neighbours(snapshot, 1, None, None, top_k=10)) == cascade.NOTHING


def test_the_owner_of_the_list_of_all_items_is_the_one_in_storage() -> None:
    assert ALL_ITEMS == tables.ALL_ITEMS_OWNER
