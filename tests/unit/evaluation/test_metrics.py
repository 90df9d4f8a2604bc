import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.evaluation import metrics
from recsys.evaluation.metrics import Labels


def labels_of(items_by_user: dict[int, list[int]]) -> Labels:
    pairs = [(user, item) for user, items in items_by_user.items() for item in items]
    return Labels.from_pairs(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))


# three users: one hit at place 2 of two labels; all of seven labels; no list at all
LISTS = np.array(
    [[9, 1, 8, 7, 6, 5, 20, 21, 22, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [-1] * 10],
    dtype=np.int32,
)
LABELS = labels_of({10: [1, 2], 20: [1, 2, 3, 4, 5, 6, 7], 30: [3]})


def test_accuracy_by_hand():
    got = metrics.accuracy(LISTS, LABELS)
    ideal_of_two = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(got["precision@5"], [0.2, 1.0, 0.0])
    np.testing.assert_allclose(got["precision@10"], [0.2, 0.7, 0.0])
    np.testing.assert_allclose(got["recall@5"], [0.5, 5 / 7, 0.0])
    np.testing.assert_allclose(got["recall@10"], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(got["ndcg@5"], [(1 / np.log2(3)) / ideal_of_two, 1.0, 0.0])
    np.testing.assert_allclose(got["ndcg@10"], [(1 / np.log2(3) + 1 / np.log2(11)) / ideal_of_two, 1.0, 0.0])
    np.testing.assert_allclose(got["map@5"], [0.5 / 2, 1.0, 0.0])
    np.testing.assert_allclose(got["map@10"], [(1 / 2 + 2 / 10) / 2, 1.0, 0.0])


def test_pool_recall_by_hand():
    np.testing.assert_allclose(metrics.pool_recall(LISTS[:, :5], LABELS), [0.5, 5 / 7, 0.0])


def test_novelty_and_coverage_by_hand():
    lists = np.array([[0, 1], [0, -1], [-1, -1]], dtype=np.int32)
    n_users_by_item = np.array([4, 2, 0])
    np.testing.assert_allclose(metrics.novelty(lists, n_users_by_item, 8), [1.5, 1.0, np.nan])
    assert metrics.item_coverage(lists, 4) == 0.5
    assert metrics.user_coverage(lists) == pytest.approx(2 / 3)
    assert metrics.top_item_share(lists, 4) == pytest.approx(2 / 3)  # item 0 has two of three places


def test_short_lists_are_measured_at_the_full_cutoff():
    short = LISTS[:, :5]
    np.testing.assert_allclose(metrics.accuracy(short, LABELS)["precision@10"], [0.1, 0.5, 0.0])


def test_a_list_with_a_repeated_item_is_refused():
    with pytest.raises(InputError, match="twice"):
        metrics.hits(np.array([[1, 1], [2, 3], [-1, -1]], dtype=np.int32), LABELS)


def test_rows_must_fit_the_labels():
    with pytest.raises(InputError, match="do not fit"):
        metrics.hits(LISTS[:2], LABELS)


def test_labels_keep_pairs_once_and_can_be_narrowed():
    labels = Labels.from_pairs(np.array([7, 5, 7, 7]), np.array([3, 2, 3, 1]))
    assert labels.user_key.tolist() == [5, 7]
    assert labels.n_labels.tolist() == [1, 2]
    assert labels.of_items(np.array([3])).user_key.tolist() == [7]
    assert labels.of_users(np.array([5])).item_key.tolist() == [2]


@st.composite
def worlds(draw):
    n_users, n_items, k = draw(st.integers(1, 8)), draw(st.integers(2, 30)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lists = np.full((n_users, k), -1, dtype=np.int32)
    for row in lists:
        length = rng.integers(0, min(k, n_items) + 1)
        row[:length] = rng.permutation(n_items)[:length]
    items = {u: list(rng.permutation(n_items)[: rng.integers(1, n_items + 1)]) for u in range(n_users)}
    return lists, labels_of(items), items


@given(worlds())
def test_metrics_are_shares_and_agree_with_a_plain_loop(world):
    lists, labels, items = world
    got = metrics.accuracy(lists, labels)
    for name, values in got.items():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all(), name
    for user, wanted in items.items():
        shown = [int(i) for i in lists[user] if i >= 0][:10]
        dcg = sum(1 / np.log2(place + 2) for place, item in enumerate(shown) if item in wanted)
        ideal = sum(1 / np.log2(place + 2) for place in range(min(10, len(wanted))))
        assert got["ndcg@10"][user] == pytest.approx(dcg / ideal)
        assert got["recall@10"][user] == pytest.approx(len(set(shown) & set(wanted)) / len(wanted))


@given(worlds(), st.integers(0, 2**32 - 1))
def test_users_are_measured_independently_of_each_other(world, seed):
    lists, labels, items = world
    alone = metrics.accuracy(lists[:1], labels_of({0: items[0]}))
    together = metrics.accuracy(lists, labels)
    assert alone["ndcg@10"][0] == pytest.approx(together["ndcg@10"][0])


@given(worlds())
def test_a_list_that_starts_with_the_labels_is_ideal(world):
    _, labels, items = world
    best = np.full((len(items), 10), -1, dtype=np.int32)
    for user, wanted in items.items():
        best[user, : min(10, len(wanted))] = wanted[:10]
    got = metrics.accuracy(best, labels)
    np.testing.assert_allclose(got["ndcg@10"], 1.0)
    np.testing.assert_allclose(got["map@5"], 1.0)


def test_overlap_is_what_two_models_have_in_common():
    lists = np.array([[1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
    assert metrics.overlap(lists, lists) == 1.0
    assert metrics.overlap(lists, lists[:, ::-1]) == 1.0, "the order does not count"
    other = np.array([[9, 8, 2, 1], [7, -1, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
    assert metrics.overlap(lists, other) == pytest.approx((2 / 4 + 0) / 2)
    assert metrics.overlap(lists, other, k=2) == 0.0
    assert np.isnan(metrics.overlap(lists[2:], lists[2:]))
