"""The prepared data set: what is written is what is read, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.dataset import INSTANT, Dataset, DatasetMeta, instant, microseconds, write_dataset
from recsys.errors import ArtifactError, InputError
from recsys.types import MICROSECONDS_PER_DAY as DAY

META = DatasetMeta("hand", 10 * DAY, ("view", "buy"), {"view": 1.0, "buy": 5.0}, ("buy",), ("buy",))


def days(*values: float) -> pa.Array:
    return pa.array([round(value * DAY) for value in values], INSTANT)


def tables() -> dict[str, pa.Table]:
    """Item 1 is known from day 1, sold out on day 4; item 2 from day 3; events come unsorted."""
    return {
        "events": pa.table(
            {
                "event_id": [1, 2, 3, 4],
                "user_key": [1, 2, 1, 2],
                "item_key": [2, 1, 1, 1],
                "event_type": ["view", "buy", "view", "view"],
                "occurred_at": days(5, 1, 2, 2),
                "weight": [1.0, 5.0, 1.0, 1.0],
                "session_id": [0, 1, 2, 3],
            }
        ),
        "items": pa.table(
            {"item_key": [2, 1], "item_id": ["b", "a"], "available": [True, False], "first_seen_at": days(3, 1)}
        ),
        "users": pa.table({"user_key": [1, 2], "user_id": ["u", "v"], "first_seen_at": days(2, 1)}),
        "categories": pa.table(
            {"category_key": [1, 2], "category_id": ["root", "leaf"], "parent_category_key": pa.array([None, 1])}
        ),
        "item_properties": pa.table(
            {
                "item_key": [1, 1, 1, 1],
                "occurred_at": days(4, 1, 1, 6),
                "property": ["available", "available", "categoryid", "categoryid"],
                "value": ["0", "1", "leaf", "root"],
            }
        ),
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path, META, tables())


def test_events_come_in_time_order_with_ties_in_the_source_s(dataset: Dataset) -> None:
    events = dataset.interactions()
    assert dataset.meta.n_rows == {"events": 4, "items": 2, "users": 2, "categories": 2, "item_properties": 4}
    assert events.occurred_at.tolist() == [DAY, 2 * DAY, 2 * DAY, 5 * DAY]
    assert events.user_key.tolist() == [2, 1, 2, 1]
    assert events.event_type.tolist() == [1, 0, 0, 0]
    assert events.cut_at == 10 * DAY
    assert np.isnan(events.value).all()


def test_only_what_lies_strictly_before_a_cut_is_read(dataset: Dataset) -> None:
    assert len(dataset.interactions(before=2 * DAY)) == 1
    assert len(dataset.interactions(before=2 * DAY + 1)) == 3
    assert len(dataset.interactions(before=0)) == 0
    assert dataset.interactions(before=99 * DAY).cut_at == 10 * DAY


@pytest.mark.parametrize(
    ("at", "keys", "available", "category", "parent"),
    [
        (1 * DAY, [], [], [], []),
        (1 * DAY + 1, [1], [True], [2], [1]),
        (4 * DAY + 1, [1, 2], [False, True], [2, -1], [1, -1]),
        (None, [1, 2], [False, True], [1, -1], [-1, -1]),
    ],
)
def test_the_catalogue_is_that_of_its_instant(dataset, at, keys, available, category, parent) -> None:
    catalogue = dataset.catalogue(at)
    assert catalogue.item_key.tolist() == keys
    assert catalogue.available.tolist() == available
    assert catalogue.category_key.tolist() == category
    assert catalogue.parent_category_key.tolist() == parent


def test_ibis_sees_every_table(dataset: Dataset) -> None:
    con = dataset.connect(threads=1)
    counts = {name: int(con.to_pyarrow(con.table(name).count()).as_py()) for name in dataset.meta.n_rows}
    assert counts == dataset.meta.n_rows
    con.disconnect()


def test_meta_survives_and_instants_are_exact(dataset: Dataset) -> None:
    again = Dataset(dataset.folder)
    assert again.meta == dataset.meta
    assert microseconds(instant(1_442_545_187_788_123)) == 1_442_545_187_788_123


@pytest.mark.parametrize(
    ("name", "column", "values", "message"),
    [
        ("events", "item_key", [2, 1, 1, 9], "1 events have a item_key that is not in the table items"),
        ("events", "event_type", ["view", "buy", "view", "wish"], "wish"),
        ("events", "occurred_at", days(5, 1, 2, 10), "at or after the cut-off"),
        ("events", "weight", [1.0, None, 1.0, 1.0], "events.weight has 1 nulls"),
        ("events", "user_key", ["x", "y", "z", "w"], "cannot be read as int32"),
        ("items", "item_key", [2, 2], "unique"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, name, column, values, message) -> None:
    bad = tables()
    table = bad[name]
    bad[name] = table.set_column(table.column_names.index(column), column, pa.array(values))
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path, META, bad)
    assert not list(tmp_path.iterdir())


def test_a_missing_table_column_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the table users"):
        write_dataset(tmp_path, META, {name: table for name, table in tables().items() if name != "users"})
    with pytest.raises(InputError, match="lacks the column item_id"):
        write_dataset(tmp_path, META, {**tables(), "items": tables()["items"].drop(["item_id"])})
    with pytest.raises(InputError, match="no table wishes"):
        write_dataset(tmp_path, META, {**tables(), "wishes": tables()["users"]})
    with pytest.raises(ArtifactError, match="holds no prepared data set"):
        Dataset(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        DatasetMeta.from_json('{"source": "x"}')
