"""What follows recent events by the index of sessions, in the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.serving import blend, cascade
from recsys.serving.config import Policy, ServingConfig, SurfaceConfig
from recsys.serving.core import StoredList
from recsys.serving.recent import Recent
from recsys.serving.snapshot import ALL_ITEMS, Query, Snapshot, UserState
from recsys.serving.sources import Following
from recsys.session_index import SessionIndex
from recsys.steps.benchmarks.sessions import Split
from tests.unit.serving.test_cascade import ROWS, index_of, snapshot_of, stored

CHAIN = [[1, 2, 3], [2, 3, 4], [1, 2, 3, 5], [11, 12], [12, 13]]


def sessions_of(sessions: Sequence[Sequence[int]]) -> SessionIndex:
    split = Split([np.array(session, np.int32) for session in sessions], (), np.zeros(0, np.int32), None)
    return SessionNeighbours().fit(split.events, split.catalogue).index


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    i2i = {"i2i": index_of({1: [9], 20: [10]})}
    return replace(snapshot_of(ROWS, {ALL_ITEMS: [20, 19]}), neighbours=i2i, sessions=sessions_of(CHAIN))


def viewed(*keys: int, event_type: str = "view") -> UserState:
    """Newest first."""
    return UserState(recent=[Recent(key, event_type, -1000 * ago) for ago, key in enumerate(keys)])


def configured(**surface: object) -> ServingConfig:
    return ServingConfig(surfaces={"homepage": SurfaceConfig.model_validate(surface)})


def test_items_follow_by_sessions_in_place_of_neighbours(snapshot: Snapshot) -> None:
    picks = cascade.recommend(snapshot, viewed(2), Query(4, excluded={2}))
    assert (picks[0].item_key, picks[0].source, picks[0].generator) == (3, "session", "session_neighbours")
    assert {pick.item_key for pick in picks if pick.source == "session"} <= {1, 3, 4, 5}
    assert all(pick.because_key == 2 for pick in picks if pick.source == "session")
    assert "i2i" not in {pick.source for pick in picks}


def test_without_known_items_their_neighbours_are_there(snapshot: Snapshot) -> None:
    (pick, *_) = cascade.recommend(snapshot, viewed(20), Query(3))
    assert (pick.item_key, pick.source) == (10, "i2i")


def test_own_items_may_come_first_unless_a_rule_or_the_surface_hides_them(snapshot: Snapshot) -> None:
    own = [pick.item_key for pick in cascade.recommend(snapshot, viewed(2, 1), Query(2))]
    assert set(own) == {1, 2}
    hidden = cascade.recommend(snapshot, viewed(2, 1), Query(4), configured(own_items=False))
    assert not {1, 2} & {pick.item_key for pick in hidden}
    bought = cascade.recommend(snapshot, viewed(2, event_type="transaction"), Query(4))
    assert bought[0].source == "session"
    assert 2 not in {pick.item_key for pick in bought}


def test_a_reason_is_the_own_item_that_it_follows_best(snapshot: Snapshot) -> None:
    found = Following(sessions_of(CHAIN), [11, 1], own_items=True)
    assert {key: found.because(key) for key in (12, 3, 11)} == {12: 11, 3: 1, 11: 11}


@pytest.mark.parametrize("policy", ["fuse", "rescore", "interleave", "recent_first", "list_first"])
def test_every_policy_blends_them_with_the_list(snapshot: Snapshot, policy: Policy) -> None:
    user = viewed(2)._replace(ranked=stored([6, 3, 7]))
    picks = cascade.recommend(snapshot, user, Query(6, excluded={2}), configured(blend=policy))
    keys = [pick.item_key for pick in picks]
    assert len(set(keys)) == 6
    assert {6, 3, 7} <= set(keys)
    if policy in ("fuse", "rescore"):
        assert (keys[0], picks[0].source, picks[0].because_key) == (3, "ranked", 2)  # in both
    else:
        assert keys[0] == (3 if policy == "recent_first" else 6)


def test_nothing_changes_without_recent_events_or_where_they_are_ignored(snapshot: Snapshot) -> None:
    without = replace(snapshot, sessions=None)
    quiet = UserState(ranked=StoredList.of([6, 7], [1.0, 0.5], [0, 0]))
    assert cascade.recommend(snapshot, quiet, Query(4)) == cascade.recommend(without, quiet, Query(4))
    for config in (configured(recent_weight=0), ServingConfig(use_latest_events=False)):
        picks = cascade.recommend(snapshot, viewed(2), Query(4), config)
        assert "session" not in {pick.source for pick in picks}
        assert not blend.uses_sessions(viewed(2), config, "homepage")
        assert blend.n_recent(snapshot, viewed(2), Query(4), config) == 0
    assert blend.n_recent(snapshot, viewed(2, 1), Query(4), ServingConfig()) == 2
