"""The sequence network on a ring, where the next item is known; its histories, its files, and its continuation."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.candidates.sequence import SequenceModel
from recsys.candidates.sequence_histories import Histories, Pieces, batches
from recsys.candidates.sequence_start import factors, from_neighbours, nearness
from recsys.errors import InputError, ModelError
from recsys.keys import KeyIndex
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Catalogue, Interactions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

trained = [
    pytest.mark.slow,  # networks are trained
    # Keras 3.15 copies TensorFlow's variables in a way that numpy 2 wants written otherwise
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CUT = 20_000 * DAY
N_ITEMS, N_USERS = 30, 200
FIRST_ITEM = 100
USERS = (np.arange(N_USERS) * 2 + 5).astype(np.int32)
PARAMS: dict[str, Any] = {
    "dim": 16,
    "max_length": 10,
    "dropout": 0.1,
    "learning_rate": 0.01,
    "batch_events": 100,
    "max_epochs": 12,
    "validation_share": 0.0,
}


def events_of(users: NDArray[Any], items: NDArray[Any], at: NDArray[Any], cut: int = CUT) -> Interactions:
    """Events by user key and position of the item, in time order."""
    order = np.argsort(at, kind="stable")
    n = len(users)
    return Interactions(
        users[order].astype(np.int32),
        (items[order] + FIRST_ITEM).astype(np.int32),
        np.zeros(n, dtype=np.int8),
        np.ones(n, dtype=np.float32),
        at[order].astype(np.int64),
        np.arange(n),
        np.full(n, np.nan),
        ("view",),
        cut,
    )


def ring(n_items: int = N_ITEMS, seed: int = 0) -> Interactions:
    """Users walk round: after each item comes the next one. Lengths from 2 to 15, starts anywhere."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 16, N_USERS)
    users = np.repeat(USERS, lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    items = (np.repeat(random.integers(0, n_items, N_USERS), lengths) + place) % n_items
    return events_of(users, items, CUT - (20 - place) * DAY)


def catalogue(n_items: int = N_ITEMS) -> Catalogue:
    nobody = np.full(n_items, -1, dtype=np.int32)
    keys = np.arange(n_items, dtype=np.int32) + FIRST_ITEM
    return Catalogue(keys, np.ones(n_items, dtype=bool), nobody, nobody, np.zeros(n_items, dtype=np.int64))


def last_items(events: Interactions) -> NDArray[Any]:
    """The last item of each of USERS, by position."""
    return np.array([events.item_key[events.user_key == user][-1] for user in USERS]) - FIRST_ITEM


def share_right(model: SequenceModel, events: Interactions, n_items: int = N_ITEMS) -> float:
    found = model.candidates(USERS, 1).item_key[:, 0] - FIRST_ITEM
    return float((found == (last_items(events) + 1) % n_items).mean())


@pytest.fixture(scope="module")
def fitted() -> SequenceModel:
    return SequenceModel(**PARAMS).fit(ring(), catalogue())


class TestTrained:
    pytestmark = trained

    def test_the_next_item_of_a_ring_is_found(self, fitted: SequenceModel) -> None:
        assert share_right(fitted, ring()) > 0.95  # popularity gives 1 of 30

    def test_new_walks_are_found_as_well(self, fitted: SequenceModel) -> None:
        """Users whom it has never met, and other histories of those whom it has."""
        other = ring(seed=9)
        assert share_right(fitted.with_histories(other), other) > 0.95

    def test_with_the_histories_of_the_fit_it_answers_the_same(self, fitted: SequenceModel) -> None:
        again = fitted.with_histories(ring())
        for before, after in zip(_answers(fitted), _answers(again), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_other_histories_leave_the_first_model_alone(self, fitted: SequenceModel) -> None:
        before = _answers(fitted)
        stranger = events_of(np.array([1]), np.array([3]), np.array([CUT + DAY]), CUT + 2 * DAY)
        other = fitted.with_histories(stranger)
        assert other.candidates(np.array([1], dtype=np.int32), 1).item_key[0, 0] == FIRST_ITEM + 4
        assert (other.candidates(USERS, 3).item_key == -1).all()
        assert other.cut_at == CUT + 2 * DAY
        for mine, again in zip(before, _answers(fitted), strict=True):
            np.testing.assert_array_equal(mine, again)

    def test_histories_without_a_known_item_give_nothing(self, fitted: SequenceModel) -> None:
        unknown = events_of(np.array([1]), np.array([N_ITEMS + 50]), np.array([CUT - DAY]))
        assert (fitted.with_histories(unknown).candidates(np.array([1], dtype=np.int32), 3).item_key == -1).all()

    def test_only_events_in_favour_are_read(self, fitted: SequenceModel) -> None:
        events = events_of(np.array([1, 1, 1]), np.array([3, 9, 20]), CUT - np.array([3, 2, 1]) * DAY)
        events = replace(events, weight=np.array([1, 1, 0], "f"), label=np.array([1, 0, 1], "f"))
        assert fitted.with_histories(events).candidates(np.array([1], dtype=np.int32), 1).item_key == FIRST_ITEM + 4

    def test_scores_do_not_depend_on_the_lengths_of_others(self, fitted: SequenceModel) -> None:
        """A short history is padded where a long one is its company."""
        together = fitted.scores(USERS, np.tile(catalogue().item_key, (N_USERS, 1)))
        alone = np.concatenate([fitted.scores(USERS[[at]], catalogue().item_key[None]) for at in range(20)])
        np.testing.assert_allclose(together[:20], alone, rtol=1e-5, atol=1e-5)

    def test_what_lies_before_the_latest_items_changes_nothing(self, fitted: SequenceModel) -> None:
        length = PARAMS["max_length"]
        items = np.arange(length + 5) % N_ITEMS
        at = CUT - (len(items) - np.arange(len(items))) * DAY
        user = np.ones(len(items), dtype=np.int32)
        long = fitted.with_histories(events_of(user, items, at))
        short = fitted.with_histories(events_of(user[5:], items[5:], at[5:]))
        pair = (user[:1], catalogue().item_key[None])
        np.testing.assert_array_equal(long.scores(*pair), short.scores(*pair))

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self, fitted: SequenceModel) -> None:
        again = SequenceModel(**PARAMS).fit(ring(), catalogue())
        for before, after in zip(_answers(fitted), _answers(again), strict=True):
            np.testing.assert_array_equal(before, after)
        other = SequenceModel(**{**PARAMS, "max_epochs": 2, "seed": 1}).fit(ring(), catalogue())
        assert not np.array_equal(_answers(fitted)[1], _answers(other)[1])

    def test_another_fit_before_it_in_the_process_changes_no_bit(self, fitted: SequenceModel) -> None:
        wider = N_ITEMS + 9  # the network is laid out for as many
        SequenceModel(**PARAMS).fit(ring(wider), catalogue(wider))
        again = SequenceModel(**PARAMS).fit(ring(), catalogue())
        for ours, theirs in zip(_answers(fitted), _answers(again), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_loading_and_scoring_need_no_tensorflow(self, fitted: SequenceModel, tmp_path: Path) -> None:
        fitted.save(tmp_path)
        code = (
            "import sys, numpy as np; from pathlib import Path; from recsys.candidates import registry;"
            f"model = registry.load('sequence', Path({str(tmp_path)!r}));"
            "print(model.candidates(np.array([5, 7], dtype=np.int32), 1).item_key.ravel().tolist(),"
            "len(model.training_curve['loss']), [name for name in ('tensorflow', 'keras') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = fitted.candidates(USERS[:2], 1).item_key.ravel().tolist()
        assert done.stdout.split() == f"{best} {PARAMS['max_epochs']} []".split()

    def test_it_goes_on_from_an_earlier_cut(self) -> None:
        """Three new items enter the ring; two epochs from the earlier model tell them, and the old ones still."""
        earlier, later = ring(N_ITEMS - 3), ring(seed=3)
        later = replace(
            later, occurred_at=later.occurred_at + 30 * DAY, user_key=later.user_key + 1, cut_at=CUT + 30 * DAY
        )
        both = Interactions(
            *(np.concatenate([getattr(part, name) for part in (earlier, later)]) for name in _ARRAYS),
            later.event_types,
            later.cut_at,
        )
        params = {**PARAMS, "continued_epochs": 4}
        start = SequenceModel(**params).fit(earlier, catalogue(N_ITEMS - 3))
        model = SequenceModel(**params).fit(both, catalogue(), start_from=start)
        assert len(model.training_curve["loss"]) == 4
        found = model.candidates(USERS + 1, 1).item_key[:, 0] - FIRST_ITEM
        last = last_items(replace(later, user_key=later.user_key - 1))
        assert (found == (last + 1) % N_ITEMS).mean() > 0.9
        cold = SequenceModel(**{**params, "max_epochs": 4}).fit(both, catalogue())
        assert model.training_curve["loss"][0] < cold.training_curve["loss"][0]

    def test_nothing_new_leaves_the_weights_as_they_are(self, fitted: SequenceModel) -> None:
        later = replace(ring(), cut_at=CUT + DAY)
        model = SequenceModel(**PARAMS).fit(later, catalogue(), start_from=fitted)
        for before, after in zip(_answers(fitted), _answers(model), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_an_earlier_model_must_fit(self, fitted: SequenceModel) -> None:
        with pytest.raises(InputError, match="order of time"):
            SequenceModel(**PARAMS).fit(replace(ring(), cut_at=CUT - 1), catalogue(), start_from=fitted)
        with pytest.raises(InputError, match="dim"):
            SequenceModel(**{**PARAMS, "dim": 8}).fit(ring(), catalogue(), start_from=fitted)

    def test_it_stops_after_its_minutes_and_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        model = SequenceModel(**{**PARAMS, "max_minutes": 0.0}).fit(ring(), catalogue())
        assert model.training_curve["stopped_early"] == [1.0]
        assert "minutes are over" in caplog.text

    def test_held_out_users_end_the_training(self) -> None:
        params = {**PARAMS, "validation_share": 0.5, "max_epochs": 60, "patience": 2}
        model = SequenceModel(**params).fit(ring(), catalogue())
        curve = model.training_curve["validation_ndcg"]
        assert len(curve) == len(model.training_curve["loss"]) < 60
        assert max(curve) > curve[0]
        assert int(np.argmax(curve)) == len(curve) - 3
        assert share_right(model, ring()) > 0.95

    def test_one_item_a_user_is_enough_to_answer(self) -> None:
        events = events_of(USERS[:5], np.arange(5), np.full(5, CUT - DAY))
        model = SequenceModel(**PARAMS).fit(events, catalogue())
        assert model.training_curve == {}
        assert np.isfinite(model.scores(USERS[:5], np.tile(events.item_key, (5, 1)))).all()


_ARRAYS = ("user_key", "item_key", "event_type", "weight", "occurred_at", "session_id", "value")


def _answers(model: SequenceModel) -> tuple[NDArray[Any], NDArray[Any]]:
    found = model.candidates(USERS, 5)
    return found.item_key, found.score


def test_an_unfitted_one_says_so() -> None:
    with pytest.raises(ModelError, match="not fitted"):
        SequenceModel().candidates(USERS, 1)


def histories(lengths: list[int]) -> Histories:
    """Items 0, 1, 2 … through all users."""
    n = sum(lengths)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    users = KeyIndex(np.arange(len(lengths), dtype=np.int32))
    return Histories(users, start, np.arange(n, dtype=np.int32), np.arange(n, dtype=np.int64))


def test_events_of_one_instant_stand_as_they_were_given() -> None:
    events = events_of(np.array([3, 1, 3, 1, 3]), np.array([5, 4, 2, 9, 7]), np.full(5, CUT - DAY))
    made = Histories.of(events, KeyIndex(np.arange(100, 110, dtype=np.int32)))
    assert made.users.keys.tolist() == [1, 3]
    assert made.item.tolist() == [4, 9, 5, 2, 7]
    assert made.start.tolist() == [0, 2, 5]
    assert made.latest(2).item.tolist() == [4, 9, 2, 7]
    assert made.latest(2).start.tolist() == [0, 2, 4]


def test_what_is_held_out_is_nowhere_in_what_is_learned() -> None:
    made = histories([2, 3, 4] * 60)  # every event has an item of its own
    learned, held_out = SequenceModel(validation_share=0.5)._split(made, np.random.default_rng(0))
    assert held_out is not None
    assert len(held_out.target) == 60  # half of the 120 with three or more
    assert set(learned.item.tolist()) | set(held_out.target.tolist()) == set(made.item.tolist())
    assert not set(learned.item.tolist()) & set(held_out.target.tolist())
    assert (held_out.target == learned.item[learned.start[held_out.users + 1] - 1] + 1).all()


def test_every_event_after_the_first_is_a_target_once() -> None:
    lengths = [1, 2, 7, 12, 3]
    made = histories(lengths)
    pieces = Pieces.of(made, 5)
    target = np.concatenate([np.arange(start, end) + 1 for start, end in zip(pieces.start, pieces.end, strict=True)])
    firsts = made.start[:-1].tolist()
    assert sorted(target.tolist()) == [at for at in range(sum(lengths)) if at not in firsts]
    assert (pieces.end - pieces.start).max() == 5


def test_rows_are_full_of_whole_pieces() -> None:
    random = np.random.default_rng(4)
    made = histories(random.integers(1, 9, 300).tolist())
    pieces = Pieces.of(made, 8)
    found, filled = [], []
    for batch in batches(made.item, pieces, 8, 4, np.random.default_rng(1)):
        assert batch.item.shape == batch.segment.shape == batch.target.shape == (4, 8)
        filled.append((batch.segment > 0).mean())
        for item, segment, target in zip(batch.item, batch.segment, batch.target, strict=True):
            for one in np.unique(segment[segment > 0]):
                at = np.flatnonzero(segment == one)
                assert (np.diff(at) == 1).all()
                assert (target[at] == item[at] + 1).all()
                found.append((item[at[0]], target[at[-1]]))
    assert sorted(found) == sorted(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True))
    assert np.mean(filled) > 0.9


def test_items_near_each_other_start_near_each_other() -> None:
    """Two groups of items, whose users never take from both."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 6)
    items = 10 * (users % 2) + random.integers(0, 10, len(users))
    order = np.arange(len(users))
    made = Histories.of(events_of(users, items, order), KeyIndex(np.arange(20, dtype=np.int32) + FIRST_ITEM))
    near = nearness(made, 20)
    assert (near != near.T).nnz == 0
    assert near.diagonal().sum() == 0
    vectors = factors(near, 4, np.random.default_rng(0))
    assert vectors.dtype == np.float32
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[:10, :10].mean() > cosine[:10, 10:].mean() + 0.5
    known = np.arange(20) != 3
    filled = from_neighbours(near, known, vectors)
    np.testing.assert_array_equal(filled[known], vectors[known])
    assert unit[:10].mean(axis=0) @ filled[3] > unit[10:].mean(axis=0) @ filled[3]


def test_start_vectors_have_as_many_columns_as_asked() -> None:
    made = histories([3])
    assert factors(nearness(made, 3), 8, np.random.default_rng(0)).shape == (3, 8)
    assert np.isfinite(factors(nearness(histories([1, 1]), 2), 4, np.random.default_rng(0))).all()
