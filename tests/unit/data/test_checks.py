"""A data set that cannot be true is refused, with the reason."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.data import checks
from recsys.data.dataset import INSTANT, Dataset, DatasetMeta, microseconds, write_dataset
from recsys.errors import EmptyResultError

NOW = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
META = DatasetMeta("hand", microseconds(NOW) - 10**9, ("buy",), {"buy": 1.0}, ("buy",), ("buy",))


def shop(folder: Path, *, n_events: int = 20, n_items: int = 10, n_available: int = 10, **meta: object) -> Dataset:
    folder.mkdir()
    at = pa.array([10**12] * n_events, INSTANT)
    events = {
        "event_id": range(n_events),
        "user_key": [i % 3 for i in range(n_events)],
        "item_key": [i % n_items for i in range(n_events)],
        "event_type": ["buy"] * n_events,
        "weight": [1.0] * n_events,
        "session_id": range(n_events),
    }
    items = {
        "item_key": range(n_items),
        "item_id": [str(i) for i in range(n_items)],
        "available": [i < n_available for i in range(n_items)],
    }
    tables = {
        "events": pa.table({**events, "occurred_at": at}),
        "items": pa.table({**items, "first_seen_at": at[:n_items]}),
        "users": pa.table({"user_key": range(3), "user_id": ["u", "v", "w"], "first_seen_at": at[:3]}),
    }
    return write_dataset(folder, dataclasses.replace(META, **meta), tables)


def test_a_sound_data_set_passes(tmp_path: Path) -> None:
    dataset = shop(tmp_path / "a")
    assert checks.problems(dataset, now=NOW) == []
    assert checks.losses(dataset, shop(tmp_path / "b", n_items=15)) == []
    checks.require([])


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        ({"n_available": 0}, "not one item is available"),
        ({"as_of": microseconds(NOW + dt.timedelta(days=2))}, "events lie in the future"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, world: dict, reason: str) -> None:
    found = checks.problems(shop(tmp_path / "a", **world), now=NOW)
    with pytest.raises(EmptyResultError, match=reason):
        checks.require(found)


@pytest.mark.parametrize("lost", [{"n_items": 4}, {"n_available": 4}, {"n_events": 10}])
def test_half_of_the_former_data_missing_is_a_loss(tmp_path: Path, lost: dict) -> None:
    former = shop(tmp_path / "former", n_events=21)
    assert checks.losses(shop(tmp_path / "now", **lost), former)


def test_a_later_or_another_shop_is_no_measure(tmp_path: Path) -> None:
    small = shop(tmp_path / "now", n_items=2)
    assert checks.losses(small, shop(tmp_path / "later", as_of=META.as_of + 1)) == []
    assert checks.losses(small, shop(tmp_path / "other", source="elsewhere")) == []


def test_what_makes_for_poor_lists_is_noticed(tmp_path: Path) -> None:
    assert checks.notices(shop(tmp_path / "a"), max_user_share=0.1) == [], "in so few events anybody has a large share"
    single = shop(tmp_path / "b", n_items=1)
    assert checks.problems(single, now=NOW) == []
    assert any("only one item" in notice for notice in checks.notices(single, max_user_share=0.1))
    (notice,) = checks.notices(shop(tmp_path / "c", n_events=1_501), max_user_share=0.1)
    assert "user_key 0 (table users) has 33% of the events (501 of 1,501)" in notice
    assert checks.notices(shop(tmp_path / "d", n_events=1_501), max_user_share=0.5) == []
    weights = {"event_weights": {"buy": 1.0, "view": 0.5}, "event_types": ("view", "buy")}
    unlabelled = shop(tmp_path / "e", **weights, label_event_types=("view",))
    (notice,) = checks.notices(unlabelled, max_user_share=0.1)
    assert "no event is of the type view" in notice
