import numpy as np
import pytest

from recsys.data.dataset import DatasetMeta
from recsys.errors import InputError
from recsys.evaluation import protocol, segments
from recsys.evaluation.protocol import Window
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Catalogue, Interactions, Task


def interactions(rows: list[tuple[int, int, float, str]], end_day: float) -> Interactions:
    """From (user, item, day, type), in time order."""
    types = ("view", "transaction")
    return Interactions(
        user_key=np.array([r[0] for r in rows], dtype=np.int32),
        item_key=np.array([r[1] for r in rows], dtype=np.int32),
        event_type=np.array([types.index(r[3]) for r in rows], dtype=np.int8),
        weight=np.ones(len(rows), dtype=np.float32),
        occurred_at=np.array([round(r[2] * DAY) for r in rows], dtype=np.int64),
        session_id=np.arange(len(rows), dtype=np.int64),
        value=np.full(len(rows), np.nan),
        event_types=types,
        cut_at=round(end_day * DAY),
    )


EVENTS = interactions(
    [
        (1, 100, 1, "transaction"),
        (1, 101, 2, "view"),
        (2, 100, 3, "view"),
        (1, 100, 10, "transaction"),  # the cut is day 10: this is a label
        (1, 101, 11, "transaction"),
        (2, 102, 12, "view"),
        (3, 100, 12, "transaction"),  # not known before the cut
        (1, 103, 20, "transaction"),  # after the window
    ],
    end_day=21,
)
WINDOW = Window(10 * DAY, 20 * DAY)
META = DatasetMeta(
    source="test",
    as_of=EVENTS.cut_at,
    event_types=EVENTS.event_types,
    event_weights={"view": 1.0, "transaction": 5.0},
    label_event_types=("transaction",),
    bought_event_types=("transaction",),
    task=Task.ALL,
)


def test_windows_are_back_to_back_and_end_with_the_data():
    got = protocol.windows(100 * DAY, n=3, days=14)
    assert [w.cut_at // DAY for w in got] == [58, 72, 86]
    assert [w.end_at // DAY for w in got] == [72, 86, 100]


def test_no_windows_is_an_error():
    with pytest.raises(InputError, match="at least one"):
        protocol.windows(100 * DAY, n=0)


def test_all_purchases_take_every_label_of_known_users_inside_the_window():
    labels = protocol.labels_of(EVENTS, WINDOW, META)
    assert labels.user_key.tolist() == [1]
    assert labels.item_key.tolist() == [100, 101]


def test_discovery_leaves_out_what_was_bought_but_not_what_was_viewed():
    labels = protocol.labels_of(EVENTS, WINDOW, META, Task.DISCOVERY)
    assert labels.item_key.tolist() == [101]


def test_a_window_without_labels_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match="or use fewer"):
        protocol.labels_of(EVENTS, Window(5 * DAY, 6 * DAY), META, Task.DISCOVERY)


def test_seen_items_follow_the_rows_asked_for():
    seen = protocol.seen_items(EVENTS.before(WINDOW.cut_at), np.array([2, 9, 1], dtype=np.int32), 110)
    assert seen.shape == (3, 110)
    assert [sorted(seen[[row]].indices.tolist()) for row in range(3)] == [[100], [], [100, 101]]


def test_segments_of_users_and_items():
    rows = [(1, item, 1.0, "transaction") for item in range(21)] + [(2, 0, 2.0, "transaction")] * 3
    rows += [(3, 50, 95.0, "view")]
    history = interactions(rows, end_day=100)
    keys = np.array([1, 2, 3, 4], dtype=np.int32)
    assert segments.activity(history, keys)["heavy"].tolist() == [True, False, False, False]
    users = segments.users(history, keys)
    assert users["new users"].tolist() == [False, False, True, True]
    assert users["light users"].tolist() == [False, True, False, False]
    assert sum(mask.astype(int) for mask in users.values()).tolist() == [1, 1, 1, 1]

    item_keys = np.append(np.arange(21), 50).astype(np.int32)
    first = np.append(np.full(21, DAY), 95 * DAY).astype(np.int64)
    none = np.full(22, -1, dtype=np.int32)
    items = segments.items(history, Catalogue(item_keys, np.ones(22, dtype=bool), none, none, first))
    assert items["new items"].tolist() == [50]
    assert 0 not in items["tail items"]
    assert 20 in items["tail items"]
