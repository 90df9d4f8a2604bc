"""Parameters of events as inputs of the model: what the night learned of them shows in /predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests import online_world as world
from tests.integration.updater.updater_processes import service

pytestmark = [pytest.mark.slow]  # a network is trained

ITEMS = [1000 + key for key in range(1, world.N_ITEMS + 1)]


@pytest.fixture(scope="module")
def client(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("artifacts")
    world.write_model(root, "v1", known=world.contextual_events())
    world.stock(database)
    with service(database_url, root) as client:
        yield client


def predicted(client: httpx.Client, user_id: int, **feats: Any) -> tuple[list[float], list[str]]:
    """Probabilities of all items, and the warnings."""
    request = {"user_ids": [user_id] * len(ITEMS), "item_ids": ITEMS, "user_feats": {"hour": 12, **feats}}
    body = client.post("/predict", json=request).raise_for_status().json()
    return [one["probability"] for one in body["predictions"]], body["warnings"]


def share_of_even(found: tuple[list[float], list[str]]) -> float:
    """Of the ten best items."""
    probabilities, warnings = found
    assert not warnings
    best = sorted(range(len(ITEMS)), key=lambda place: -probabilities[place])[:10]
    return sum(ITEMS[place] % 2 == 0 for place in best) / 10


@pytest.mark.parametrize("user_id", [501, 502, 999_999])
def test_the_moment_decides_which_items_suit(client: httpx.Client, user_id: int) -> None:
    assert share_of_even(predicted(client, user_id, device="mobile")) >= 0.8
    assert share_of_even(predicted(client, user_id, device=" Desktop")) <= 0.2
    assert share_of_even(predicted(client, user_id, campaign="spring")) >= 0.8
    assert share_of_even(predicted(client, user_id, campaign="autumn")) <= 0.2


def test_what_it_has_not_met_and_what_comes_after_is_no_input(client: httpx.Client) -> None:
    plain, _ = predicted(client, 501)
    same, warnings = predicted(client, 501, campaign="winter", device="toaster", stars=5, colour="red")
    assert same == plain
    assert sorted(warning.partition(":")[0] for warning in warnings) == [
        f"user_feats.{name}" for name in ("campaign", "colour", "device", "stars")
    ]


def test_what_the_model_knows_of_the_moment_is_listed(client: httpx.Client) -> None:
    scorer = client.get("/model/info").json()["scorer"]
    assert scorer["context"] == ["device", "campaign"]
