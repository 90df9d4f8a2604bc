"""What is missing × who asks × where: an answer in time from the best source that is left, which says what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args

import httpx
import pytest
import sqlalchemy as sa

from fast_api_service.schemas import RecommendAnswer
from recsys.serving.config import Surface
from tests.integration import serving_shop as shop
from tests.integration.postgres_proxy import Proxy, proxy_to

DEADLINE_MS: Final = 1000
SLOW_S: Final = 4.0  # a slow Postgres takes so long for each answer

# 503 has looked at item 1 recently; the guest has too. Item 1 calls 2 and 4 (3 is not available).
WHO: Final[dict[str, dict[str, Any]]] = {
    "known": {"user_id": 501},
    "light": {"user_id": 503},
    "unknown": {"user_id": 999},
    "guest": {"session_id": "guest-1"},
}
CONTEXT: Final[dict[str, dict[str, Any]]] = {
    "homepage": {},
    "product_detail": {"item_ids": [1002]},
    "category_list": {"category_id": 902},
    "cart": {"item_ids": [1002, 1020]},
}
SURFACES: Final = get_args(Surface)
IN_CONTEXT: Final = {"product_detail", "cart"}


@pytest.fixture(scope="module")
def proxy(database_url: str, database: sa.Engine) -> Iterator[Proxy]:
    shop.stock(database)
    with proxy_to(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service(proxy: Proxy, database: sa.Engine) -> Iterator[httpx.Client]:
    """A service on a Postgres that can be cut off; the tests run in order, each leaves all as it was."""
    shop.publish(database, "v1", shop.FIRST)
    with shop.running_service(proxy.url, API_DEADLINE_MS=str(DEADLINE_MS)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        for owner in ({"user_id": 503}, {"session_id": "guest-1"}):
            event = {"item_id": 1001, "event_type": "view", **owner}
            assert client.post("/online/data/add", json=event).status_code == 200
        yield client


def answer_to(client: httpx.Client, who: str, surface: str) -> dict[str, Any]:
    """A whole answer in time: ten items, distinct, available, in the category where one is asked for."""
    request = {**WHO[who], **CONTEXT[surface], "surface": surface, "top_k": 10}
    response = client.post("/recommend", json=request)
    assert response.status_code == 200, (who, surface, response.text)
    RecommendAnswer.model_validate(response.json())
    answer: dict[str, Any] = response.json()
    keys = [item["item_id"] - 1000 for item in answer["recommendations"]]
    assert len(set(keys)) == 10, (who, surface, keys)
    assert not shop.UNAVAILABLE & set(keys)
    if surface == "category_list":
        assert max(keys) <= 50
    assert answer["provenance"]["time_ms"] < DEADLINE_MS, (who, surface, answer["provenance"])
    return answer


def tiers(client: httpx.Client) -> dict[tuple[str, str], str]:
    found = {}
    for who in WHO:
        for surface in SURFACES:
            answer = answer_to(client, who, surface)
            found[who, surface] = answer["provenance"]["tier"]
    return found


def expected(of_user: dict[str, str], in_context: str = "i2i") -> dict[tuple[str, str], str]:
    """The tier of each: neighbours of the context where there is one, else what there is of the user."""
    popular = {"category_list": "popular_in_category"}
    return {
        (who, surface): in_context
        if surface in IN_CONTEXT and in_context
        else of_user.get(who) or popular.get(surface, "popular")
        for who in WHO
        for surface in SURFACES
    }


def missing(client: httpx.Client, who: str) -> list[str]:
    parts: list[str] = answer_to(client, who, "homepage")["provenance"]["degraded"]
    return parts


def test_with_all_there(service: httpx.Client) -> None:
    assert tiers(service) == expected({"known": "ranked", "light": "i2i", "guest": "i2i"})
    assert [missing(service, who) for who in WHO] == [[]] * 4


@pytest.mark.parametrize("how", ["away", "slow"])
def test_postgres(service: httpx.Client, proxy: Proxy, how: str) -> None:
    try:
        if how == "away":
            proxy.cut()
        else:
            proxy.delay_s = SLOW_S
        assert tiers(service) == expected({})
        assert [missing(service, who) for who in WHO] == [["personal_lists", "recent_events"]] * 3 + [["recent_events"]]
        similar = service.get("/similar/1001").json()
        assert (similar["provenance"]["tier"], similar["provenance"]["degraded"]) == ("i2i", [])  # it reads nothing
        assert similar["provenance"]["time_ms"] < DEADLINE_MS
        many = service.post("/recommend/batch", json={"user_ids": [501, 503], "deadline_ms": 300}).json()
        assert [one["tier"] for one in many["results"]] == ["popular", "popular"]
        assert many["provenance"]["degraded"] == ["personal_lists", "recent_events"]
        hurried = service.post("/recommend", json={"user_id": 501, "deadline_ms": 1}).json()
        assert hurried["provenance"]["tier"] == "popular"
        text = service.get("/metrics").text
        assert 'recsys_degraded_answers_total{part="personal_lists"} 0.0' not in text
    finally:
        proxy.recover()
    shop.wait_until(lambda: missing(service, "known") == [], 20)
    assert tiers(service) == expected({"known": "ranked", "light": "i2i", "guest": "i2i"})


def test_model(service: httpx.Client) -> None:
    """Every surface is to be rescored by a model that is not there."""
    rescored = {"surfaces": {surface: {"blend": "rescore"} for surface in SURFACES}}
    version = shop.put(service, "/config", config=rescored)["config_id"]
    try:
        shop.wait_until(lambda: answer_to(service, "known", "homepage")["provenance"]["config_id"] == version, 5)
        assert tiers(service) == expected({"known": "ranked", "light": "i2i", "guest": "i2i"})
        assert [missing(service, who) for who in WHO] == [["model"]] * 4
        assert service.post("/predict", json={"user_id": 501, "item_id": 1001}).json()["status"] == "model_unavailable"
    finally:
        shop.put(service, "/config", config={})


def test_neighbours(service: httpx.Client, database: sa.Engine) -> None:
    without = {kind: lists for kind, lists in shop.FIRST.items() if kind not in ("i2i", "similar")}
    publication_id = shop.publish(database, "v2", without)
    shop.wait_until(lambda: served(service) == publication_id, 5)
    assert tiers(service) == expected({"known": "ranked"}, in_context="")


def test_publication(database_url: str, database: sa.Engine) -> None:
    """A catalogue that nothing was published for yet is still good for what is available."""
    with database.begin() as connection:
        was = connection.execute(sa.text("select publication_id, fence from publication_pointer")).one()
        connection.execute(sa.text("update publication_pointer set publication_id = null"))
    try:
        with shop.running_service(database_url, API_DEADLINE_MS=str(DEADLINE_MS)) as client:
            shop.wait_until(lambda: client.post("/recommend", json={}).status_code == 200, 10)
            found = {(who, surface): answer_to(client, who, surface) for who in WHO for surface in SURFACES}
            assert {answer["provenance"]["tier"] for answer in found.values()} == {"available"}
            assert {tuple(answer["provenance"]["degraded"]) for answer in found.values()} == {("publication",)}
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
            assert "nothing is published yet" in ready.json()["error"]
            assert "recsys_publication_age_seconds NaN" in client.get("/metrics").text
            with database.begin() as connection:
                shop.point_at(connection, was.publication_id, was.fence + 1)
            shop.wait_until(lambda: shop.is_ready(client), 5)
            assert answer_to(client, "known", "homepage")["provenance"]["tier"] == "ranked"
    finally:
        with database.begin() as connection:
            shop.point_at(connection, was.publication_id, was.fence + 2)


def served(client: httpx.Client) -> int:
    return int(client.get("/ready").json()["publication_id"])
