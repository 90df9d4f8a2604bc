"""What every candidate generator promises of its lists and scores; of its files: test_generator_files.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from recsys.candidates import registry
from recsys.errors import InputError, ModelError
from recsys.types import CandidateGenerator, Interactions, SimilarItems
from tests.contracts.generators import (
    IMPERSONAL,
    ITEM_KEYS,
    KNOWS_NEIGHBOURS,
    N_ITEMS,
    N_USERS,
    OWN_ITEMS_ONLY,
    UNKNOWN_KEY,
    USER_KEYS,
    assert_well_formed,
    catalogue,
    checkerboard,
    every_generator,
    fitted,
    interactions,
    learning_generator,
    missing_item,
    part_of,
    personal_generator,
    seen_matrix,
    similar_items,
)


@every_generator
def test_keeps_the_protocol_and_its_name(name: str, params: dict[str, Any]) -> None:
    model = registry.make(name, params)
    assert isinstance(model, CandidateGenerator)
    assert model.name == name


@learning_generator
def test_finds_the_one_item_of_the_taste_that_is_missing(name: str, params: dict[str, Any]) -> None:
    _, has = checkerboard()
    found = fitted(name, params).candidates(USER_KEYS, 1, seen=seen_matrix(has))
    right = np.array([missing_item(user) for user in range(N_USERS)])
    popular = fitted("popular", {}).candidates(USER_KEYS, 1, seen=seen_matrix(has))
    assert (found.item_key[:, 0] == right).all()
    assert (popular.item_key[:, 0] == right).mean() < 0.6  # else the world would prove nothing


@every_generator
def test_lists_are_well_formed(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    for n in (1, 5, N_ITEMS + 10):
        found = model.candidates(USER_KEYS, n)
        assert found.item_key.shape == found.score.shape == (N_USERS, n)
        assert (found.owner_key == USER_KEYS).all()
        assert (found.n_found > 0).all()
        assert_well_formed(found.item_key, found.score)
        assert np.isin(found.item_key, [*ITEM_KEYS, -1]).all()


@every_generator
def test_never_proposes_the_seen(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    _, has = checkerboard()
    seen = seen_matrix(has)
    found = model.candidates(USER_KEYS, N_ITEMS, seen=seen)
    assert_well_formed(found.item_key, found.score)
    for row, keys in enumerate(found.item_key):
        assert not set(keys[keys >= 0].tolist()) & set(seen[row].indices.tolist())
    everything = sp.csr_matrix(np.ones((N_USERS, ITEM_KEYS[-1] + 40)))  # wider than the keys that the model knows
    assert (model.candidates(USER_KEYS, 3, seen=everything).item_key == -1).all()
    with pytest.raises(InputError, match="one row per user"):
        model.candidates(USER_KEYS, 3, seen=seen[:-1])


@every_generator
def test_a_stored_zero_in_seen_hides_nothing(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    zeros = sp.csr_matrix(np.ones((N_USERS, ITEM_KEYS[-1] + 1)))
    zeros.data[:] = 0.0
    plain = model.candidates(USER_KEYS, 5)
    np.testing.assert_array_equal(model.candidates(USER_KEYS, 5, seen=zeros).item_key, plain.item_key)


@every_generator
@pytest.mark.parametrize("n_available", [1, 7])
def test_proposes_only_what_is_available(name: str, params: dict[str, Any], n_available: int) -> None:
    available = np.arange(N_ITEMS) < n_available
    found = fitted(name, params, available).candidates(USER_KEYS, N_ITEMS)
    assert_well_formed(found.item_key, found.score)
    assert np.isin(found.item_key, [*ITEM_KEYS[:n_available], -1]).all()
    assert (found.item_key >= 0).any()


@every_generator
def test_nothing_available_gives_empty_lists(name: str, params: dict[str, Any]) -> None:
    found = fitted(name, params, np.zeros(N_ITEMS, dtype=bool)).candidates(USER_KEYS, 4)
    assert found.item_key.shape == (N_USERS, 4)
    assert (found.item_key == -1).all()


@every_generator
def test_items_outside_the_catalogue_are_unknown(name: str, params: dict[str, Any]) -> None:
    history, _ = checkerboard()
    model = registry.make(name, params).fit(history, part_of(catalogue(), 4, N_ITEMS))
    assert np.isin(model.candidates(USER_KEYS, N_ITEMS).item_key, [*ITEM_KEYS[4:], -1]).all()
    assert np.isnan(model.scores(USER_KEYS[:1], ITEM_KEYS[None, :4])).all()


@personal_generator
def test_unknown_users_get_nothing(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    user_keys = np.array([USER_KEYS[3], UNKNOWN_KEY, 0, USER_KEYS[0]], dtype=np.int32)
    found = model.candidates(user_keys, 5)
    assert found.n_found[1] == found.n_found[2] == 0
    assert found.n_found[0] > 0
    np.testing.assert_array_equal(found.item_key[3], model.candidates(USER_KEYS[:1], 5).item_key[0])
    scores = model.scores(user_keys, np.tile(ITEM_KEYS[:2], (4, 1)))
    assert np.isnan(scores[[1, 2]]).all()
    assert np.isfinite(scores[[0, 3]]).all()


@every_generator
def test_nobody_asked_gives_no_rows(name: str, params: dict[str, Any]) -> None:
    assert fitted(name, params).candidates(USER_KEYS[:0], 5).item_key.shape == (0, 5)


@every_generator
def test_with_its_own_histories_a_model_answers_as_before(name: str, params: dict[str, Any]) -> None:
    model, pairs = fitted(name, params), np.tile(ITEM_KEYS, (N_USERS, 1))
    again = model.with_histories(checkerboard()[0])
    assert type(again) is type(model)
    np.testing.assert_allclose(again.scores(USER_KEYS, pairs), model.scores(USER_KEYS, pairs), rtol=1e-5, atol=1e-6)
    first, second = (each.candidates(USER_KEYS, 8) for each in (model, again))
    np.testing.assert_array_equal(first.n_found, second.n_found)
    np.testing.assert_allclose(first.score, second.score, rtol=1e-5, atol=1e-6)


@personal_generator
def test_histories_belong_to_whoever_has_them(name: str, params: dict[str, Any]) -> None:
    """Somebody whom the fit did not see, with the events of a user; and the user, with those of another taste."""
    model, history = fitted(name, params), checkerboard()[0]
    before = model.candidates(USER_KEYS, 8)
    as_of = {int(USER_KEYS[0]): int(USER_KEYS[1]), int(USER_KEYS[1]): UNKNOWN_KEY}
    mine = history.take(np.isin(history.user_key, list(as_of)))
    moved = Interactions(**{**mine.__dict__, "user_key": np.array([as_of[k] for k in mine.user_key.tolist()], "i4")})
    other = model.with_histories(moved)
    found = other.candidates(np.array([USER_KEYS[0], USER_KEYS[1], UNKNOWN_KEY], dtype=np.int32), 8)
    assert found.n_found[0] == 0  # their events are another's now
    taste = [np.isin(keys, ITEM_KEYS[t::2]).mean() for keys, t in zip(found.item_key[1:], (0, 1), strict=True)]
    assert min(taste) == 1.0
    np.testing.assert_array_equal(model.candidates(USER_KEYS, 8).item_key, before.item_key)  # the model is as it was


@every_generator
def test_histories_of_nobody(name: str, params: dict[str, Any]) -> None:
    history = checkerboard()[0]
    none = fitted(name, params).with_histories(history.take(np.zeros(len(history), dtype=bool)))
    assert (none.candidates(USER_KEYS, 3).n_found > 0).all() == (name in IMPERSONAL)


@every_generator
def test_scores_agree_with_candidates(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    found = model.candidates(USER_KEYS, 6)
    scores = model.scores(USER_KEYS, found.item_key)
    assert scores.shape == found.item_key.shape
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, found.score, rtol=1e-4, atol=1e-6)  # NaN where nothing was found
    unknown = np.array([[UNKNOWN_KEY, ITEM_KEYS[0], -1]], dtype=np.int32)
    np.testing.assert_array_equal(np.isnan(model.scores(USER_KEYS[:1], unknown)), [[True, False, True]])


@every_generator
def test_scores_of_pairs_do_not_depend_on_their_company(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params)
    table = model.scores(USER_KEYS, np.tile(ITEM_KEYS, (N_USERS, 1)))
    users, items = np.nonzero(np.ones((N_USERS, N_ITEMS)))
    shuffled = np.random.default_rng(0).permutation(len(users))
    users, items = users[shuffled], items[shuffled]
    pairs = model.scores(USER_KEYS[users], ITEM_KEYS[items][:, None])[:, 0]
    np.testing.assert_allclose(pairs, table[users, items], rtol=1e-4, atol=1e-6)


@every_generator
def test_the_recent_taste_wins(name: str, params: dict[str, Any]) -> None:
    """Everybody turns from the first ten items to the last ten after a year; then they are asked what is next."""
    random = np.random.default_rng(5)
    users = np.repeat(np.arange(N_USERS), 16)
    recent = np.tile(np.arange(16) >= 8, N_USERS)
    items = np.concatenate([random.permutation(10)[:8].tolist() + (10 + random.permutation(10)[:8]).tolist()
                            for _ in range(N_USERS)])  # fmt: skip
    history = interactions(users, items, np.where(recent, 2.0, 400.0) + random.random(len(users)))
    best = registry.make(name, params).fit(history, catalogue()).candidates(USER_KEYS, 5).item_key
    assert np.isin(best, ITEM_KEYS[10:]).mean() > 0.6  # 0.5 without decay, with a standard error of 0.035


@every_generator
def test_the_same_seed_gives_the_same_lists(name: str, params: dict[str, Any]) -> None:
    first, second = (fitted(name, params).candidates(USER_KEYS, 8) for _ in range(2))
    np.testing.assert_array_equal(first.item_key, second.item_key)
    np.testing.assert_array_equal(first.score, second.score)


@every_generator
def test_what_overflows_is_refused(name: str, params: dict[str, Any]) -> None:
    users, items = (np.tile(part, 3) for part in np.nonzero(checkerboard()[1]))
    overflowing = interactions(users, items, weight=3e38)  # each finite, no float32 sum of them is
    with np.errstate(all="ignore"):
        try:
            model = registry.make(name, params).fit(overflowing, catalogue())
        except ModelError as refused:
            assert name in str(refused)  # noqa: PT017 - the other way out is as good
        else:
            assert np.isfinite(model.scores(USER_KEYS, np.tile(ITEM_KEYS, (N_USERS, 1)))).all()


@every_generator
def test_no_history_is_an_input_error(name: str, params: dict[str, Any]) -> None:
    history, _ = checkerboard()
    nobody = np.zeros(0, dtype=np.int64)
    empty = part_of(catalogue(), 0, 0)
    for events, items in [
        (interactions(nobody, nobody), catalogue()),
        (history, empty),
        (Interactions(**{**history.__dict__, "weight": np.zeros_like(history.weight)}), catalogue()),
        (Interactions(**{**history.__dict__, "weight": np.full_like(history.weight, np.nan)}), catalogue()),
    ]:
        with pytest.raises(InputError):
            registry.make(name, params).fit(events, items)


@every_generator
def test_n_below_one_is_an_input_error(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        fitted(name, params).candidates(USER_KEYS, 0)


@every_generator
def test_knows_neighbours_or_does_not_claim_to(name: str, params: dict[str, Any]) -> None:
    claims = name in KNOWS_NEIGHBOURS | OWN_ITEMS_ONLY  # with the latter an item is its own only neighbour
    assert isinstance(registry.make(name, params), SimilarItems) == claims


@similar_items
def test_neighbours_share_the_taste(name: str, params: dict[str, Any]) -> None:
    model = fitted(name, params, np.arange(N_ITEMS) != 2)
    assert isinstance(model, SimilarItems)
    found = model.similar(np.append(ITEM_KEYS, UNKNOWN_KEY), 5)
    assert_well_formed(found.item_key, found.score)
    assert found.n_found[-1] == 0
    for own, keys in zip(ITEM_KEYS, found.item_key[:-1], strict=True):
        assert len(keys[keys >= 0]) == 5
        assert ((keys - own) % 4 == 0).all()  # the same taste: every other item
        assert own not in keys
        assert ITEM_KEYS[2] not in keys


def test_the_registry_names_what_it_has() -> None:
    with pytest.raises(InputError, match="popular"):
        registry.make("best", {})
    with pytest.raises(InputError, match="half_life_days"):
        registry.make("popular", {"halflife": 3})
