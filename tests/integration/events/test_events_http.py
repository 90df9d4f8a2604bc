"""Events over HTTP: the next answer of every worker knows them, and what was acknowledged outlives a kill."""

from __future__ import annotations

import datetime as dt
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fast_api_service.events.schemas import AddAnswer, EventsAnswer
from fast_api_service.events.streaming_schemas import StreamingStatus
from recsys.events import commands
from recsys.settings import Settings
from tests.integration import serving_shop as shop

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def stocked(database: sa.Engine) -> sa.Engine:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    return database


@pytest.fixture(scope="module")
def workers(database_url: str, stocked: sa.Engine) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two workers of one database."""
    with shop.running_service(database_url) as first, shop.running_service(database_url) as second:
        for client in (first, second):
            shop.wait_until(lambda client=client: shop.is_ready(client), 10)
        yield first, second


def add(client: httpx.Client, *raw: dict[str, Any], code: int = 200) -> dict[str, Any]:
    response = client.post("/online/data/add", json={"samples": list(raw)})
    assert response.status_code == code, response.text
    body: dict[str, Any] = response.json()
    if code in (200, 207):
        AddAnswer.model_validate(body)
    return body


def recommended(client: httpx.Client, **request: Any) -> dict[str, Any]:
    response = client.post("/recommend", json={"explain": True} | request)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_an_event_posted_through_one_worker_changes_the_next_answer_of_another(
    workers: tuple[httpx.Client, httpx.Client],
) -> None:
    first, second = workers
    assert recommended(second, user_id=777)["recommendations"][0]["item_id"] == 1011  # what is popular
    add(first, {"user_id": 777, "item_id": 1001, "event_type": "addtocart"})
    answer = recommended(second, user_id=777)
    best = answer["recommendations"][0]
    assert (best["item_id"], best["source"], best["reason"]) == (1002, "i2i", {"item_id": 1001})
    assert (answer["provenance"]["user"], answer["provenance"]["n_recent"]) == ("unknown", 1)
    add(second, {"user_id": 777, "item_id": 1002, "event_type": "transaction"})
    after = recommended(first, user_id=777, top_k=100)
    assert 1002 not in [entry["item_id"] for entry in after["recommendations"]]  # bought
    assert [entry["item_id"] for entry in after["recommendations"]][:2] == [1004, 1011]


def test_what_was_bought_stays_hidden_however_much_is_looked_at_after(
    workers: tuple[httpx.Client, httpx.Client],
) -> None:
    first, second = workers
    add(first, {"user_id": 779, "item_id": 1011, "event_type": "transaction", "timestamp": str(NOW)})
    times = [NOW + dt.timedelta(seconds=1 + i / 60) for i in range(120)]
    later = [{"user_id": 779, "item_id": 1040 + i % 4, "timestamp": str(time)} for i, time in enumerate(times)]
    add(first, *later)
    answer = recommended(second, user_id=779, top_k=100)
    assert 1011 not in [entry["item_id"] for entry in answer["recommendations"]]
    assert answer["provenance"]["n_recent"] == 50


@pytest.mark.parametrize(("user", "word"), [(791, "purchase"), (792, "buy"), (793, "Transaction"), (794, "ORDER")])
def test_a_purchase_by_any_usual_name_is_one(
    workers: tuple[httpx.Client, httpx.Client], stocked: sa.Engine, user: int, word: str
) -> None:
    first, second = workers
    assert recommended(second, user_id=user)["recommendations"][0]["item_id"] == 1011
    answer = add(first, {"event_id": f"p-{word}", "user_id": user, "item_id": 1011, "event_type": word})
    assert (answer["accepted"], answer["stored_as"]) == (1, {word: "transaction"})
    assert "warnings" not in answer
    assert 1011 not in [entry["item_id"] for entry in recommended(second, user_id=user, top_k=100)["recommendations"]]
    again = add(second, {"event_id": f"p-{word}", "user_id": user, "item_id": 1011, "event_type": word})
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    with stocked.connect() as connection:
        stored = connection.execute(sa.text("select event_type from events where user_id = :u"), {"u": str(user)})
        assert stored.scalars().all() == ["transaction"]


def test_what_cannot_be_used_is_taken_and_named(workers: tuple[httpx.Client, httpx.Client]) -> None:
    answer = add(
        workers[0],
        {"user_id": 795, "item_id": 1001, "event_type": "gift"},
        {"user_id": 795, "item_id": 424242, "parameters": {"price": "9,50"}},
    )
    assert (answer["success"], answer["accepted"]) == (True, 2)
    about_type, about_item, about_price = answer["warnings"]
    assert about_type.startswith("event_type: 1 of 2 have no weight here")
    assert about_item.startswith("item_id: 1 of 2")
    assert about_price.startswith("parameters: 'price' (1): should be a number")


def test_a_second_purchase_is_counted_and_a_retry_with_the_key_of_its_request_is_not(
    workers: tuple[httpx.Client, httpx.Client], stocked: sa.Engine
) -> None:
    def post(item: int, key: str | None = None, **more: Any) -> dict[str, Any]:
        sample = {"user_id": 796, "item_id": item, "event_type": "transaction"} | more
        headers = {} if key is None else {"Idempotency-Key": key}
        response = workers[0].post("/online/data/add", json=sample, headers=headers)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    for _ in range(2):
        answer = post(1001)
        assert (answer["accepted"], answer["duplicates"]) == (1, 0)
        assert answer["warnings"][0].startswith("event_id: 1 of 1 purchases have neither event_id nor timestamp")
    for key, accepted in (("a", 1), ("a", 0), ("b", 1), ("b", 0)):
        answer = post(1002, key)
        assert (answer["accepted"], answer["duplicates"]) == (accepted, 1 - accepted)
        assert "warnings" not in answer
    for accepted in (1, 0):  # as before: the timestamp tells
        assert post(1003, timestamp=str(NOW))["accepted"] == accepted
    with stocked.connect() as connection:
        n = connection.scalar(sa.text("select count(*) from events where user_id = '796'"))
    assert n == 5
    bad = workers[0].post("/online/data/add", json={"user_id": 1, "item_id": 1001}, headers={"Idempotency-Key": "a b"})
    assert (bad.status_code, bad.json()["status"]) == (422, "invalid_request")


def test_the_answer_says_how_many_events_it_takes_into_account(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    times = [str(NOW - dt.timedelta(minutes=i)) for i in range(30)]
    add(first, *({"user_id": 797, "item_id": 1020 + i, "timestamp": time} for i, time in enumerate(times)))
    dislikes = ({"user_id": 797, "item_id": 1002, "event_type": "dislike", "timestamp": str(NOW)} for _ in range(1))
    add(first, *dislikes)
    assert recommended(second, user_id=797)["provenance"]["n_recent"] == 20  # that many items call their neighbours
    surfaces = {"cart": {"recent_weight": 0}, "product_detail": {"sources": ["popular", "available"]}}
    for config, expected in (({"surfaces": surfaces}, (20, 0, 0)), ({"use_latest_events": False}, (0, 0, 0))):
        version = first.put("/config", json={"config": config}).json()["config_id"]
        shop.wait_until(lambda version=version: recommended(second)["provenance"]["config_id"] == version, 10)
        for surface, n in zip(("homepage", "cart", "product_detail"), expected, strict=True):
            assert recommended(second, user_id=797, surface=surface)["provenance"]["n_recent"] == n
    version = first.put("/config", json={"config": {}}).json()["config_id"]
    for client in workers:
        shop.wait_until(lambda client=client: recommended(client)["provenance"]["config_id"] == version, 10)


def test_a_guest_has_events_and_a_user_takes_them_over(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    add(first, {"session_id": "guest-1", "item_id": 1001})
    guest = recommended(second, session_id="guest-1")
    assert (guest["recommendations"][0]["item_id"], guest["provenance"]["user"]) == (1002, "guest")
    user = recommended(second, session_id="guest-1", user_id=888)
    assert (user["recommendations"][0]["item_id"], user["provenance"]["user"]) == (1002, "unknown")
    assert recommended(second, user_id=888)["recommendations"][0]["item_id"] == 1011


def test_seq_takes_the_place_of_what_is_stored(workers: tuple[httpx.Client, httpx.Client]) -> None:
    client, _ = workers
    answer = recommended(client, seq=[1002, 1001, 4242])
    assert answer["warnings"] == ["seq: 1 of 3 are not in the catalogue"]
    assert answer["provenance"]["n_recent"] == 2
    assert answer["recommendations"][0]["reason"] is not None
    add(client, {"user_id": 778, "item_id": 1002, "event_type": "transaction"})
    follows = recommended(client, user_id=778, seq=[1001], top_k=100)
    assert follows["recommendations"][0]["reason"] == {"item_id": 1001}
    assert 1002 not in [entry["item_id"] for entry in follows["recommendations"]]  # bought, whatever is in seq


def test_the_answer_says_what_became_of_each_sample(workers: tuple[httpx.Client, httpx.Client]) -> None:
    client, _ = workers
    good = {"event_id": "good", "user_id": 502, "item_id": 1001, "parameters": {"stars": 5}, "label": 1}
    assert add(client, good)["accepted"] == 1
    again = add(client, good, good | {"item_id": 1002}, {"item_id": 1}, {"user_id": "x", "item_id": 1}, code=207)
    assert (again["success"], again["accepted"], again["duplicates"]) == (False, 0, 1)
    assert [(entry["index"], entry["code"]) for entry in again["rejected"]] == [(1, 409), (2, 422), (3, 422)]
    assert "user_id or session_id" in again["rejected"][1]["reason"]
    assert add(client, good | {"item_id": 1003}, code=409)["status"] == "conflict"
    assert add(client, {"user_id": 1}, code=422)["status"] == "invalid_request"
    assert client.post("/online/data/add", json={"samples": []}).status_code == 422
    plain = client.post("/online/data/add", json={"user_id": 502, "item_id": 1006, "label": 1})
    assert (plain.status_code, plain.json()["accepted"]) == (200, 1)
    assert client.post("/online/data/add", json={"user_id": 502, "item_id": 1006, "label": 1}).json()["duplicates"] == 1
    events = client.get("/online/events/502")
    EventsAnswer.model_validate(events.json())
    assert {event["item_id"] for event in events.json()["events"]} == {1001, 1006}
    assert events.json()["user_id"] == 502
    assert {json.dumps(event["parameters"]) for event in events.json()["events"]} == {'{"stars": 5}', "{}"}
    assert client.get("/online/events/4242").json()["events"] == []


def test_the_status_lists_every_reader_and_how_far_it_is(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    with shop.running_service(clean_database_url) as client:
        add(client, *({"event_id": f"s{number}", "user_id": 501, "item_id": 1001} for number in range(3)))

        def readers() -> dict[str, dict[str, Any]]:
            body = client.get("/online/streaming/status").json()
            StreamingStatus.model_validate(body)
            return {reader["name"]: reader for reader in body["readers"]}

        first = readers()
        assert {name: reader["lag"] for name, reader in first.items()} == {"updater": 3, "monitor": 0}
        assert commands.archive(Settings(database_url=clean_database_url), tmp_path / "kept")["events"] == 3
        with clean_database.begin() as connection:  # what an updater commits
            connection.execute(
                sa.text("""insert into model_updates (number, base, is_base, artifact, chain, log, "after", n_events,
                           fence) values (1, 'b', true, 'a', 'c', 'postgres', :after, 3, 1)"""),
                {"after": first["monitor"]["offset"]},
            )
        add(client, {"event_id": "s3", "user_id": 501, "item_id": 1001})
        then = readers()
        lags = {name: reader["lag"] for name, reader in then.items()}
        assert lags == {"updater": 1, "monitor": 0, "archive:kept": 1}
        assert then["updater"]["offset"] == first["monitor"]["offset"]
        assert then["archive:kept"]["updated_at"] is not None
        with clean_database.begin() as connection:  # an offset of a log that is not in use is told, without a lag
            connection.execute(sa.text("update model_updates set log = 'kafka:old'"))
        assert (readers()["updater"]["log"], readers()["updater"]["lag"]) == ("kafka:old", None)


@pytest.mark.slow
def test_what_was_acknowledged_before_a_kill_is_there_once(clean_database_url: str, clean_database: sa.Engine) -> None:
    """Clients post and send again what was not acknowledged, while the service is killed three times."""
    shop.stock(clean_database)
    acknowledged: set[str] = set()
    posted = [f"k{number}" for number in range(600)]
    waiting = list(posted)
    lock = threading.Lock()
    for round_ in range(4):
        process_alive = threading.Event()
        with shop.running_service(clean_database_url, may_die=round_ < 3) as client:
            process_alive.set()

            def post(client: httpx.Client = client) -> None:
                while True:
                    with lock:
                        batch = waiting[:5]
                        del waiting[:5]
                    if not batch:
                        return
                    body = {"samples": [{"event_id": name, "user_id": 1, "item_id": 1001} for name in batch]}
                    try:
                        response = client.post("/online/data/add", json=body)
                        assert response.status_code == 200
                        acknowledged.update(batch)
                    except httpx.TransportError:
                        with lock:
                            waiting.extend(batch)
                        return

            threads = [threading.Thread(target=post) for _ in range(4)]
            for thread in threads:
                thread.start()
            if round_ < 3:
                shop.wait_until(lambda goal=100 * (round_ + 1): len(acknowledged) > goal or not waiting, 60)
                client.process.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
            for thread in threads:
                thread.join()
    with clean_database.connect() as connection:
        stored = connection.execute(sa.text("select event_id from events")).scalars().all()
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored)
    assert set(stored) == set(posted)


def test_what_names_no_type_counts_in_a_shop_without_views(workers: tuple[httpx.Client, httpx.Client]) -> None:
    client = workers[0]

    def weigh(weights: dict[str, float]) -> None:
        before = client.get("/config").json()["config_id"]
        response = client.put("/config", json={"config": {"event_weights": weights}})
        assert response.status_code == 200, response.text
        shop.wait_until(lambda: recommended(client)["provenance"]["config_id"] > before, 10)

    try:
        weigh({"listen": 1.0, "save": 2.0, "transaction": 5.0})
        answer = add(client, {"user_id": 797, "item_id": 1001})
        assert answer["stored_as"] == {"": "listen"}
        assert "warnings" not in answer
        for request in ({"user_id": 797}, {"seq": [1001]}):
            answer = recommended(client, **request)
            assert answer["provenance"]["n_recent"] == 1
            assert answer["recommendations"][0]["item_id"] == 1002
            assert "warnings" not in answer
        weigh({"transaction": 5.0})  # a look is no purchase: it cannot be posted as one, but followed
        assert "'view' (1)" in add(client, {"user_id": 798, "item_id": 1001})["warnings"][0]
        assert recommended(client, seq=[1001])["provenance"]["n_recent"] == 1
        weigh({"view": 0.0})
        answer = recommended(client, seq=[1001])
        assert answer["provenance"]["n_recent"] == 0
        assert answer["warnings"][0].startswith("seq: no event type")
    finally:
        weigh({"view": 1.0, "addtocart": 3.0, "transaction": 5.0})


def test_a_worker_that_is_ready_has_connections_that_the_first_request_finds(
    database_url: str, stocked: sa.Engine
) -> None:
    with shop.running_service(database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shown = client.get("/metrics").text
        assert 'recsys_pool_connections{state="idle"} 4.0' in shown
        assert recommended(client, user_id=501)["provenance"]["degraded"] == []
        assert 'recsys_pool_connections{state="idle"} 4.0' in client.get("/metrics").text
