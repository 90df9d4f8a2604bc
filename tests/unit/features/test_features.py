"""Features know only what lay before the cut, and have the values that a hand would count."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.dataset import INSTANT, Dataset, DatasetMeta, write_dataset
from recsys.features.frame import CATEGORICAL, Features, join_features
from recsys.types import MICROSECONDS_PER_DAY as DAY

AS_OF = 200 * DAY
META = DatasetMeta("hand", AS_OF, ("view", "buy"), {"view": 1.0, "buy": 5.0}, ("buy",), ("buy",))
Event = tuple[float, int, int, str, float]  # day, user, item, type, value
ItemProperty = tuple[float, int, str, str]  # day, item, property, value


def dataset_of(folder, events: list[Event], properties: list[ItemProperty] = ()) -> Dataset:
    """Users and items 1 to 4; items are known from day 0, except item 4: from its first event."""
    events, properties = sorted(events), [(0.0, 1, "categoryid", "shoes"), *properties]
    at = [round(day * DAY) for day, *_ in events]
    first = [0, 0, 0, min([t for t, e in zip(at, events, strict=True) if e[2] == 4], default=AS_OF - 1)]
    once = {(round(day * DAY), item, name): value for day, item, name, value in properties}
    tables = {
        "events": pa.table(
            {
                "event_id": pa.array(range(len(events)), pa.int64()),
                "user_key": pa.array([e[1] for e in events], pa.int32()),
                "item_key": pa.array([e[2] for e in events], pa.int32()),
                "event_type": pa.array([e[3] for e in events], pa.string()),
                "occurred_at": pa.array(at, INSTANT),
                "weight": pa.array([META.event_weights[e[3]] for e in events], pa.float32()),
                "value": pa.array([e[4] for e in events], pa.float64()),
                "session_id": pa.array([int(e[0]) * 10 + e[1] for e in events], pa.int64()),
            }
        ),
        "items": pa.table(
            {
                "item_key": [1, 2, 3, 4],
                "item_id": ["a", "b", "c", "d"],
                "available": [True] * 4,
                "first_seen_at": pa.array(first, INSTANT),
            }
        ),
        "users": pa.table(
            {
                "user_key": [1, 2, 3, 4],
                "user_id": ["u", "v", "w", "x"],
                "first_seen_at": pa.array([0] * 4, INSTANT),
            }
        ),
        "categories": pa.table(
            {
                "category_key": [1, 2, 3],
                "category_id": ["all", "shoes", "hats"],
                "parent_category_key": pa.array([None, 1, 1], pa.int32()),
            }
        ),
        "item_properties": pa.table(
            {
                "item_key": [item for _, item, _ in once],
                "occurred_at": pa.array([t for t, _, _ in once], INSTANT),
                "property": [name for _, _, name in once],
                "value": list(once.values()),
            }
        ),
    }
    return write_dataset(folder, META, tables)


PAIRS = pa.table({"user_key": [u for u in range(1, 6) for _ in range(5)], "item_key": [1, 2, 3, 4, 5] * 5})


def test_values_that_a_hand_would_count(tmp_path) -> None:
    events = [
        (100.0, 1, 1, "view", 10.0),
        (104.0, 1, 1, "buy", 30.0),
        (104.0, 2, 1, "view", 20.0),
        (109.5, 2, 2, "view", 40.0),
        (110.0, 1, 2, "buy", 99.0),  # at the cut: not known
    ]
    properties = [
        (0.0, 1, "price", "5"),
        (109.0, 1, "price", "8"),
        (110.0, 1, "price", "70"),
        (0.0, 2, "categoryid", "hats"),
    ]
    dataset = dataset_of(tmp_path, events, properties)
    table = join_features(dataset, pa.table({"user_key": [1, 2], "item_key": [1, 1], "score": [0.5, 0.25]}), 110 * DAY)
    one, two = table.to_pylist()
    expected = {
        "score": 0.5,
        "item_n_1d": 0,
        "item_n_7d": 2,
        "item_n_28d": 3,
        "item_n_all": 3,
        "item_n_users": 2,
        "item_age_days": 10,
        "item_last_days": 6,
        "item_known_days": 110,
        "item_price": 8,
        "item_available": 1,
        "item_category": 2,
        "item_parent_category": 1,
        "item_weight_28d": 7,
        "item_decayed_fast": 2 ** (-10 / 7) + 6 * 2 ** (-6 / 7),
        "item_trend_7_28": (3 / 7) / (4 / 28),
        "item_share_7d": 2 / 3,
        "item_rank_7d": 1,
        "user_n_view": 1,
        "user_n_buy": 1,
        "user_n_all": 2,
        "user_n_items": 1,
        "user_n_sessions": 2,
        "user_active_days": 2,
        "user_last_days": 6,
        "user_mean_gap_days": 4,
        "user_mean_value": 20,
        "user_repeat_share": 0.5,
        "user_segment": 0,
        "user_favourite_category": 2,
        "pair_n": 2,
        "pair_n_buy": 1,
        "pair_last_days": 6,
        "pair_first_days": 10,
        "pair_due": 1.5,
        "pair_last_value": 30,
        "pair_category_n": 2,
        "pair_category_share": 1,
        "pair_parent_share": 1,
        "pair_price_ratio": 8 / 20,
    }
    assert {name: one[name] for name in expected} == pytest.approx(expected)
    assert (two["user_favourite_category"], two["pair_category_n"], two["pair_parent_n"]) == (3, 1, 2)
    hats = 2 ** (-0.5 / 60)
    assert two["pair_category_share"] == pytest.approx(2 ** (-6 / 60) / (hats + 2 ** (-6 / 60)))


def test_a_stranger_and_a_new_item_are_unknown_not_zero(tmp_path) -> None:
    dataset = dataset_of(tmp_path, [(10.0, 1, 1, "view", 1.0)])
    row = join_features(dataset, pa.table({"user_key": [9, 1], "item_key": [4, 2]}), 20 * DAY).to_pylist()
    assert np.isnan(row[0]["user_n_all"])
    assert np.isnan(row[0]["item_n_all"])
    assert (row[0]["pair_n"], row[0]["item_category"], row[0]["user_favourite_category"]) == (0, -1, -1)
    assert (row[1]["item_n_all"], row[1]["item_n_users"], row[1]["pair_category_share"]) == (0, 0, 0)
    assert np.isnan(row[1]["item_last_days"])


def test_the_columns_are_the_same_for_any_cut_and_chunk(tmp_path) -> None:
    dataset = dataset_of(tmp_path, [(10.0, 1, 1, "view", 1.0), (30.0, 2, 4, "buy", 2.0)])
    whole = Features(dataset)
    joined = whole.join(PAIRS)
    assert joined.column_names == [*PAIRS.column_names, *whole.names]
    assert Features(dataset, 5 * DAY).join(PAIRS).schema == joined.schema
    chunks = pa.concat_tables([whole.join(PAIRS.slice(start, 7)) for start in range(0, 25, 7)])
    for name in whole.names:
        np.testing.assert_array_equal(chunks[name].to_numpy(), joined[name].to_numpy())
    kinds = {str(joined.schema.field(name).type) for name in whole.names if name not in CATEGORICAL}
    assert kinds == {"float"}


days = st.floats(0, 199, allow_nan=False)
event = st.tuples(
    days, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["view", "buy"]), st.sampled_from([1.0, 2.5])
)
history = {"available": ["0", "1"], "categoryid": ["shoes", "hats", "all"], "price": ["1", "2.5"]}
item_property = st.sampled_from(sorted(history)).flatmap(
    lambda name: st.tuples(days, st.integers(1, 3), st.just(name), st.sampled_from(history[name]))
)


@pytest.mark.slow
@given(st.lists(event, min_size=1, max_size=10), st.lists(item_property, max_size=6), st.floats(1, 190), st.data())
@settings(max_examples=10)
def test_nothing_at_or_after_the_cut_changes_a_feature(tmp_path_factory, events, properties, cut, data) -> None:
    at = round(cut * DAY)
    after = st.floats(0, 199 - cut).map(lambda more: at / DAY + more)
    late_events = data.draw(st.lists(st.tuples(after, event).map(lambda e: (e[0], *e[1][1:])), min_size=1, max_size=4))
    late_properties = data.draw(st.lists(st.tuples(after, item_property).map(lambda t: (t[0], *t[1][1:])), max_size=4))
    late_properties = [(max(day, at / DAY), *rest) for day, *rest in late_properties if round(day * DAY) >= at]
    late_events = [row for row in late_events if round(row[0] * DAY) >= at]
    plain = dataset_of(tmp_path_factory.mktemp("plain"), events, properties)
    extended = dataset_of(tmp_path_factory.mktemp("more"), [*events, *late_events], [*properties, *late_properties])
    before, later = Features(plain, at).join(PAIRS), Features(extended, at).join(PAIRS)
    for name in before.column_names:
        np.testing.assert_allclose(before[name].to_numpy(), later[name].to_numpy(), rtol=1e-6, err_msg=name)
