"""The cascade on random catalogues and lists: never a forbidden item, never one twice, always as many as there are."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving import blend, cascade, sources
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.config import ServingConfig, SurfaceConfig
from recsys.serving.core import StoredList
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import DAY_MS, N_FOLLOWED, History, Recent, merged
from recsys.serving.snapshot import ALL_ITEMS, NOBODY, ListVersion, Publication, Query, Snapshot, UserState
from recsys.storage import tables

N_ITEMS = 30
# 1 ─┬─ 2 ─── 4
#    └─ 3
PARENTS = {1: None, 2: 1, 3: 1, 4: 2}


def stored(keys: Sequence[int]) -> StoredList:
    return StoredList.of(keys, [1.0 / (i + 1) for i in range(len(keys))], [0] * len(keys))


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
        lists={"default": {owner: stored(keys) for owner, keys in defaults.items()}},
        user_id_type="integer",
    )


lists_of_keys = st.lists(st.integers(1, N_ITEMS + 5), unique=True, max_size=12)  # some keys are of no item
catalogues = st.dictionaries(
    st.integers(1, N_ITEMS), st.tuples(st.none() | st.sampled_from(sorted(PARENTS)), st.booleans()), max_size=N_ITEMS
)
neighbour_lists = st.dictionaries(st.integers(1, N_ITEMS), lists_of_keys, max_size=6)
histories = st.lists(
    st.builds(
        Recent,
        st.integers(1, N_ITEMS + 5),
        st.sampled_from(["view", "addtocart", "transaction", "stray"]),
        st.integers(0, 10**9),
    ),
    max_size=8,
)
BELOW = {None: set(PARENTS), 1: {1, 2, 3, 4}, 2: {2, 4}, 3: {3}, 4: {4}}
POPULAR = [sources.POPULAR_IN_CATEGORY, sources.POPULAR, sources.AVAILABLE]


def index_of(lists: Mapping[int, Sequence[int]]) -> NeighbourIndex:
    return NeighbourIndex.of_lists(
        {owner: (keys, [1.0 / (i + 1) for i in range(len(keys))]) for owner, keys in lists.items()}
    )


def history_of(events: Sequence[Recent]) -> History:
    types = sorted({event.event_type for event in events})
    columns = (
        [event.item_key for event in events],
        [event.occurred_ms / DAY_MS for event in events],
        [types.index(event.event_type) for event in events],
    )
    return History(StoredList.of(*columns), types)


@given(
    rows=catalogues,
    defaults=st.dictionaries(st.sampled_from([ALL_ITEMS, *PARENTS]), lists_of_keys),
    i2i=neighbour_lists,
    similar=neighbour_lists,
    ranked=st.none() | lists_of_keys,
    personal=st.none() | lists_of_keys,
    history=histories,
    before=st.none() | histories,
    seq=st.none() | histories,
    category=st.none() | st.sampled_from(sorted(PARENTS)),
    excluded=st.sets(st.integers(1, N_ITEMS), max_size=8),
    context=st.lists(st.integers(1, N_ITEMS), max_size=3),
    candidates=st.none() | st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=12),
    top_k=st.integers(1, N_ITEMS + 5),
    surface=st.builds(
        SurfaceConfig,
        sources=st.permutations(["context", "lists", "popular_in_category", "popular", "available"]).map(tuple),
        blend=st.sampled_from(["fuse", "interleave", "recent_first", "list_first"]),
        recent_weight=st.sampled_from([0.0, 0.5, 3.0]),
    ),
)
def test_every_answer_keeps_the_rules_and_is_as_long_as_it_can_be(
    rows: dict[int, tuple[int | None, bool]],
    defaults: dict[int, list[int]],
    i2i: dict[int, list[int]],
    similar: dict[int, list[int]],
    ranked: list[int] | None,
    personal: list[int] | None,
    history: list[Recent],
    before: list[Recent] | None,
    seq: list[Recent] | None,
    category: int | None,
    excluded: set[int],
    context: list[int],
    candidates: list[int] | None,
    top_k: int,
    surface: SurfaceConfig,
) -> None:
    bought = {event.item_key for event in [*history, *(before or [])] if event.event_type == "transaction"}
    possible = {
        key
        for key, (of, available) in rows.items()
        if available and key not in {*excluded, *bought, *context} and (category is None or of in BELOW[category])
    }
    possible &= possible if candidates is None else set(candidates)
    snapshot = replace(snapshot_of(rows, defaults), neighbours={"i2i": index_of(i2i), "similar": index_of(similar)})
    user = UserState(
        None if ranked is None else stored(ranked),
        None if personal is None else stored(personal),
        merged(history),
        None if seq is None else merged(seq),
        None if before is None else history_of(before),
    )
    query = Query(top_k, category, excluded, context, candidates)
    config = ServingConfig(surfaces={"homepage": surface})
    picks = cascade.recommend(snapshot, user, query, config)
    keys = [pick.item_key for pick in picks]
    assert len(keys) == len(set(keys)) == min(top_k, len(possible))
    assert set(keys) <= possible
    own = {*context, *(event.item_key for event in (history if seq is None else seq))}
    assert all(pick.because_key in own for pick in picks if pick.source in (sources.I2I, sources.SIMILAR))
    by_default = cascade.recommend(snapshot, user, query)
    places = [POPULAR.index(pick.source) if pick.source in POPULAR else -1 for pick in by_default]
    if candidates is None:
        assert places == sorted(places)  # what is popular only fills up, from the narrowest to the widest
    if not history and not seq and not context:
        from_ranked = [key for key in ranked or [] if key in possible][:top_k]
        found = [pick.item_key for pick in by_default]
        assert found[: len(from_ranked)] == from_ranked  # the best list is neither reordered nor thinned out


ROWS: dict[int, tuple[int | None, bool]] = dict.fromkeys(range(1, 21), (4, True))


def test_what_a_user_did_a_moment_ago_calls_its_neighbours() -> None:
    snapshot = replace(snapshot_of(ROWS, {ALL_ITEMS: [20, 19]}), neighbours={"i2i": index_of({1: [2, 3], 9: [3, 4]})})
    before = cascade.recommend(snapshot, UserState(ranked=stored([5, 6, 7, 8])), Query(4))
    assert [pick.item_key for pick in before] == [5, 6, 7, 8]
    latest = [Recent(1, "addtocart", 2_000), Recent(9, "view", 1_000)]
    picks = cascade.recommend(snapshot, UserState(stored([5, 6, 7, 8]), recent=latest), Query(8))
    # 3 follows from both, most from the cart; list and neighbours take turns, the list first
    assert [(pick.item_key, pick.source, pick.because_key) for pick in picks] == [
        (5, "ranked", None),
        (2, "i2i", 1),
        (6, "ranked", None),
        (3, "i2i", 1),
        (7, "ranked", None),
        (4, "i2i", 9),
        (8, "ranked", None),
        (20, "popular", None),
    ]
    both = cascade.recommend(snapshot, UserState(stored([5, 2, 7]), recent=latest), Query(3))
    assert [(pick.item_key, pick.source, pick.because_key) for pick in both][:1] == [(2, "ranked", 1)]  # by both


def test_what_was_bought_before_hides_its_item_and_calls_nothing() -> None:
    snapshot = replace(snapshot_of(ROWS, {ALL_ITEMS: [2, 19]}), neighbours={"i2i": index_of({1: [3], 2: [4]})})
    bought = [Recent(2, "transaction", 10), Recent(19, "view", 5)]
    picks = cascade.recommend(snapshot, UserState(history=history_of(bought)), Query(2))
    assert [(pick.item_key, pick.source) for pick in picks] == [(19, "popular"), (20, "available")]
    latest = [Recent(18, "view", 1000 - place) for place in range(N_FOLLOWED)]
    older = UserState(recent=[*latest, Recent(1, "transaction", 1), Recent(19, "transaction", 0)])
    picks = cascade.recommend(snapshot, older, Query(2))
    assert [(pick.item_key, pick.source) for pick in picks] == [(2, "popular"), (20, "available")]


@pytest.mark.parametrize(
    ("surface", "expected"),
    [
        (SurfaceConfig(blend="interleave"), [5, 2, 6, 3, 7, 20]),
        (SurfaceConfig(blend="recent_first"), [2, 3, 5, 6, 7, 20]),
        (SurfaceConfig(blend="list_first"), [5, 6, 7, 2, 3, 20]),
        (SurfaceConfig(recent_weight=0), [5, 6, 7, 20]),
        (SurfaceConfig(sources=("popular", "lists")), [20, 5, 2, 6, 3, 7]),
        (SurfaceConfig(sources=("lists",)), [5, 2, 6, 3, 7]),
    ],
)
def test_each_surface_answers_as_it_is_configured(surface: SurfaceConfig, expected: list[int]) -> None:
    snapshot = replace(snapshot_of(ROWS, {ALL_ITEMS: [20]}), neighbours={"i2i": index_of({1: [2, 3]})})
    user = UserState(ranked=stored([5, 6, 7]), recent=[Recent(1, "view", 1)])
    config = ServingConfig(surfaces={"cart": surface})
    picks = cascade.recommend(snapshot, user, Query(len(expected), surface="cart"), config)
    assert [pick.item_key for pick in picks] == expected
    on_other = cascade.recommend(snapshot, user, Query(3, surface="homepage"), config)
    assert [pick.item_key for pick in on_other] == [5, 2, 6]
    off = ServingConfig(use_latest_events=False)
    assert [pick.item_key for pick in cascade.recommend(snapshot, user, Query(3), off)] == [5, 6, 7]


def test_the_context_calls_its_neighbours_first_and_never_itself() -> None:
    indexes = {"i2i": index_of({1: [2, 3]}), "similar": index_of({1: [4, 2]})}
    snapshot = replace(snapshot_of(ROWS, {ALL_ITEMS: [1, 20]}), neighbours=indexes)
    picks = cascade.recommend(snapshot, UserState(ranked=stored([1, 5])), Query(5, context_keys=[1]))
    assert [(pick.item_key, pick.source) for pick in picks] == [
        (2, "i2i"),
        (3, "i2i"),
        (4, "similar"),
        (5, "ranked"),
        (20, "popular"),
    ]


def test_candidates_are_ranked_and_none_is_added() -> None:
    snapshot = snapshot_of(ROWS, {ALL_ITEMS: [7, 5]})
    picks = cascade.recommend(snapshot, UserState(ranked=stored([9, 3])), Query(9, candidate_keys=[1, 5, 3, 7, 3]))
    assert [(pick.item_key, pick.source) for pick in picks] == [
        (3, "ranked"),
        (7, "popular"),
        (5, "popular"),
        (1, "candidate"),
    ]


def test_the_narrowest_popular_list_comes_first() -> None:
    rows: dict[int, tuple[int | None, bool]] = {1: (4, True), 2: (4, True), 3: (2, True), 4: (3, True), 5: (4, True)}
    snapshot = snapshot_of(rows, {4: [2], 2: [3, 1], ALL_ITEMS: [4, 3, 2]})
    picks = cascade.recommend(snapshot, NOBODY, Query(5, category_key=4))
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
    assert cascade.tier(cascade.neighbours(snapshot, 1, top_k=10)) == cascade.NOTHING
    snapshot = replace(snapshot, lists={"i2i": {1: stored([1, 3, 2])}, "similar": {1: stored([2, 4])}})
    picks = cascade.neighbours(snapshot, 1, top_k=10)
    assert [(pick.item_key, pick.source) for pick in picks] == [(2, "i2i"), (4, "similar")]


def test_the_owner_of_the_list_of_all_items_is_the_one_in_storage() -> None:
    assert ALL_ITEMS == tables.ALL_ITEMS_OWNER


RESCORE = ServingConfig(surfaces={"homepage": SurfaceConfig(blend="rescore")})


@given(
    rows=catalogues,
    i2i=neighbour_lists,
    ranked=st.none() | lists_of_keys,
    personal=st.none() | lists_of_keys,
    history=histories,
    candidates=st.none() | st.lists(st.integers(1, N_ITEMS + 5), min_size=1, max_size=12),
    scores=st.dictionaries(st.integers(1, N_ITEMS + 5), st.floats(0, 1)),
    fails=st.booleans(),
)
def test_rescored_it_shows_the_same_items_in_the_order_of_the_model(
    rows: dict[int, tuple[int | None, bool]],
    i2i: dict[int, list[int]],
    ranked: list[int] | None,
    personal: list[int] | None,
    history: list[Recent],
    candidates: list[int] | None,
    scores: dict[int, float],
    fails: bool,
) -> None:
    scored: list[list[int]] = []

    def score(keys: Sequence[int]) -> list[float] | None:
        scored.append(list(keys))
        return None if fails else [scores.get(key, 0.5) for key in keys]

    snapshot = replace(snapshot_of(rows, {ALL_ITEMS: [1, 2, 3]}), neighbours={"i2i": index_of(i2i)})
    user = UserState(
        None if ranked is None else stored(ranked), None if personal is None else stored(personal), merged(history)
    )
    query = Query(N_ITEMS, candidate_keys=candidates)
    fused = cascade.recommend(snapshot, user, query, RESCORE)
    picks = cascade.recommend(snapshot, user._replace(score=score), query, RESCORE)
    assert len(scored) <= 1  # once for all
    assert all(len(keys) == len(set(keys)) for keys in scored)
    assert {pick.item_key for pick in picks} == {pick.item_key for pick in fused}
    if fails or not scored:
        assert [(*pick[:3], pick.because_key) for pick in picks] == [(*pick[:3], pick.because_key) for pick in fused]
        return
    of_model = [pick for pick in picks if pick.item_key in scored[0]]
    assert [pick.score for pick in of_model] == sorted((scores.get(p.item_key, 0.5) for p in of_model), reverse=True)
    assert picks[: len(of_model)] == of_model


def test_the_model_is_asked_for_so_many_at_most() -> None:
    keys = list(range(1, 301))
    snapshot = snapshot_of(dict.fromkeys(keys, (1, True)), {})
    user = UserState(ranked=stored(keys), score=lambda scored: [float(key) / 1000 for key in scored])
    picks = cascade.recommend(snapshot, user, Query(300), RESCORE)
    n = blend.N_RESCORED
    assert [pick.item_key for pick in picks] == [*range(n, 0, -1), *range(n + 1, 301)]
    assert [pick.score for pick in picks[n:]] == [None] * (300 - n)


class Looked(list[int]):
    """Candidates that may be walked through, but not searched for each item of a list."""

    def __contains__(self, key: object) -> bool:
        raise AssertionError(key)


def test_candidates_are_not_searched_item_by_item() -> None:
    snapshot = snapshot_of(dict.fromkeys(range(1, N_ITEMS + 1), (1, True)), {ALL_ITEMS: [1, 2, 3]})
    user = UserState(stored(range(1, 11)), score=lambda keys: [float(key) for key in keys])
    picks = cascade.recommend(snapshot, user, Query(3, candidate_keys=Looked([2, 9, 4, 20])), RESCORE)
    assert [pick.item_key for pick in picks] == [20, 9, 4]
