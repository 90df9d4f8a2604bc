"""The blend of generators: what it learns from few labels, what it ignores, its files, and when it ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ArtifactError
from recsys.ranking.blend import FILE, Blend
from recsys.ranking.frame import Frame
from recsys.ranking.ranker import BLEND, Examples, Ranker, RankerParams, train

NAMES = ("good_score", "good_rank", "good_share", "bad_share", "noise")
PARAMS = RankerParams(iterations=30, n_models=1, threads=2)
N_CANDIDATES = 20


def examples(n_users: int, seed: int) -> Examples:
    """One candidate of each user comes true; `good` ranks it in its upper third, `bad` at the bottom."""
    rng = np.random.default_rng(seed)
    rank = np.concatenate([rng.permutation(N_CANDIDATES) + 1 for _ in range(n_users)]).astype(np.float32)
    user = np.repeat(np.arange(n_users), N_CANDIDATES)
    label = np.zeros(len(user), dtype=bool)
    for one in range(n_users):
        of_user = np.flatnonzero(user == one)
        label[rng.choice(of_user[rank[of_user] <= N_CANDIDATES // 3])] = True
    share = (N_CANDIDATES - rank) / (N_CANDIDATES - 1)
    unknown = rng.random(len(user)) < 0.1
    columns = [share, rank, share, np.where(unknown, np.nan, 1 - share), rng.normal(size=len(user))]
    frame = Frame(NAMES, np.stack(columns, axis=1).astype(np.float32))
    return Examples(frame, label, user, user.astype(np.int32))


def fitted(n_users: int = 200) -> Blend:
    given = examples(n_users, 1)
    return Blend.fit(NAMES, given.frame.matrix, given.label)


def test_it_reads_shares_and_ranks_and_never_turns_a_generator_around() -> None:
    blend = fitted()
    assert blend.names == ("good_rank", "good_share", "bad_share")
    assert blend.weight[2] == 0.0
    assert max(blend.weight[:2]) > 0


def test_its_probabilities_are_calibrated() -> None:
    given = examples(2_000, 2)
    probability = 1 / (1 + np.exp(-fitted(2_000).predict(given.frame.matrix)))
    assert probability.sum() == pytest.approx(given.label.sum(), rel=0.02)
    best = given.frame.matrix[:, 1] <= N_CANDIDATES // 3
    assert probability[best].sum() == pytest.approx(given.label[best].sum(), rel=0.15)


def test_it_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    blend = fitted()
    blend.save(tmp_path)
    assert Blend.load(tmp_path) == blend
    (tmp_path / FILE).write_text('{"names": []}')
    with pytest.raises(ArtifactError, match="train it again"):
        Blend.load(tmp_path)


def test_it_ranks_where_labels_are_too_few_for_trees_and_says_so(tmp_path: Path) -> None:
    ranker = train(examples(6, 3), examples(300, 4), PARAMS)
    assert ranker.report["loss"] == BLEND, ranker.report["why"]
    assert "blend: NDCG@10" in ranker.report["why"]
    assert set(ranker.report["importance"]) == {"good_rank", "good_share", "bad_share"}
    ranker.save(tmp_path)
    given = examples(5, 5)
    np.testing.assert_array_equal(Ranker.load(tmp_path).score(given.frame), ranker.score(given.frame))


def test_trees_rank_where_they_know_more() -> None:
    def with_reason(given: Examples) -> Examples:
        given.frame.matrix[:, 4] = given.label  # what no generator says
        return given

    ranker = train(with_reason(examples(300, 6)), with_reason(examples(300, 7)), PARAMS)
    assert ranker.report["loss"] == "Logloss"
    assert ranker.report["validation"][BLEND]["ndcg@10"] < ranker.report["validation"]["Logloss"]["ndcg@10"]
