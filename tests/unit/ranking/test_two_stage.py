"""The two stages learn what there is to learn, and nothing from the label window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from recsys.candidates.covisitation import Covisitation
from recsys.candidates.popular import Popular
from recsys.data.dataset import Dataset
from recsys.errors import EmptyResultError
from recsys.evaluation.metrics import Labels, accuracy
from recsys.evaluation.pools import recall_of_union
from recsys.evaluation.protocol import Window, labels_of, seen_items
from recsys.features.frame import CATEGORICAL, Features
from recsys.ranking.ranker import Ranker, RankerParams
from recsys.ranking.two_stage import Stage, examples_of, rank, train_on, window_examples
from recsys.ranking.windows import is_held_out, is_validation
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Keys, Lists, Task
from tests.unit.ranking.taste_world import CUT_AT, N_ITEMS, N_USERS, SURGE, WINDOW_DAYS, dataset

PARAMS = RankerParams(losses=("Logloss",), iterations=60, early_stopping_rounds=20, threads=2, max_negatives=30)
EVERYBODY = np.arange(N_USERS, dtype=np.int32)


@dataclass
class World:
    data: Dataset
    at_cut: Stage
    windows: list[tuple[Stage, Labels]]
    labels: Labels

    @classmethod
    def of(cls, data: Dataset, task: Task = Task.DISCOVERY) -> World:
        length = WINDOW_DAYS * DAY
        before = [Window(CUT_AT - length * i, CUT_AT - length * (i - 1)) for i in (2, 1)]
        return cls(
            data,
            stage(data, CUT_AT, task),
            [(stage(data, window.cut_at, task), labels_in(data, window, task)) for window in before],
            labels_in(data, Window(CUT_AT, CUT_AT + length), task),
        )


def stage(data: Dataset, cut_at: int, task: Task) -> Stage:
    history, catalogue = data.interactions(cut_at), data.catalogue(cut_at)
    generators = [model.fit(history, catalogue) for model in (Popular(), Covisitation())]
    features = Features(data, cut_at, threads=1)

    def seen(users: Keys) -> Any:
        return seen_items(history, users, N_ITEMS) if task is Task.DISCOVERY else None

    return Stage(generators, features, seen, 40, CATEGORICAL)


def labels_in(data: Dataset, window: Window, task: Task) -> Labels:
    return labels_of(data.interactions(), window, data.meta, task)


def trained(windows: list[tuple[Stage, Labels]]) -> Ranker:
    return train_on([window_examples(stage, labels, PARAMS) for stage, labels in windows], PARAMS)


def ndcg(lists: Lists, labels: Labels) -> float:
    return float(accuracy(lists.item_key, labels)["ndcg@10"].mean())


def popular(world: World, labels: Labels, half_life_days: float = 5) -> float:
    model = Popular(half_life_days).fit(world.data.interactions(CUT_AT), world.data.catalogue(CUT_AT))
    lists = model.candidates(labels.user_key, 10, seen=world.at_cut.seen(labels.user_key))
    return float(accuracy(lists.item_key, labels)["ndcg@10"].mean())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.of(dataset(tmp_path_factory.mktemp("world") / "calm"))


@pytest.fixture(scope="module")
def ranker(world: World) -> Ranker:
    return trained(world.windows)


def test_two_stages_beat_popularity_by_far(world: World, ranker: Ranker) -> None:
    lists = rank(ranker, world.at_cut, world.labels.user_key, 10)
    assert ndcg(lists, world.labels) > 1.3 * popular(world, world.labels)


def test_lists_are_distinct_unseen_descending_and_say_who_found_them(world: World, ranker: Ranker) -> None:
    lists = rank(ranker, world.at_cut, EVERYBODY, 20, chunk=100)
    seen = world.at_cut.seen(EVERYBODY).toarray() > 0
    for row in range(N_USERS):
        items = lists.item_key[row, : lists.lengths[row]]
        assert len(set(items.tolist())) == len(items) > 0
        assert not seen[row, items].any()
        assert (np.diff(lists.score[row, : len(items)]) <= 0).all()
    assert set(np.unique(lists.source)) == {0, 1}
    whole = rank(ranker, world.at_cut, EVERYBODY, 20)
    np.testing.assert_array_equal(lists.item_key, whole.item_key)  # chunks change nothing


def test_nothing_that_happens_after_the_cut_changes_a_list(world: World, ranker: Ranker, tmp_path) -> None:
    """The leak test: in the other world four items become popular, inside the label window only."""
    surging = World.of(dataset(tmp_path / "surging", surge=True))
    surge_labels = surging.labels.of_items(SURGE)
    assert len(surge_labels) > 80  # they are most of what there is to find …
    surge_ranker = trained(surging.windows)
    lists = rank(surge_ranker, surging.at_cut, EVERYBODY, 10)
    np.testing.assert_array_equal(lists.item_key, rank(ranker, world.at_cut, EVERYBODY, 10).item_key)
    found = rank(surge_ranker, surging.at_cut, surge_labels.user_key, 10)
    assert accuracy(found.item_key, surge_labels)["recall@10"].mean() < 10 / N_ITEMS  # … and nobody foresees them


def test_with_labels_shuffled_across_users_nothing_more_than_popularity_is_left(tmp_path) -> None:
    # nothing is masked and nothing changes: for a stranger's purchases the best guess is what sold most of all time
    world = World.of(dataset(tmp_path / "steady", fashion=0), Task.ALL)
    honest = rank(trained(world.windows), world.at_cut, world.labels.user_key, 10)
    assert ndcg(honest, world.labels) > 1.3 * popular(world, world.labels, half_life_days=10_000)
    rng = np.random.default_rng(3)

    def shuffled(labels: Labels) -> Labels:
        return Labels(labels.user_key, *_shuffle(labels, rng))

    ranker = trained([(stage, shuffled(labels)) for stage, labels in world.windows])
    labels = shuffled(world.labels)
    lists = rank(ranker, world.at_cut, labels.user_key, 10)
    assert ndcg(lists, labels) < 1.1 * popular(world, labels, half_life_days=10_000)


def _shuffle(labels: Labels, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The users' sets of labels, dealt out anew."""
    order = rng.permutation(len(labels))
    parts = [labels.item_key[labels.starts[i] : labels.starts[i + 1]] for i in order]
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]), np.concatenate(parts)


