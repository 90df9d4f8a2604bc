"""The sequence network learns from window to window, and from night to night."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from recsys.candidates.sequence import SequenceModel
from recsys.steps import train_generator, train_sequence
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.integration.nights.taste_shop import WINDOW_DAYS, Shop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # networks are trained

SMALL: dict[str, Any] = {"dim": 8, "max_length": 10, "max_epochs": 2, "continued_epochs": 1, "n_negatives": 50}
LARGER: dict[str, Any] = {**SMALL, "dim": 16}


@pytest.fixture(scope="module")
def shop(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(database_url, database, tmp_path_factory.mktemp("shop"), n_users=200)


def night(shop: Shop, until: float, params: dict[str, Any] = SMALL, **arguments: Any) -> dict[str, Any]:
    ctx = shop.ctx(generators=["popular", "sequence"], generator_params={"sequence": params})
    return train_sequence.run(shop.dataset(until), ctx=ctx, **arguments)


def earlier(shop: Shop, ref: str) -> str | None:
    return shop.store.manifest(ref).inputs.get("earlier")


@pytest.fixture(scope="module")
def first(shop: Shop) -> dict[str, Any]:
    return night(shop, 92)


def test_each_window_goes_on_from_the_one_before_it(shop: Shop, first: dict[str, Any]) -> None:
    oldest, newest = first["history"]
    assert [earlier(shop, ref) for ref in (oldest, newest, first["serving"])] == [None, oldest, newest]
    cuts = [shop.store.manifest(ref).meta["cut_at"] for ref in (oldest, newest, first["serving"])]
    assert cuts == [(92 - 2 * WINDOW_DAYS) * DAY, (92 - WINDOW_DAYS) * DAY, 92 * DAY]
    assert len(SequenceModel.load(shop.store.open(oldest)[0]).training_curve["loss"]) == 2
    assert len(SequenceModel.load(shop.store.open(newest)[0]).training_curve["loss"]) == 1


def planned(shop: Shop, monkeypatch: pytest.MonkeyPatch, until: float, *args: Any, **arguments: Any) -> str | None:
    """What the first fit of a night would go on from; nothing is trained."""
    plans: list[list[Any]] = []

    def plan_alone(ctx: Any, step: str, name: str, ref: str, data: Any, events: Any, window: Any, plan: Any, **_: Any):
        plans.append(plan)
        return True, ""

    with monkeypatch.context() as patched:
        patched.setattr(train_generator, "_train", plan_alone)
        night(shop, until, *args, **arguments)
    return plans[0][0].inputs.get("earlier")


def test_a_night_goes_on_from_the_newest_model_that_has_seen_nothing_of_its_windows(
    shop: Shop, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = night(shop, 94)
    assert earlier(shop, second["history"][0]) == first["history"][0], "the other one ends within the first window"
    assert shop.store.manifest(second["history"][0]).meta["nights"] == 2
    assert night(shop, 94) == second, "once begun, it stays as it is"
    assert planned(shop, monkeypatch, 93) == first["history"][0], "not that of later data"
    assert planned(shop, monkeypatch, 95) == second["history"][0]
    with monkeypatch.context() as patched:
        exists = shop.store.exists
        patched.setattr(shop.store, "exists", lambda ref: ref != first["history"][0] and exists(ref))
        assert night(shop, 94) == second, "also when the model that it began with has been deleted"


def test_other_parameters_force_and_too_many_nights_start_from_scratch(
    shop: Shop, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned(shop, monkeypatch, 98, SMALL) is not None
    assert planned(shop, monkeypatch, 98, LARGER) is None
    assert planned(shop, monkeypatch, 98, force=True) is None
    monkeypatch.setattr(train_generator, "MAX_NIGHTS", 1)
    assert planned(shop, monkeypatch, 98, SMALL) is None
