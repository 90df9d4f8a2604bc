"""Protocol B5 on a small world of two tastes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.steps.benchmarks import replay, replay_lists, replay_models
from recsys.steps.benchmarks.replay import Replay
from recsys.steps.benchmarks.result import Result
from recsys.types import MICROSECONDS_PER_DAY, Interactions
from tests import online_world as world

WEIGHTS = {"view": 1.0}


def events() -> Interactions:
    """Those of the world, in sessions of a day; the last user comes after the cut alone."""
    known = world.events()
    session = known.user_key.astype(np.int64) * 100_000 + known.occurred_at // MICROSECONDS_PER_DAY
    user = np.where(known.user_key == world.N_USERS, 1, known.user_key)
    user[len(known) * 9 // 10 :: 4] = world.N_USERS
    return replace(known, user_key=user.astype(np.int32), session_id=session)


def test_the_cut_leaves_a_fifth_in_periods_of_equal_size() -> None:
    whole = Replay.of(events(), world.catalogue(), WEIGHTS, 4)
    at = whole.events.occurred_at
    assert whole.first == pytest.approx(0.8 * len(at), abs=1)
    sizes = np.diff(np.searchsorted(at, [*whole.starts, whole.events.cut_at]))
    assert sizes.max() - sizes.min() <= 2
    rows = whole.drawn(100)
    assert len(rows) == 100
    assert rows[0] == whole.first
    masks = whole.segments(rows)
    assert (masks["new"].astype(int) + masks["light"] + masks["heavy"] == 1).all()
    assert (whole.events.user_key[rows[masks["new"]]] == world.N_USERS).all()
    assert masks["new"].any()


def test_too_few_events_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        Replay.of(events().take(np.arange(5)), world.catalogue(), WEIGHTS, 10)


def test_a_user_has_events_of_before_the_instant_alone() -> None:
    whole = Replay.of(events(), world.catalogue(), WEIGHTS, 2)
    (row,) = rows = whole.drawn(1)
    (before,) = replay_lists._events_before(whole.events, rows)
    known = [one.item_key for one in before]
    earlier = np.flatnonzero(whole.events.user_key[:row] == whole.events.user_key[row])[::-1]
    assert known == whole.events.item_key[earlier[: len(known)]].tolist()
    assert len(known) == min(len(earlier), replay_lists.N_FOLLOWED)


def test_the_log_has_the_events_with_their_labels() -> None:
    known = events().take(np.arange(3))
    (first, *_) = replay_models.stream(replace(known, label=np.array([0.0, 1, 0.5], np.float32)), world.catalogue())
    assert (first.user_key, first.item_key, first.event.label) == (known.user_key[0], known.item_key[0], 0.0)
    assert round(first.event.occurred_at.timestamp() * 1e6) == known.occurred_at[0]
    assert replay_models.stream(known, world.catalogue())[0].event.label is None


@pytest.mark.slow
def test_the_quick_form_has_every_row_and_checks_itself() -> None:
    result: Result = replay.measured(events(), world.catalogue(), WEIGHTS, 1, quick=True)
    assert result.wrong == []
    models = result.tables["Progressive prediction by DeepFM"]
    systems = [replay_models.FROZEN, replay_models.UPDATED, replay_models.REPLAY, replay_models.RETRAINED]
    assert [row["system"] for row in models if row["segment"] == replay.ALL] == systems
    for row in models:
        assert row["AUC low"] <= row["AUC"] <= row["AUC high"]
        assert row["calibration"] > 0
    assert models[0]["- frozen"] == 0
    lists = next(rows for title, rows in result.tables.items() if title.startswith("Next item"))
    found = {row["system"]: row for row in lists if row["segment"] == replay.ALL}
    assert len(found) == 5
    assert found[replay_lists.FROZEN]["- frozen lists"] == 0
    assert all(row["NDCG@10"] <= row["HR@10"] for row in lists)
    assert len(result.tables["AUC by period"]) == replay.QUICK_PERIODS