def test_examples_have_all_positives_and_few_negatives(world: World) -> None:
    at_window, labels = world.windows[0]
    examples = examples_of(at_window, labels, max_negatives=7)
    everything = examples_of(at_window, labels, max_negatives=None)
    assert examples.label.sum() == everything.label.sum()
    negatives = np.bincount(examples.group[~examples.label])
    assert negatives.max() <= 7
    assert (np.diff(examples.group) >= 0).all()
    positive_users = set(examples.user_key[examples.label].tolist())
    assert set(examples.user_key.tolist()) == positive_users


def test_examples_stop_at_the_bound(world: World) -> None:
    at_window, labels = world.windows[0]
    bounded = examples_of(at_window, labels, max_negatives=None, max_rows=100, chunk=5)
    assert 100 <= len(bounded) < 100 + 5 * N_ITEMS


def test_held_out_users_neither_train_nor_validate(world: World) -> None:
    at_window, labels = world.windows[1]
    kept_out = window_examples(at_window, labels, PARAMS, hold_out=True)
    everyone = window_examples(at_window, labels, PARAMS)
    assert is_validation(kept_out.validation.user_key).all()
    assert not is_validation(kept_out.training.user_key).any()
    for part in (kept_out.training, kept_out.validation):
        assert not is_held_out(part.user_key).any()
    assert is_held_out(everyone.training.user_key).any()


def test_users_whom_nobody_knows_get_empty_lists_and_all_unknown_is_an_error(world: World, ranker: Ranker) -> None:
    known, unknown = 0, N_USERS + 5
    personal = Stage([world.at_cut.generators[1]], world.at_cut.features, leave_out=CATEGORICAL)
    with pytest.raises(EmptyResultError, match="candidate"):
        rank(ranker, personal, np.array([unknown], dtype=np.int32), 5)
    lists = rank(ranker, world.at_cut, np.array([known, unknown], dtype=np.int32), 5)
    assert lists.lengths.tolist() == [5, 5]  # popularity answers for everybody


def test_examples_count_what_the_candidates_hold_of_all_labels(world: World) -> None:
    at_window, labels = world.windows[0]
    found = window_examples(at_window, labels, PARAMS)
    lists = [one.candidates(labels.user_key, 40, seen=at_window.seen(labels.user_key)) for one in at_window.generators]
    recall = recall_of_union({str(i): one.item_key for i, one in enumerate(lists)}, labels)
    assert (found.pool.n_users, found.pool.n_labels) == (len(labels), len(labels.item_key))
    assert found.pool.recall == pytest.approx(recall.mean())
    assert 0 < found.pool.missed < 1


def test_whoever_watches_sees_every_candidate_with_its_score(world: World, ranker: Ranker) -> None:
    shown: list[tuple[slice, int, float]] = []
    lists = rank(
        ranker,
        world.at_cut,
        EVERYBODY,
        5,
        chunk=100,
        watch=lambda part, pool, scores: shown.append((part, len(pool.user_key), float(scores.max()))),
    )
    assert [part.start for part, _, _ in shown] == [0, 100, 200]
    assert sum(n for _, n, _ in shown) == N_USERS
    assert max(score for _, _, score in shown) == pytest.approx(np.nanmax(lists.score))
