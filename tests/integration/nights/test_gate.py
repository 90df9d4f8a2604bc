"""A new ranker is judged where neither it nor an earlier champion has learned, and says so on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.evaluation import gate
from recsys.evaluation.gate import Outcome
from recsys.ranking.frame import Frame
from recsys.ranking.ranker import Ranker
from recsys.steps import judge, train_als, train_generator
from recsys.steps.context import HISTORY, SERVING, Context
from recsys.steps.entrants import JUDGED, SERVED
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.integration.nights.taste_shop import WINDOW_DAYS, Shop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

POPULAR_ONLY = {"generators": ["popular"]}  # knows no tastes: less than half as good


@pytest.fixture(scope="module")
def shop(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(database_url, database, tmp_path_factory.mktemp("shop"), n_users=520)


@pytest.fixture(scope="module")
def nights(shop: Shop) -> dict[str, dict[str, Any]]:
    """A first ranker, the same recipe two days later, and one without co-visitation on the same data."""
    return {
        "first": shop.night(92),
        "second": shop.night(94),
        "worse": shop.night(94, **POPULAR_ONLY),
    }


def test_the_first_is_compared_with_popularity(shop: Shop, nights: dict[str, Any]) -> None:
    assert nights["first"]["accepted"]
    assert nights["first"]["reason"].startswith(
        "accepted, as there is no champion to compare with: not shown to be worse than popularity over 51"
    )


def test_a_refit_is_judged_on_all_users_of_a_window_that_no_ranker_has_seen(shop: Shop, nights: dict[str, Any]) -> None:
    second = nights["second"]
    assert second["accepted"]
    assert f"not more than 10% worse than {nights['first']['ranker']} over 51" in second["reason"], "520 users, not 52"
    assert "1970-03-22 00:00 to 1970-04-05 00:00, all users: no ranker has learned from this window" in second["reason"]
    for name, day in (("first", 92), ("second", 94)):
        spans = shop.store.manifest(nights[name]["ranker"]).meta["learned"]
        assert spans[SERVED] == {"since": (day - 2 * WINDOW_DAYS) * DAY, "until": day * DAY}
        assert spans[JUDGED] == {"since": (day - 2 * WINDOW_DAYS) * DAY, "until": (day - WINDOW_DAYS) * DAY}


def test_what_the_candidates_hold_is_logged_for_each_window(shop: Shop, nights: dict[str, Any]) -> None:
    run_id = shop.run_of(nights["second"]["ranker"])
    history = sorted(shop.tracker._client.get_metric_history(run_id, "pool_recall"), key=lambda one: one.step)
    assert [one.step for one in history] == [0, 1]  # the label windows, oldest first
    assert all(0.5 < one.value <= 1 for one in history)


def test_a_much_worse_one_is_refused_and_the_champion_stays(shop: Shop, nights: dict[str, Any]) -> None:
    """Of the held-out users of one window alone, a loss of 43 % was accepted."""
    worse = nights["worse"]
    assert not worse["accepted"]
    assert worse["reason"].startswith("refused: worse than ranker/")
    assert shop.ctx().champion("ranker") == nights["second"]["ranker"]
    _, metrics = shop.judged_again(94, **POPULAR_ONLY)
    assert metrics["ranker.ndcg@10.all"] < 0.57 * metrics["champion.ndcg@10.all"]
    assert metrics["users"] > 500


@pytest.mark.parametrize(("loss", "least", "most"), [(0.0, 1.0, 1.0), (0.1, 0.0, 0.2), (0.43, 0.0, 0.0)])
def test_what_is_worse_by_so_much_is_accepted_so_often(
    shop: Shop, nights: dict[str, Any], monkeypatch: pytest.MonkeyPatch, loss: float, least: float, most: float
) -> None:
    """The metrics of the second night, of which a share of the users loses all that the new ranker finds for them."""
    calls: list[Any] = []
    plain = gate.decide
    monkeypatch.setattr(gate, "decide", lambda *given, **named: calls.append((given, named)) or plain(*given, **named))
    shop.judged_again(94)
    ((challenger, champion, *others), named), *_ = calls
    assert len(challenger["all"]) > 500
    rng = np.random.default_rng(4)
    spoiled = [{"all": challenger["all"] * (rng.random(len(challenger["all"])) >= loss)} for _ in range(40)]
    accepted = np.mean([plain(one, champion, *others, **named).accepted for one in spoiled])
    assert least <= accepted <= most


def test_the_page_and_the_plots_are_logged(shop: Shop, nights: dict[str, Any]) -> None:
    for night in nights.values():
        page = shop.logged(night["ranker"], "gate.md").read_text()
        title = page.splitlines()[0].removeprefix("# ")
        assert night["reason"].startswith(title)
        assert page.count("\n| heavy users |") == 1
        assert shop.logged(night["ranker"], "plots/comparison.png").stat().st_size > 1000


def test_small_losses_do_not_add_up(shop: Shop, nights: dict[str, Any]) -> None:
    """Were a worse one champion, the next like it would still be compared with the better one before."""
    worse = nights["worse"]["ranker"]
    shop.set_status(worse, "succeeded")
    try:
        assert shop.ctx().champion("ranker") == worse
        next_one = shop.night(94, generators=["popular"], seed=43)
        assert not next_one["accepted"]
        (best,) = [
            nights[name]["ranker"] for name in ("first", "second") if nights[name]["ranker"] in next_one["reason"]
        ]
        assert next_one["reason"].startswith(f"refused: worse than {best}")
        assert f"{best} is the best of the last 3 champions there" in next_one["reason"]
    finally:
        shop.set_status(worse, "refused")


def test_a_recipe_with_other_generators_is_compared_with_the_champion_as_it_would_rank(
    shop: Shop, nights: dict[str, Any]
) -> None:
    """Other features are no way around the champion: it ranks the candidates of its own generators."""
    assert "popularity over" not in nights["worse"]["reason"]
    assert shop.store.manifest(nights["second"]["ranker"]).meta["generators"] == ["popular", "covisitation"]
    assert shop.store.manifest(nights["worse"]["ranker"]).meta["generators"] == ["popular"]


def test_where_the_champion_has_seen_the_window_held_out_users_are_judged(shop: Shop, nights: dict[str, Any]) -> None:
    """A night for a past day, whose window the champions of later days have learned."""
    late = shop.night(88)
    assert "the champion has learned from this window: judged on held-out users" in late["reason"]
    assert "2 windows from 1970-03-02 00:00 to 1970-03-30 00:00, held-out users" in late["reason"]
    _, metrics = shop.judged_again(88)
    held_out = judge.is_held_out(np.arange(520)).sum()
    assert held_out - 5 <= metrics["users"] <= held_out, "each once, whichever windows they have labels in"


def test_a_ranker_with_the_newest_window_whose_lists_are_others_is_refused(
    shop: Shop, nights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.judged_again(94)[1]["serving_overlap@10"] > 0.6
    monkeypatch.setattr(judge, "overlap", lambda lists, others: 0.04)
    decision, _ = shop.judged_again(94)
    assert decision.outcome is Outcome.BROKEN
    assert "the ranker with the newest window: it has 4% of the first 10 places in common" in decision.verdict


def test_with_one_window_alone_held_out_users_are_judged(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    shop = Shop(clean_database_url, clean_database, tmp_path, n_users=520)
    only = shop.night(20)
    assert only["accepted"]
    assert "one usable label window alone: judged on held-out users" in only["reason"]
    assert set(shop.store.manifest(only["ranker"]).meta["learned"]) == {SERVED}
    few = shop.judged_again(20, gate_min_users=100)[0]
    assert few.outcome is Outcome.UNJUDGED
    assert few.verdict.startswith("unjudged: ")


def test_the_judged_ranker_knows_nothing_of_the_newest_window(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    """In the other world four items become popular in the newest window: only what serves may know."""
    calm, surging = (
        Shop(clean_database_url, clean_database, tmp_path / str(surge), n_users=240, surge=surge)
        for surge in (False, True)
    )
    scores = {}
    for shop in (calm, surging):
        folder, _ = shop.store.open(shop.night(100)["ranker"])
        for kind, part in (("served", folder), ("judged", folder / JUDGED)):
            ranker = Ranker.load(part)
            matrix = np.random.default_rng(1).normal(size=(500, len(ranker.names))).astype(np.float32)
            scores[shop is surging, kind] = ranker.score(Frame(ranker.names, matrix))
    np.testing.assert_array_equal(scores[False, "judged"], scores[True, "judged"])
    assert not np.array_equal(scores[False, "served"], scores[True, "served"])


def test_a_generator_is_compared_with_the_former_one_and_its_serving_model_is_looked_at(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_als.run(shop.dataset(92), ctx=shop.ctx())
    assert first["accepted"]
    assert "the former model" not in first["reason"]
    loaded: list[tuple[str, str]] = []

    def load(ctx: Context, ref: str, purpose: str) -> Any:
        loaded.append((ref, purpose))
        return plain(ctx, ref, purpose)

    plain = train_generator.load_generator
    monkeypatch.setattr(train_generator, "load_generator", load)
    second = train_als.run(shop.dataset(94), ctx=shop.ctx())
    assert second["accepted"]
    assert "the former model has ndcg@10 0." in second["reason"]
    assert (first["history"][-1], HISTORY) in loaded, "the model of before that has not seen the newest window"
    assert (first["serving"], SERVING) not in loaded
    assert "% of the first 10 places in common" in second["reason"]
    needed = shop.ctx().measured_model("als", second["serving"])
    assert needed == second["history"][-1]


def test_a_generator_whose_serving_model_has_broken_lists_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train_generator.load_generator

    class Broken:
        def __init__(self, model: Any) -> None:
            self._model = model

        def candidates(self, users: Any, n: int, *, seen: Any = None) -> Any:
            lists = self._model.candidates(users, n, seen=seen)
            return type(lists)(lists.owner_key, lists.item_key, np.full_like(lists.score, np.nan))

    def load(ctx: Context, ref: str, purpose: str) -> Any:
        return Broken(plain(ctx, ref, purpose)) if purpose == SERVING else plain(ctx, ref, purpose)

    monkeypatch.setattr(train_generator, "load_generator", load)
    refused = train_als.run(shop.dataset(90), ctx=shop.ctx())
    assert not refused["accepted"]
    assert refused["reason"].startswith("refused: the serving model: 5")
