"""Small worlds whose scores are known by hand, and a slow twin of the formula."""

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ArtifactError
from recsys.session_index import Formula, Rows, SessionIndex, Sessions, neighbours_scores

PLAIN = Formula(idf_power=0, length_power=0, decay=0.5, backward=0.5, near_floor=0, walk_power=0, again=())


def index_of(sessions: list[list[int]], formula: Formula = PLAIN, walk: dict[int, dict[int, float]] | None = None):
    """Item keys are those of the sessions and of the walk (item → item → score); all items have trend 1."""
    keys = np.unique([*(key for session in sessions for key in session), *(walk or {})]).astype(np.int32)
    lengths = np.array([len(session) for session in sessions])
    rows = Rows.of(lengths, np.searchsorted(keys, [key for session in sessions for key in session]))
    part = Sessions.of(rows, (lengths**-formula.length_power).astype(np.float32), len(keys))
    idf = np.log(len(sessions) / np.maximum(np.diff(part.by_item.starts), 1)).astype(np.float32)
    steps = [(walk or {}).get(int(key), {}) for key in keys]
    to = Rows.of(
        np.array([len(step) for step in steps]), np.searchsorted(keys, [key for step in steps for key in step])
    )
    score = np.array([value for step in steps for value in step.values()], dtype=np.float32)
    return SessionIndex(keys, idf, np.ones(len(keys), np.float32), to, score, (part,), formula)


def scores(index: SessionIndex, recent: list[int]) -> dict[int, float]:
    keys, values = neighbours_scores(index, recent)
    assert (np.diff(keys) > 0).all()
    return {key: pytest.approx(value, rel=1e-5) for key, value in zip(keys.tolist(), values.tolist(), strict=True)}


def test_what_comes_next_counts_more_than_what_came_before_or_later() -> None:
    index = index_of([[1, 2, 3], [5, 1, 2], [7, 8, 9]])
    assert scores(index, [1]) == {1: 0.0, 2: 1.0, 3: 0.25, 5: 0.25}  # 2 by both sessions, 3 by half, 5 backward


def test_older_clicks_count_less_and_sessions_that_share_two_items_more() -> None:
    index = index_of([[1, 4], [2, 5], [2, 1, 6]])
    found = scores(index, [1, 2])
    assert found[4] == 1 / (1.5 * 1.25)  # similarity 1 · weight 1 over 1.5 · (1 + 0.5 / 2)
    assert found[5] == 0.25 / (1.5 * 1.25)
    assert found[6] == 1.0


def test_a_session_does_not_touch_the_next_one() -> None:
    assert set(scores(index_of([[3, 1], [2, 1], [2, 4]]), [1])) == {1, 2, 3}


def test_no_further_than_the_reach() -> None:
    found = scores(index_of([[1, 2, 3, 4]], replace(PLAIN, reach=2)), [1])
    assert set(found) == {1, 2, 3}


def test_only_the_newest_sessions_and_the_most_similar_of_them() -> None:
    sessions = [[1, 2], [1, 3], [1, 9, 4], [1, 5]]
    assert set(scores(index_of(sessions, replace(PLAIN, n_newest=2)), [1])) == {1, 9, 4, 5}
    assert set(scores(index_of(sessions, replace(PLAIN, n_neighbours=1)), [1, 9])) == {1, 9, 4}


def test_rare_items_say_more() -> None:
    index = index_of([[1, 4], [2, 5], [2, 6], [2, 7], [8, 8]], replace(PLAIN, idf_power=1, decay=1.0))
    found = scores(index, [1, 2])
    assert found[5] == (log(5 / 3) / log(5)) ** 2


def test_the_walk_finds_what_shares_no_session() -> None:
    formula = replace(PLAIN, near_floor=0.1, walk_power=1, walk_floor=0.0)
    index = index_of([[1, 2], [3, 4]], formula, {1: {3: 0.2, 2: 0.4}, 4: {3: 1.0}})
    assert scores(index, [1]) == {1: 0.0, 2: 1.0, 3: 0.5 * 0.1 / 1.1}


