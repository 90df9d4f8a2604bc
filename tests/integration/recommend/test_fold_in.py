"""New users at once: three events of somebody whom the night did not know, over HTTP, with a trained ALS."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.candidates.als import Als
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import recommended

TOOLS, TOYS = set(range(31, 46)), set(range(46, 61))  # two tastes; nothing of either is popular


def train(root: Path, version: str = "v1") -> None:
    """An ALS by users of whom each has half of one of the two."""
    random = np.random.default_rng(3)
    pairs = [
        (user, item)
        for user in range(200)
        for item in random.choice(sorted(TOOLS if user % 2 else TOYS), 8, replace=False).tolist()
    ]
    n, cut_at = len(pairs), 20_000 * MICROSECONDS_PER_DAY
    user, item = (np.array(column, dtype=np.int32) for column in zip(*pairs, strict=True))
    at = np.sort(cut_at - 1 - random.integers(0, 10 * MICROSECONDS_PER_DAY, n))
    ones, nan = np.ones(n, np.float32), np.full(n, np.nan)
    history = Interactions(user, item, np.zeros(n, np.int8), ones, at, np.arange(n), nan, ("view",), cut_at)
    none = np.full(60, -1, dtype=np.int32)
    keys = np.arange(1, 61, dtype=np.int32)
    catalogue = Catalogue(keys, np.ones(60, dtype=bool), none, none, np.zeros(60, dtype=np.int64))
    model = Als(factors=2, iterations=10, num_threads=1).fit(history, catalogue)
    with ArtifactStore(str(root)).writing("als", version, made_by="tests") as (folder, _):
        model.save(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine, root: Path) -> Iterator[httpx.Client]:
    train(root)
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    with shop.running_service(database_url, ARTIFACT_ROOT=str(root)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        # the model comes a moment after the lists
        seq = [1031, 1032, 1034]
        shop.wait_until(lambda: recommended(client, seq=seq)["provenance"]["tier"] == "fold_in", 10)
        yield client


def post(client: httpx.Client, keys: Sequence[int], **of: Any) -> None:
    at = dt.datetime.now(dt.UTC).isoformat()
    samples = [of | {"item_id": 1000 + key, "event_type": "view", "timestamp": at} for key in keys]
    response = client.post("/online/data/add", json={"samples": samples})
    assert response.status_code == 200, response.text


def shown(body: dict[str, Any], source: str = "fold_in") -> set[int]:
    return {item["item_id"] - 1000 for item in body["recommendations"] if item["source"] == source}


def test_three_events_of_a_new_user_give_a_personal_answer(service: httpx.Client) -> None:
    post(service, [31, 32], user_id=9001)
    two = recommended(service, user_id=9001)
    assert two["provenance"]["tier"] == "popular"
    post(service, [34], user_id=9001)
    three = recommended(service, user_id=9001, explain=True)
    assert three["provenance"]["tier"] == "fold_in"
    assert three["provenance"]["user"] == "unknown"
    assert three["provenance"]["n_recent"] == 3
    assert three["provenance"]["list_version"] is None  # no stored list answered
    assert three["provenance"]["degraded"] == []
    assert {item["generator"] for item in three["recommendations"] if item["source"] == "fold_in"} == {"als"}
    assert shown(three) <= TOOLS - {31, 32, 34} - shop.UNAVAILABLE
    assert len(shown(three)) == 10
    everything = recommended(service, user_id=9001, top_k=50)
    assert len(everything["recommendations"]) == 50  # what is popular, then any, fills up
    assert [item["source"] for item in everything["recommendations"]][-1] == "available"
    other = recommended(service, seq=[1046, 1047, 1048])
    assert shown(other) <= TOYS
    assert len(shown(other)) == 10
    scores = [item["score"] for item in three["recommendations"] if item["source"] == "fold_in"]
    assert scores == sorted(scores, reverse=True)
    in_category = recommended(service, user_id=9001, category_id=903)
    assert {item["item_id"] for item in in_category["recommendations"]} <= set(range(1051, 1061))


def test_a_guest_gets_the_same_and_so_does_the_user_who_takes_the_session_over(service: httpx.Client) -> None:
    post(service, [46, 47, 48], session_id="guest-1")
    guest = recommended(service, session_id="guest-1")
    assert (guest["provenance"]["tier"], guest["provenance"]["user"]) == ("fold_in", "guest")
    assert shown(guest) <= TOYS - {46, 47, 48}
    user = recommended(service, session_id="guest-1", user_id=9002)
    assert user["provenance"]["tier"] == "fold_in"
    assert shown(user) == shown(guest)
    assert recommended(service, user_id=9002)["provenance"]["tier"] == "popular"  # without the session
    light = recommended(service, session_id="guest-1", user_id=503)  # in the catalogue, without a list
    assert (light["provenance"]["tier"], light["provenance"]["user"]) == ("fold_in", "light")


def test_users_with_lists_keep_them(service: httpx.Client) -> None:
    for user_id in (501, 502):
        before = recommended(service, user_id=user_id, top_k=5)
        post(service, [51, 52, 54, 55], user_id=user_id)
        after = recommended(service, user_id=user_id, top_k=5)
        assert after["provenance"]["n_recent"] == 4
        assert after["recommendations"] == before["recommendations"]


def test_in_a_batch_it_is_the_same(service: httpx.Client) -> None:
    post(service, [35, 36, 37], user_id=9003)
    body = {"user_ids": [9003, 501, 9004], "top_k": 5}
    results = service.post("/recommend/batch", json=body).json()["results"]
    assert [result["tier"] for result in results] == ["fold_in", "ranked", "popular"]
    assert results[0]["recommendations"] == recommended(service, user_id=9003, top_k=5)["recommendations"]


def test_it_is_counted_by_its_name_and_logged(service: httpx.Client, database: sa.Engine) -> None:
    post(service, [35, 36, 37], user_id=9005)
    answer = recommended(service, user_id=9005)
    assert answer["provenance"]["tier"] == "fold_in"
    assert 'recsys_answers_total{surface="homepage",tier="fold_in"}' in service.get("/metrics").text
    logged = sa.text("select count(*) from predictions where user_id = '9005' and tier = 'fold_in'")

    def is_logged() -> bool:
        with database.connect() as connection:
            return connection.execute(logged).scalar_one() == 1

    shop.wait_until(is_logged, 10)


def test_an_erased_user_is_a_stranger_again(service: httpx.Client) -> None:
    post(service, [38, 39, 40], user_id=9006)
    assert recommended(service, user_id=9006)["provenance"]["tier"] == "fold_in"
    assert service.delete("/users/9006").status_code == 200
    again = recommended(service, user_id=9006)
    assert (again["provenance"]["tier"], again["provenance"]["n_recent"]) == ("popular", 0)


def test_it_can_be_switched_off_and_ends_with_the_model(service: httpx.Client, database: sa.Engine, root: Path) -> None:
    """It puts another publication into service, whose ALS comes later."""
    seq = [1031, 1032, 1034]

    def tier() -> str:
        found: str = recommended(service, seq=seq)["provenance"]["tier"]
        return found

    shop.put(service, "/config", config={"fold_in": False})
    shop.wait_until(lambda: tier() == "popular", 10)
    shop.put(service, "/config", config={})
    shop.wait_until(lambda: tier() == "fold_in", 10)
    shop.publish(database, "v2", shop.SECOND)  # its als/v2 is nowhere yet
    shop.wait_until(lambda: recommended(service)["provenance"]["publication_id"] == 2, 10)
    assert tier() == "popular"

    def missing(**request: Any) -> list[str]:
        found: list[str] = recommended(service, **request)["provenance"]["degraded"]
        return found

    assert missing(seq=seq) == ["fold_in"]
    assert missing(seq=seq[:2]) == missing(user_id=501, seq=seq) == missing() == []  # the same with the factors
    factors = service.get("/model/info").json()["scorer"]["factors"]
    assert (factors["wanted"], factors["is_loaded"]) == ("als/v2", False)
    assert "als/v2 cannot be loaded" in factors["problem"]
    batch = {"user_ids": [501, 9001], "top_k": 2}
    assert service.post("/recommend/batch", json=batch).json()["provenance"]["degraded"] == ["fold_in"]
    train(root, "v2")  # it comes with the publication in service
    shop.wait_until(lambda: tier() == "fold_in", 20)
    assert missing(seq=seq) == []
    assert service.get("/model/info").json()["scorer"]["factors"]["problem"] is None


def test_no_answer_goes_without_while_publications_of_one_model_follow_each_other(
    service: httpx.Client, database: sa.Engine
) -> None:
    seq = [1031, 1032, 1034]
    shop.wait_until(lambda: recommended(service, seq=seq)["provenance"]["tier"] == "fold_in", 20)
    answers = []

    def ask_until(publication_id: int) -> None:
        while True:
            answers.append(recommended(service, seq=seq)["provenance"])
            if answers[-1]["publication_id"] == publication_id:
                return

    for number in range(3):
        contents = (shop.FIRST, shop.SECOND)[number % 2]
        last = shop.publish(database, f"again-{number}", contents, {"als": "als/v1"})
        ask_until(last)
    answers.extend(recommended(service, seq=seq)["provenance"] for _ in range(100))
    assert {answer["tier"] for answer in answers} == {"fold_in"}
    assert {tuple(answer["degraded"]) for answer in answers} == {()}
    assert len({answer["publication_id"] for answer in answers}) == 4
