from dataclasses import replace

import numpy as np
import pytest

from recsys.evaluation import gate
from recsys.evaluation.gate import Bounds, ListFacts
from recsys.types import Candidates, Catalogue

SOUND = ListFacts(
    n_lists=500,
    n_empty=0,
    n_not_finite=0,
    n_unavailable=0,
    item_coverage=0.4,
    top_item_share=0.2,
    n_places=5_000,
    n_items=1_000,
)
RNG = np.random.default_rng(5)
GOOD = {"all": RNG.uniform(0, 0.6, 400), "light users": RNG.uniform(0, 0.6, 200), "new users": RNG.uniform(0, 0.6, 9)}
POPULARITY = {name: values / 3 for name, values in GOOD.items()}


def decide(challenger, champion=GOOD, facts=SOUND, bounds=Bounds()):  # noqa: B008 - frozen
    return gate.decide(challenger, champion, POPULARITY, facts, bounds)


def test_an_equal_model_is_accepted():
    decision = decide(GOOD)
    assert decision.accepted
    assert decision.reasons == ()
    assert decision.compared_with == "champion"


def test_a_model_within_the_bound_is_accepted_and_beyond_it_refused():
    assert decide({name: values * 0.96 for name, values in GOOD.items()}).accepted
    refused = decide({name: values * 0.9 for name, values in GOOD.items()})
    assert not refused.accepted
    assert "all" in refused.reason
    assert "champion" in refused.reason


def test_one_bad_segment_is_enough():
    decision = decide(GOOD | {"light users": GOOD["light users"] * 0.5})
    assert not decision.accepted
    assert len(decision.reasons) == 1
    assert "light users" in decision.reason


def test_a_small_segment_is_reported_and_not_judged():
    decision = decide(GOOD | {"new users": GOOD["new users"] * 0})
    assert decision.accepted
    assert decision.means["new users"]["challenger"] == 0


def test_the_verdict_says_over_how_many_users_and_what_was_not_judged():
    decision = decide(GOOD)
    assert (decision.judged, decision.not_judged) == ({"all": 400, "light users": 200}, {"new users": 9})
    assert decision.reason == (
        "no loss of more than 5% against champion was shown over 400 users, light users 200; "
        "not judged, fewer than 50 users: new users 9; lists are sound"
    )
    refused = decide({name: values * 0.5 for name, values in GOOD.items()}).reason
    assert "over 400 users" in refused
    assert "not judged, fewer than 50 users: new users 9" in refused
    assert "sound" not in refused


@pytest.mark.parametrize("better", [0.0, 1.0])
def test_too_few_users_are_said_to_be_too_few(better: float):
    """29 users decide nothing, so the verdict claims nothing of a comparison."""
    decision = decide({"all": np.full(29, better)}, {"all": np.ones(29)})
    assert decision.accepted
    assert decision.reason == (
        "judged on 29 users: too few (fewer than 50), accepted without judgement; lists are sound"
    )
    assert decision.judged == {}


def test_a_loss_that_may_be_chance_is_no_reason():
    lucky, unlucky = np.zeros(60), np.zeros(60)
    lucky[0], unlucky[1] = 1.0, 0.9
    assert decide(GOOD | {"light users": unlucky}, GOOD | {"light users": lucky}).accepted


def test_without_champion_the_reference_is_popularity():
    decision = decide({name: values / 2 for name, values in GOOD.items()}, champion=None)
    assert decision.accepted
    assert decision.compared_with == "popularity"
    assert not decide({name: values / 9 for name, values in GOOD.items()}, champion=None).accepted


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n_empty": 1}, "empty"),
        ({"n_not_finite": 2}, "not a number"),
        ({"n_unavailable": 1}, "not available"),
        ({"item_coverage": 0.001}, "catalogue"),
        ({"top_item_share": 0.99}, "places"),
        ({"n_lists": 0}, "no lists"),
    ],
)
def test_broken_lists_are_refused_whatever_their_accuracy(change, word):
    decision = decide(GOOD, facts=replace(SOUND, **change))
    assert not decision.accepted
    assert word in decision.reason


def test_nan_metrics_and_no_users_are_refused():
    assert "not a number" in decide({"all": np.array([np.nan] * 60)}).reason
    assert "nothing to judge" in decide({"all": np.array([])}).reason


def test_list_facts_count_what_is_wrong():
    items = np.arange(4, dtype=np.int32)
    none = np.full(4, -1, dtype=np.int32)
    catalogue = Catalogue(items, np.array([True, True, True, False]), none, none, np.zeros(4, dtype=np.int64))
    lists = Candidates(
        np.array([1, 2, 3], dtype=np.int32),
        np.array([[0, 3], [1, -1], [-1, -1]], dtype=np.int32),
        np.array([[1.0, 0.5], [np.nan, np.nan], [np.nan, np.nan]], dtype=np.float32),
    )
    facts = gate.list_facts(lists, catalogue)
    assert (facts.n_lists, facts.n_empty, facts.n_not_finite, facts.n_unavailable) == (3, 1, 1, 1)
    assert facts.item_coverage == pytest.approx(2 / 3)  # items 0 and 1 of three available ones
