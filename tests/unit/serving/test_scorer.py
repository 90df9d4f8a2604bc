"""The scorer on a small network: probabilities of pairs, whoever comes, in whatever order."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.artifacts import ArtifactStore
from recsys.errors import ArtifactError, InputError
from recsys.features.deepfm_fields import activity_rows, time_rows
from recsys.serving.model_state import Asker, Moment, read_features
from recsys.serving.recent import Recent
from recsys.serving.scorer import Scorer
from tests.integration import tiny_model

NOW_MS = tiny_model.CUT_AT / 1000 + 60_000
NOBODY_KNOWS = [None, 56, 60, 10_000]
keys = st.sampled_from([*range(1, 61), *NOBODY_KNOWS])
events = st.builds(
    Recent,
    st.integers(1, 70),
    st.sampled_from(["view", "addtocart", "gift", "nothing"]),
    st.integers(int(NOW_MS) - 10**6, int(NOW_MS)),
)
users = st.builds(
    Asker,
    st.sampled_from([None, 1, 2, 3, 99_999]),
    st.lists(events, max_size=30).map(lambda found: sorted(found, key=lambda one: -one.occurred_ms)),
    st.fixed_dictionaries({}, optional={"hour": st.integers(0, 23), "n_events": st.integers(0, 10**9)}),
)
WEIGHTS = {"view": 1.0, "addtocart": 3.0, "nothing": 0.0}


def category_of(item_key: int) -> tuple[int, int]:
    return (2, 1) if item_key <= 50 else (3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(root, "v1")
    return ArtifactStore(str(root)).open("deepfm_serving/v1")[0]


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer(folder)


def score(scorer: Scorer, askers: list[Asker], of_pair: list[int], items: list[int | None]) -> np.ndarray:
    rows = scorer.state.item_rows(items, category_of)
    return scorer.probabilities(askers, np.array(of_pair, dtype=np.int32), rows, Moment(NOW_MS, WEIGHTS))


@given(st.data(), st.lists(users, min_size=1, max_size=5), st.lists(keys, min_size=1, max_size=20))
def test_each_pair_is_scored_for_itself(
    scorer: Scorer, data: st.DataObject, askers: list[Asker], items: list[int | None]
) -> None:
    of_pair = data.draw(st.lists(st.integers(0, len(askers) - 1), min_size=len(items), max_size=len(items)))
    found = score(scorer, askers, of_pair, items)
    assert found.shape == (len(items),)
    assert ((found >= 0) & (found <= 1)).all()
    order = data.draw(st.permutations(range(len(items))))
    shuffled = score(scorer, askers, [of_pair[at] for at in order], [items[at] for at in order])
    np.testing.assert_allclose(shuffled, found[order], rtol=1e-6)
    one = data.draw(st.integers(0, len(items) - 1))
    alone = score(scorer, [askers[of_pair[one]]], [0], [items[one]])
    np.testing.assert_allclose(alone, found[[one]], rtol=1e-5, atol=1e-7)  # other users' rows do not reach over


def test_many_users_are_scored_in_portions(scorer: Scorer) -> None:
    askers = [Asker(n % 4) for n in range(2500)]
    of_pair = [*range(2499, -1, -1), 7]
    found = score(scorer, askers, of_pair, [1] * 2501)
    few = score(scorer, askers[:4], [0, 1, 2, 3], [1] * 4)
    np.testing.assert_array_equal(found, few[np.array(of_pair) % 4])


def test_rows_are_those_of_the_training(scorer: Scorer) -> None:
    """The same functions as offline, moved on by what came since the cut."""
    cut_ms = tiny_model.CUT_AT // 1000
    new = [Recent(2, "addtocart", cut_ms + 86_400_000), Recent(60, "view", cut_ms), Recent(4, "view", cut_ms - 1)]
    inputs = scorer.state.user_inputs([Asker(1, new), Asker(2)], Moment(NOW_MS, WEIGHTS))
    assert inputs["user"][:, 0].tolist() == [1, 2]
    assert inputs["user"][:, 1].tolist() == activity_rows(np.array([3 + 2, 1])).tolist()
    assert (inputs["user"][:, 2:4] == time_rows(np.array([int(NOW_MS * 1000)]))).all()
    assert inputs["history"].tolist() == [[2, 0, 1, 3], [0, 0, 0, 0]]  # item 60 came after the training
    day = 2 ** (-1 / 60)
    raw = np.array([3.0, day, 0.8 * 1.4 * day, 0.6 * 1.4 * day])  # stored weights times their sum: what they were
    np.testing.assert_allclose(inputs["history_weight"][0], raw / np.sqrt(raw.sum()), rtol=1e-5)
    assert (inputs["history_weight"][1] == 0).all()


def test_a_long_history_keeps_the_newest(scorer: Scorer) -> None:
    cut_ms = tiny_model.CUT_AT // 1000
    many = [Recent(n, "view", cut_ms + 100 - n) for n in range(1, 51)]
    inputs = scorer.state.user_inputs([Asker(1, many)], Moment(NOW_MS, WEIGHTS))
    assert inputs["history"].tolist() == [list(range(1, 21))]
    assert np.square(inputs["history_weight"]).sum() == pytest.approx(1, rel=1e-3)  # equal weights 1/√20


def test_features_of_a_request(scorer: Scorer) -> None:
    given_: dict[str, Any] = {"hour": 23, "day_of_week": 7.0, "n_events": 5, "mood": 1, "part_of_day": "x", "x" * 99: 1}
    features, warnings = scorer.read_features(given_)
    assert features == {"hour": 23, "day_of_week": 7, "n_events": 5}
    assert len(warnings) == 3
    assert all(len(warning) < 150 for warning in warnings)
    user = scorer.state.user_inputs([Asker(1, (), features)], Moment(NOW_MS, {}))["user"][0]
    assert user.tolist() == [1, int(activity_rows(np.array([5]))[0]), 7, 8, 0, 0, 0, 0, 0]
    for bad in (True, None, [], {}, float("nan"), float("inf"), -1, 24, 3.5, "3"):
        assert read_features(scorer.spec, {"hour": bad})[0] == {}


def test_weights_change_in_place_and_only_here(folder: Path) -> None:
    mine, other = Scorer(folder), Scorer(folder)
    before = score(mine, [Asker(2)], [0, 0], [1, 2])
    mine.put_weights("item_fields/table", np.array([[1.0, 9.0]], dtype=np.float32), np.array([2]))
    after = score(mine, [Asker(2)], [0, 0], [1, 2])
    assert after[0] == before[0]
    assert after[1] > 0.99 > before[1]
    np.testing.assert_array_equal(score(other, [Asker(2)], [0, 0], [1, 2]), before)
    np.testing.assert_array_equal(score(Scorer(folder), [Asker(2)], [0, 0], [1, 2]), before)
    for bad in (np.zeros((1, 3)), np.array([[np.nan, 0.0]])):
        with pytest.raises(InputError, match="item_fields/table"):
            mine.put_weights("item_fields/table", bad.astype(np.float32), np.array([2]))
    with pytest.raises(InputError, match="no weight 'nonsense'"):
        mine.put_weights("nonsense", np.zeros(1, dtype=np.float32))


def test_what_is_missing_or_foreign_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="feature spec"):
        Scorer(tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            os.link(path, tmp_path / path.relative_to(folder))
    (tmp_path / "state" / "users.npy").unlink()
    with pytest.raises(ArtifactError, match="state"):
        Scorer(tmp_path)
    os.link(folder / "state" / "users.npy", tmp_path / "state" / "users.npy")
    (tmp_path / "pairs.onnx").unlink()
    (tmp_path / "pairs.onnx").write_bytes(b"no network")
    with pytest.raises(ArtifactError, match="cannot be run"):
        Scorer(tmp_path)
    (tmp_path / "items.onnx").unlink()  # as before there were two parts
    with pytest.raises(ArtifactError, match="train_deepfm with --force"):
        Scorer(tmp_path)


def test_a_large_state_takes_no_memory_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    """A million users: their arrays are mapped."""
    tiny_model.write(tmp_path, "large")
    large = tmp_path / "deepfm_serving" / "large"
    n = 1_000_000
    np.save(large / "state" / "users.npy", np.arange(n, dtype=np.int32))
    np.save(large / "state" / "n_events.npy", np.zeros(n, dtype=np.int32))
    np.save(large / "state" / "history_start.npy", np.zeros(n + 1, dtype=np.int64))
    tracemalloc.start()
    try:
        made = Scorer(large)
        assert made.state.n_users == n
        score(made, [Asker(999_999)], [0], [1])
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


def test_a_model_of_before_the_context_is_refused(folder: Path, tmp_path: Path) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"format": 1}))
    with pytest.raises(ArtifactError, match="of format 1, not 2; train it again"):
        Scorer(tmp_path)


@given(st.sampled_from([None, 1, 2]), st.lists(events, max_size=10), st.integers(1, 60), st.integers(2, 50))
def test_who_buys_one_thing_again_and_again_is_not_less_likely_to_want_it(
    scorer: Scorer, user_key: int | None, before: list[Recent], item: int, n: int
) -> None:
    """For every item: its probability after n purchases is no lower than after one. The rest of the bag does not fade
    behind copies of one item."""
    earlier = sorted(before, key=lambda one: -one.occurred_ms)
    bought = [Recent(item, "addtocart", int(NOW_MS) + place) for place in range(n)][::-1]
    once, often = Asker(user_key, [bought[0], *earlier]), Asker(user_key, [*bought, *earlier])
    probability = score(scorer, [once, often], [0, 1], [item, item])
    assert probability[1] >= probability[0] - 1e-6