def test_clicks_return() -> None:
    index = index_of([[1, 2], [3, 4]], replace(PLAIN, again=[0.5, 2.0, 0.25]))
    assert scores(index, [1, 3, 1]) == {1: 0.75, 2: 1.0, 3: 2.0, 4: 0.25}
    assert scores(index, [1, 99, 99, 3])[3] == 0.0  # beyond; unknown items take their place


def test_unavailable_items_are_left_out() -> None:
    index = index_of([[1, 2, 3]])
    assert set(scores(replace(index, trend=np.array([1, 0, 1], np.float32)), [1])) == {1, 3}
    twice = replace(index, trend=np.array([1, 1, 2], np.float32))
    assert scores(twice, [1])[3] == 1.0


@pytest.mark.parametrize("recent", [[], [99]])
def test_nothing_known_gives_nothing(recent: list[int]) -> None:
    assert scores(index_of([[1, 2, 3]]), recent) == {}


def slow_scores(sessions: list[list[int]], recent: list[int], formula: Formula) -> dict[int, float]:
    """`near` alone, event by event."""
    n_with = {key: sum(key in session for session in sessions) for session in sessions for key in session}
    weight = {}
    for ago, key in enumerate(recent):
        if len(weight) < formula.max_items and key not in weight:
            weight[key] = formula.decay**ago * float(np.float32(log(len(sessions) / n_with[key]))) ** formula.idf_power
    gain: dict[int, float] = defaultdict(float)
    for session in sessions:
        similarity = sum(weight.get(key, 0) for key in set(session)) * len(session) ** -formula.length_power
        for t, key in enumerate(session):
            for u, own in enumerate(session):
                if own in weight and 0 < abs(t - u) <= formula.reach:
                    gain[key] += similarity * weight[own] * (1 if t > u else formula.backward) / abs(t - u)
    best = max(value for key, value in gain.items() if key not in recent)
    return {key: value / best for key, value in gain.items()}


def test_equal_to_the_slow_twin() -> None:
    random = np.random.default_rng(3)
    formula = Formula(near_floor=0, walk_power=0, again=(), max_items=6)
    sessions = [(random.integers(60, size=random.integers(1, 30)) + 5).tolist() for _ in range(80)]
    index = index_of(sessions, formula)
    for _ in range(30):
        recent = random.choice(index.item_keys, size=9).tolist()
        expected = slow_scores(sessions, recent, formula)
        found = scores(index, recent)
        assert {key: value for key, value in found.items() if key in expected} == expected


def test_the_day_comes_on_top_of_the_night() -> None:
    night = index_of([[1, 2], [3, 4]])
    day = night.extended([[1, 77, 4], [2, 3]])  # 77 is not known to the night
    assert scores(day, [1]) == {1: 0.0, 2: 1.0, 4: 1.0}
    assert scores(day.extended([[1, 3]]), [1]) == {1: 0.0, 2: 1.0, 3: 1.0}  # in place of the former day
    assert scores(night, [1]) == scores(night.extended([]), [1]) == scores(night.extended([[77]]), [1])
    assert day.parts[0] is night.parts[0]


def test_mapped_it_gives_the_same(tmp_path: Path) -> None:
    index = index_of([[1, 2, 3], [5, 1, 2]], Formula(), {1: {5: 0.5}})
    index.write(tmp_path)
    again = SessionIndex.mapped(tmp_path)
    assert again.formula == index.formula
    assert scores(again, [2, 1]) == scores(index, [2, 1])
    assert not again.parts[0].items.values.flags.writeable
    parts = np.load(tmp_path / "items_values.npy")
    np.save(tmp_path / "items_values.npy", np.append(parts[:-1], 99).astype(np.int32))
    with pytest.raises(ArtifactError, match="not of one writing"):
        SessionIndex.mapped(tmp_path)
    (tmp_path / "idf.npy").unlink()
    with pytest.raises(ArtifactError, match="sessions"):
        SessionIndex.mapped(tmp_path)


def test_it_needs_numpy_alone() -> None:
    code = "import sys, recsys.session_index; print({'scipy', 'pandas', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
