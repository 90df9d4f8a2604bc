"""A cut sees nothing of what comes after it, and masks what was bought where a task asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.candidates.popular import Popular
from recsys.ranking.cut import Cut
from recsys.types import CandidateGenerator, Catalogue, Interactions, Task
from tests.unit.ranking.taste_world import CUT_AT, dataset


def test_generators_learn_of_what_lies_before_and_bought_items_are_masked_for_discovery(tmp_path: Path) -> None:
    data = dataset(tmp_path / "world")
    cuts: list[tuple[str, int, int]] = []

    def fitted(name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        cuts.append((name, history.cut_at, int(history.occurred_at.max())))
        return Popular().fit(history, catalogue)

    cut = Cut(data, data.interactions(), CUT_AT, ["popular", "another"], fitted)
    assert [(name, at) for name, at, _ in cuts] == [("popular", CUT_AT), ("another", CUT_AT)]
    assert all(newest < CUT_AT for *_, newest in cuts)
    assert cut.features.at == CUT_AT
    assert cut.stage(Task.DISCOVERY, ["another"]).generators == [cut.generators["another"]]

    users = np.array([7, 3], dtype=np.int32)
    assert cut.mask(Task.ALL)(users) is None
    seen = cut.mask(Task.DISCOVERY)(users)
    for row, user in enumerate(users):
        bought = cut.history.item_key[cut.history.user_key == user]
        assert set(np.flatnonzero(seen[[row]].toarray()[0])) == set(bought.tolist())


def test_what_lies_before_the_end_is_all_there_is_and_no_copy(tmp_path: Path) -> None:
    events = dataset(tmp_path / "world").interactions()
    assert events.before(events.cut_at) is events
    assert len(events.before(CUT_AT)) < len(events)
