"""What the nightly data set knew of a user, over HTTP: masked on every path, under every rule, until it is erased."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from recsys.errors import PublicationError
from recsys.storage import publications, raw_tables, tables
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import LIGHT, PERSONAL, RANKED

BOUGHT = {2, 12, 22, 33}  # of each source one: i2i and the ranked list, popular, popular in its category, not available
CARTS = {14: 1.0, 16: 30.0}  # days ago
DONE = [(14, "addtocart", 1.0)] + [(key, "transaction", 20.0) for key in sorted(BOUGHT)]
DONE += [(16, "addtocart", 30.0), (12, "view", 40.0)]
HISTORY = {RANKED: DONE, LIGHT: DONE, PERSONAL: [(11, "view", 3.0)]}

IMPORT = {
    "source": "tests",
    "path": "shop",
    "options": {},
    **{f"{entity}_id_type": "integer" for entity in ("user", "item", "category")},
    "event_weights": {"view": 1.0, "addtocart": 3.0, "transaction": 5.0},
    "label_event_types": ["transaction"],
    "bought_event_types": ["transaction"],
    "status": "complete",
}


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST, history=HISTORY)
    with shop.running_service(database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        yield client


def shown(client: httpx.Client, **request: Any) -> tuple[set[int], dict[str, Any]]:
    """Item keys of an answer that is as long as it can be, and its provenance."""
    response = client.post("/recommend", json={"top_k": 1000} | request)
    assert response.status_code == 200, response.text
    body = response.json()
    return {entry["item_id"] - 1000 for entry in body["recommendations"]}, body["provenance"]


ALL = set(range(1, 61)) - shop.UNAVAILABLE
REQUESTS: list[tuple[dict[str, Any], set[int]]] = [
    ({}, ALL),
    ({"surface": "cart", "item_ids": [1001]}, ALL - {1}),
    ({"surface": "product_detail", "item_ids": [1021]}, ALL - {21}),
    ({"category_id": 902, "surface": "category_list"}, ALL & set(range(1, 51))),
    ({"candidate_items": [1002, 1012, 1040, 1033]}, {2, 12, 40}),
    ({"seq": [1001, 1002]}, ALL),
]


@pytest.mark.parametrize("user", [RANKED, LIGHT])
@pytest.mark.parametrize(("request_", "possible"), REQUESTS)
def test_what_was_bought_is_on_no_path(
    service: httpx.Client, user: int, request_: dict[str, Any], possible: set[int]
) -> None:
    without, provenance = shown(service, user_id=500 + user, **request_)
    assert without == possible - BOUGHT
    assert provenance["user"] == ("known" if user == RANKED else "light")
    assert provenance["n_recent"] == len(request_.get("seq", []))  # what was done before the night is not followed
    assert shown(service, user_id=502, **request_)[0] == possible  # who bought nothing
    assert shown(service, **request_)[0] == possible


def test_what_was_bought_is_in_no_answer_of_a_batch(service: httpx.Client) -> None:
    response = service.post("/recommend/batch", json={"user_ids": [503, 502, 501, 999], "top_k": 1000})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    found = [{entry["item_id"] - 1000 for entry in result["recommendations"]} for result in results]
    assert found == [ALL - BOUGHT, ALL, ALL - BOUGHT, ALL]
    assert [result["user"] for result in results] == ["light", "known", "known", "unknown"]


def test_a_guest_who_turns_out_to_be_a_user_is_not_shown_what_they_bought(service: httpx.Client) -> None:
    assert shown(service, session_id="s-1")[0] == ALL
    assert shown(service, session_id="s-1", user_id=500 + LIGHT)[0] == ALL - BOUGHT


def test_a_rule_of_days_hides_and_shows_again(service: httpx.Client) -> None:
    def hidden_under(*rules: dict[str, Any]) -> set[int]:
        version = service.put("/config", json={"config": {"bought": rules}}).json()["config_id"]
        user = 500 + LIGHT
        shop.wait_until(lambda: shown(service, user_id=user)[1]["config_id"] == version, 5)
        return ALL - shown(service, user_id=user)[0]

    try:
        assert hidden_under({"event_type": "transaction", "days": 25}) == BOUGHT & ALL
        assert hidden_under({"event_type": "transaction", "days": 15}) == set()
        assert hidden_under({"event_type": "addtocart", "days": 7}) == {14}
        assert hidden_under({"event_type": "addtocart"}, {"event_type": "view"}) == {12, 14, 16}
        assert hidden_under() == set()
    finally:
        assert service.post("/config/revert/0").status_code == 200


def test_model_info_tells_of_it(service: httpx.Client) -> None:
    history = service.get("/model/info").json()["publication"]["lists"]["history"]
    assert (history["n_rows"], history["sources"]) == (3, list(shop.EVENT_TYPES))


def test_a_publication_without_histories_serves(service: httpx.Client, database: sa.Engine) -> None:
    newer = shop.publish(database, "v2", shop.SECOND)
    shop.wait_until(lambda: shown(service, user_id=503)[1]["publication_id"] == newer, 5)
    assert shown(service, user_id=503)[0] == ALL
    back = shop.publish(database, "v1", shop.FIRST, history=HISTORY)
    shop.wait_until(lambda: shown(service, user_id=503)[1]["publication_id"] == back, 5)
    assert shown(service, user_id=503)[0] == ALL - BOUGHT


def test_where_the_night_lets_people_buy_again_so_does_the_service(service: httpx.Client, database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.execute(sa.insert(raw_tables.imports).values(IMPORT))
        connection.execute(sa.insert(tables.event_settings).values(hides_bought=False))
    newer = shop.publish(database, "v3", shop.SECOND, history=HISTORY)
    shop.wait_until(lambda: shown(service, user_id=503)[1]["publication_id"] == newer, 5)
    assert shown(service, user_id=503)[0] == ALL
    with database.begin() as connection:
        connection.execute(sa.delete(tables.event_settings))
        connection.execute(sa.delete(raw_tables.imports))
    back = shop.publish(database, "v1", shop.FIRST, history=HISTORY)
    shop.wait_until(lambda: shown(service, user_id=503)[1]["publication_id"] == back, 5)
    assert shown(service, user_id=503)[0] == ALL - BOUGHT


def test_a_history_is_erased_with_its_user_and_the_others_can_still_be_checked(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    engine = clean_database
    shop.stock(engine)
    shop.publish(engine, "v1", {"default": {0: [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]}}, history=HISTORY)
    whole = publications.verify(engine)["history"]  # item 33 is not available, which does not matter here
    assert (whole["n_rows"], whole["n_entries"]) == (3, 2 * len(DONE) + 1)
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        assert shown(client, user_id=503)[0] == ALL - BOUGHT
        assert client.delete("/users/503").json()["removed"]["lists"] == 1
        assert shown(client, user_id=503)[0] == ALL
        assert shown(client, user_id=501)[0] == ALL - BOUGHT
    less = publications.verify(engine)["history"]
    assert (less["n_rows"], less["n_entries"]) == (2, len(DONE) + 1)
    with engine.begin() as connection:
        connection.execute(sa.text("update lists set item_keys[1] = 15 where owner_key = 1 and item_keys[1] = 14"))
    with pytest.raises(PublicationError, match="history lists differ from what was written"):
        publications.verify(engine)
