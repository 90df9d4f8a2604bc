"""A cut whose models are older than what is known of its users: what is learned and what is known do not mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.candidates import registry
from recsys.ranking.cut import Cut
from recsys.types import MICROSECONDS_PER_DAY, CandidateGenerator, Catalogue, Interactions, Task
from tests.unit.ranking.taste_world import CUT_AT, dataset

LAG = 20 * MICROSECONDS_PER_DAY
NAMES = ["popular", "covisitation"]


def fitted(name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
    return registry.make(name).fit(history, catalogue)


def test_models_are_of_then_and_histories_and_masks_of_now(tmp_path: Path) -> None:
    data = dataset(tmp_path / "world")
    events = data.interactions()
    now, then = (Cut(data, events, at, NAMES, fitted) for at in (CUT_AT, CUT_AT - LAG))
    lagging = Cut(data, events, CUT_AT, NAMES, fitted, learned_at=CUT_AT - LAG)
    users = np.unique(then.history.user_key)[:20]
    items = np.tile(then.catalogue.item_key[:15], (len(users), 1))

    def scores(cut: Cut, name: str) -> np.ndarray:
        return cut.generators[name].scores(users, items)

    np.testing.assert_array_equal(scores(lagging, "popular"), scores(then, "popular"))
    assert not np.array_equal(scores(lagging, "popular"), scores(now, "popular"))
    expected = then.generators["covisitation"].with_histories(events.before(CUT_AT)).scores(users, items)
    np.testing.assert_array_equal(scores(lagging, "covisitation"), expected)
    assert not np.array_equal(expected, scores(then, "covisitation"))
    assert not np.array_equal(expected, scores(now, "covisitation"))
    assert (lagging.mask(Task.DISCOVERY)(users) != now.mask(Task.DISCOVERY)(users)).nnz == 0
    assert lagging.history.cut_at == CUT_AT


def test_features_of_items_are_of_then_and_those_of_users_of_now(tmp_path: Path) -> None:
    data = dataset(tmp_path / "world")
    events = data.interactions()
    now, then = (Cut(data, events, at, [], fitted) for at in (CUT_AT, CUT_AT - LAG))
    lagging = Cut(data, events, CUT_AT, [], fitted, learned_at=CUT_AT - LAG)
    users = np.unique(then.history.user_key)[:15]
    pairs = pa.table({"user_key": users, "item_key": then.catalogue.item_key[:15]})
    of_now, of_then, mixed = (cut.features.join(pairs) for cut in (now, then, lagging))
    for name in mixed.column_names:
        source = of_then if name.startswith("item_") and name not in ("item_key", "item_title_trend") else of_now
        np.testing.assert_array_equal(mixed[name].to_numpy(), source[name].to_numpy(), err_msg=name)
    assert any(not mixed[name].equals(of_now[name]) for name in mixed.column_names)
