"""Users who came after the night: their vectors against implicit's, their lists against its and against all scores."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.candidates.als import Als
from recsys.candidates.base import current_weight
from recsys.errors import ArtifactError
from recsys.keys import KeyIndex
from recsys.serving import cascade, fold_in
from recsys.serving.config import ServingConfig, SurfaceConfig
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.recent import EventMeaning, Recent
from recsys.serving.snapshot import Query, UserState
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions
from tests.unit.serving.test_cascade import index_of, snapshot_of, stored

N_USERS, N_ITEMS, CUT_AT = 80, 60, 20_000 * MICROSECONDS_PER_DAY
VARIANTS: list[dict[str, Any]] = [
    {},
    {"bm25_k1": 0.0, "alpha": 7.0, "trend": 0.0},
    {"regularization": 2.0, "alpha": 0.5, "half_life_days": 3.0, "bm25_b": 1.0},
]


def history() -> Interactions:
    """Events of users with a taste for one half of the items, of two weights and all ages up to 40 days."""
    random = np.random.default_rng(5)
    n = 1500
    user = random.integers(0, N_USERS, n).astype(np.int32)
    item = (random.integers(0, N_ITEMS // 2, n) * 2 + user % 2).astype(np.int32)
    weight = random.choice([1.0, 3.0], n).astype(np.float32)
    at = np.sort(CUT_AT - (random.random(n) * 40 * MICROSECONDS_PER_DAY).astype(np.int64) - 1)
    return Interactions(
        user, item * 3 + 5, np.zeros(n, np.int8), weight, at, np.arange(n), np.full(n, np.nan), ("view",), CUT_AT
    )


def catalogue() -> Catalogue:
    keys = np.arange(N_ITEMS, dtype=np.int32) * 3 + 5
    none = np.full(N_ITEMS, -1, dtype=np.int32)
    return Catalogue(keys, np.ones(N_ITEMS, dtype=bool), none, none, np.zeros(N_ITEMS, dtype=np.int64))


def trained(params: dict[str, Any], folder: Path) -> tuple[Als, FoldIn]:
    model = Als(factors=8, iterations=4, num_threads=1, **params).fit(history(), catalogue())
    model.save(folder)
    fold = fold_in.read(folder)[1]
    assert fold is not None
    return model, fold


def available_of(model: Als) -> NDArray[np.bool_]:
    available = np.zeros(int(model.items.keys[-1]) + 1, dtype=bool)
    available[model.items.keys[model.available]] = True
    return available


def weights_of(model: Als, user: int) -> tuple[Interactions, dict[int, float]]:
    """A user's events, and their items' weights of now, as the night decays them."""
    own = history().take(history().user_key == user)
    weights: dict[int, float] = {}
    current = current_weight(own, model.half_life_days, model.history_half_life_sessions)
    for key, weight in zip(own.item_key.tolist(), current.tolist(), strict=True):
        weights[key] = weights.get(key, 0.0) + weight
    return own, weights


@pytest.mark.parametrize("params", VARIANTS)
def test_a_user_gets_what_the_night_gives_a_user_of_the_same_events(params: dict[str, Any], tmp_path: Path) -> None:
    """`with_histories` solves by `implicit`, this by equation 4."""
    model, fold = trained(params, tmp_path)
    for user in range(0, N_USERS, 7):
        own, weights = weights_of(model, user)
        night = model.with_histories(own)
        expected = night.user_factors[0]
        rows = fold.factors.rows_of(np.fromiter(weights, np.int64))
        found = fold.user_factors(rows, np.fromiter(weights.values(), np.float64))
        assert np.allclose(found, expected, rtol=5e-3, atol=5e-4)
        keys, scores = fold.recommend(weights, lambda: available_of(model), 10)
        seen = sp.csr_matrix(np.isin(np.arange(model.items.keys[-1] + 1), own.item_key)[None].astype(float))
        theirs = night.candidates(np.array([user], dtype=np.int32), 10, seen=seen)
        assert np.allclose(scores, theirs.score[0], rtol=5e-3, atol=5e-4)
        assert len(set(keys) & set(theirs.item_key[0].tolist())) >= 9  # equal but for two as good


EPSILON = float(np.finfo(np.float32).eps)


@settings(deadline=None)
@example(seed=120, n_items=120, n=21, n_own=41, block=1)
@given(
    seed=st.integers(0, 10_000),
    n_items=st.integers(1, 300),
    n=st.integers(1, 40),
    n_own=st.integers(0, 60),
    block=st.sampled_from([1, 7, 64]),
)
def test_the_list_is_the_best_of_all_scores(seed: int, n_items: int, n: int, n_own: int, block: int) -> None:
    """By blocks and by lengths as by brute force: available ones, not their own, of positive score."""
    random = np.random.default_rng(seed)
    keys = np.sort(random.choice(1000, n_items, replace=False)).astype(np.int32)
    vectors = (random.normal(size=(n_items, 5)) * random.pareto(1, (n_items, 1))).astype(np.float32)
    vectors[random.random(n_items) < 0.1] = 0
    params = {"half_life_days": 9, "alpha": 2, "regularization": 0.1, "bm25_k1": 0, "bm25_b": 0}
    factors = ItemFactors(keys, vectors)
    fold = FoldIn(factors, np.ones(n_items), np.ones(n_items), 1.0, 1.0, params)
    weights = dict.fromkeys(random.choice(1100, n_own, replace=False).tolist(), 1.0)
    available = random.random(700) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_in, "_BLOCK", block)
        found, scores = fold.recommend(weights, lambda: available, n)
    rows = factors.rows_of(np.fromiter(weights, np.int64, n_own))
    rows = rows[rows >= 0]
    if len(rows) < fold_in.LEAST_ITEMS:
        assert found == []
        return
    user = fold.user_factors(rows, np.ones(len(rows))).astype(np.float32).astype(np.float64)
    parts = factors.vectors.astype(np.float64) * user
    eligible = {
        int(key): (float(exact), float(rounding))  # of a sum of float32: what long vectors that cancel leave
        for key, exact, rounding in zip(factors.keys, parts.sum(1), 8 * EPSILON * abs(parts).sum(1), strict=True)
        if key < 700 and available[key] and key not in weights
    }
    assert len(set(found)) == len(found) <= n
    assert scores == sorted(scores, reverse=True)
    for key, score in zip(found, scores, strict=True):
        exact, rounding = eligible.pop(key)
        assert score > 0
        assert abs(score - exact) <= rounding
    least = scores[-1] if len(found) == n else 0.0
    assert all(exact <= least + rounding for exact, rounding in eligible.values())  # none of the others is better


def test_a_large_catalogue_is_scored_by_its_longest_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_in, "MOST_SCORED", 10)
    vectors = np.ones((30, 1), dtype=np.float32) / np.arange(1, 31, dtype=np.float32)[:, None]
    params = {"half_life_days": 9, "alpha": 1, "regularization": 0.1, "bm25_k1": 10, "bm25_b": 0.4}
    fold = FoldIn(ItemFactors(np.arange(30), vectors), np.ones(30), np.ones(30), 1.0, 1.0, params)
    keys, _ = fold.recommend({20: 1.0, 21: 1.0, 2: 1.0}, lambda: np.ones(30, dtype=bool), 100)
    assert keys == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_an_artifact_that_does_not_hold_the_weighting_gives_the_factors_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained({}, tmp_path)
    path = tmp_path / "model.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{name: values for name, values in arrays.items() if name != "mean_weight"})
    factors, fold = fold_in.read(tmp_path)
    assert fold is None
    assert len(factors.keys) == N_ITEMS
    assert "train als again" in caplog.text
    assert len(Als.load(tmp_path).weighting) == 3  # it still makes lists
    np.savez(path, **arrays | {"item_factors": np.ones_like(arrays["item_factors"])})
    description = json.loads((tmp_path / "model.json").read_text())
    description["params"]["regularization"] = 0.0
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert fold_in.read(tmp_path)[1] is None  # an equation without one solution
    assert "raise the regularization" in caplog.text
    path.write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="train als again"):
        fold_in.read(tmp_path)


def test_the_weighting_survives_saving(tmp_path: Path) -> None:
    model, _ = trained({}, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    Als.load(tmp_path).save(again)
    first, second = (np.load(io.BytesIO((folder / "model.npz").read_bytes())) for folder in (tmp_path, again))
    assert {name: first[name].tolist() for name in first.files} == {name: second[name].tolist() for name in second}
    assert model.weighting.keys() == {"trend", "rarity", "mean_user_weight", "mean_weight"}
    assert KeyIndex(first["item_keys"]).keys.tolist() == model.items.keys.tolist()


ROWS: dict[int, tuple[int | None, bool]] = dict.fromkeys(range(1, 21), (4, True))
CLUSTERS = FoldIn(  # items 1 to 10 are alike, and 11 to 20 are
    ItemFactors(np.arange(1, 21), np.eye(2, dtype=np.float32)[np.arange(20) // 10] * np.linspace(2, 1, 20)[:, None]),
    np.ones(20), np.ones(20), 3.0, 1.0,
    {"half_life_days": 90, "alpha": 1, "regularization": 0.1, "bm25_k1": 10, "bm25_b": 0.4},
)  # fmt: skip
SNAPSHOT = replace(snapshot_of(ROWS, {0: [20, 1]}), fold_in=CLUSTERS, factors=CLUSTERS.factors)
LATEST = [Recent(13, "view", 3), Recent(12, "view", 2), Recent(11, "view", 1)]


def sources(user: UserState, config: ServingConfig, snapshot: Any = SNAPSHOT) -> list[tuple[int, str]]:
    picks = cascade.recommend(snapshot, user, Query(4), config)
    return [(pick.item_key, pick.source) for pick in picks]


def test_three_items_make_a_list_for_somebody_who_has_none() -> None:
    default = ServingConfig()
    folded = [(14, "fold_in"), (15, "fold_in"), (16, "fold_in"), (17, "fold_in")]
    assert sources(UserState(recent=LATEST), default) == folded
    assert sources(UserState(seq=LATEST), default) == folded
    popular = [(20, "popular"), (1, "popular")]
    assert sources(UserState(recent=LATEST[:2]), default)[:2] == popular
    assert sources(UserState(recent=[*LATEST[:2], Recent(12, "addtocart", 0)]), default)[:2] == popular  # of two items
    assert sources(UserState(recent=[*LATEST[:2], Recent(99, "view", 0)]), default)[:2] == popular  # 99 has no vector
    [pick] = cascade.recommend(SNAPSHOT, UserState(recent=LATEST), Query(1))
    assert pick.generator == "als"
    worthless = replace(SNAPSHOT, meaning=EventMeaning({"view": 0.0}))
    assert sources(UserState(recent=LATEST), default, worthless)[:2] == popular


def test_it_is_blended_as_a_stored_list_is() -> None:
    with_i2i = replace(SNAPSHOT, neighbours={"i2i": index_of({12: [3, 15]})})
    user = UserState(recent=LATEST)
    assert sources(user, ServingConfig(), with_i2i) == [(15, "fold_in"), (3, "i2i"), (14, "fold_in"), (16, "fold_in")]
    by_turns = ServingConfig(surfaces={"homepage": SurfaceConfig(blend="interleave")})
    assert sources(user, by_turns, with_i2i) == [(14, "fold_in"), (3, "i2i"), (15, "fold_in"), (16, "fold_in")]
    recent_first = ServingConfig(surfaces={"homepage": SurfaceConfig(blend="recent_first")})
    assert sources(user, recent_first, with_i2i)[:3] == [(3, "i2i"), (15, "i2i"), (14, "fold_in")]


@pytest.mark.parametrize(
    "config",
    [
        ServingConfig(fold_in=False),
        ServingConfig(use_latest_events=False),
        ServingConfig(surfaces={"homepage": SurfaceConfig(recent_weight=0)}),
    ],
)
def test_it_is_left_out_where_it_is_switched_off_or_events_are_ignored(config: ServingConfig) -> None:
    assert sources(UserState(recent=LATEST), config)[0] == (20, "popular")


def test_somebody_with_a_list_is_not_folded_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it was asked for")

    monkeypatch.setattr(CLUSTERS, "recommend", never)
    for user in (UserState(ranked=stored([5]), recent=LATEST), UserState(personal=stored([5]), recent=LATEST)):
        assert sources(user, ServingConfig())[0][0] == 5
    without = replace(SNAPSHOT, fold_in=None)
    assert sources(UserState(recent=LATEST), ServingConfig(), without)[0] == (20, "popular")
