"""Hurried callers, large batches and slow queries do not degrade the answers of others: counted, not timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import pytest
import sqlalchemy as sa

from tests.integration import serving_shop as shop

N_USERS = 1000


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    """A thousand users with lists of a hundred items, and deadlines as patient as a busy machine asks for."""
    shop.stock(database)
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "insert into items (item_key, item_id, category_key, available)"
                " select key, (1000 + key)::text, 2, true from generate_series(61, 200) key"
            )
        )
        connection.execute(
            sa.text(
                "insert into users (user_key, user_id) select key, (500 + key)::text from generate_series(4, :n) key"
            ),
            {"n": N_USERS},
        )
    own = {key: range(61, 161) for key in range(1, N_USERS + 1)}
    shop.publish(database, "v1", shop.FIRST | {"ranked": own, "personal": own})
    with shop.running_service(database_url, API_DEADLINE_MS="2000", API_BATCH_DEADLINE_MS="60000") as client:
        shop.wait_until(lambda: shop.is_ready(client), 20)
        recommend(client)
        yield client


def recommend(client: httpx.Client) -> None:
    answer = client.post("/recommend", json={"user_id": 501, "top_k": 10})
    assert answer.status_code == 200, answer.text
    provenance = answer.json()["provenance"]
    assert (provenance["tier"], provenance["degraded"]) == ("ranked", [])


def beside(client: httpx.Client, attack: Callable[[httpx.Client], None], n_attackers: int, n_answers: int) -> None:
    """Others' answers are whole while attackers call `attack` over and over."""
    is_over = threading.Event()

    def go_on() -> int:
        n = 0
        with httpx.Client(base_url=client.base_url, timeout=120) as own:
            while not is_over.is_set():
                attack(own)
                n += 1
        return n

    with ThreadPoolExecutor(n_attackers) as pool:
        attacking = [pool.submit(go_on) for _ in range(n_attackers)]
        try:
            for _ in range(n_answers):
                recommend(client)
        finally:
            is_over.set()
            wait(attacking)
        assert all(one.result() for one in attacking)


def backends(engine: sa.Engine) -> set[int]:
    with engine.connect() as connection:
        return set(
            connection.scalars(sa.text("select pid from pg_stat_activity where application_name = 'recsys-api'"))
        )


def is_open(client: httpx.Client) -> bool:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith("recsys_breaker_open ")]
    return line.endswith(" 1.0")


def test_callers_that_do_not_wait_leave_the_lists_to_the_others(service: httpx.Client, database: sa.Engine) -> None:
    for _ in range(8):
        assert service.post("/recommend", json={"user_id": 501, "deadline_ms": 0.05}).status_code == 200
        assert not is_open(service)
        recommend(service)

    def hurry(own: httpx.Client) -> None:
        answer = own.post("/recommend", json={"user_id": 502, "deadline_ms": 0.05})
        assert answer.status_code == 200, answer.text

    before = backends(database)
    beside(service, hurry, 4, 200)
    assert not is_open(service)
    assert len(backends(database) - before) <= 8  # opened once each, and kept


def test_batches_that_do_not_wait_leave_the_lists_to_the_others(service: httpx.Client) -> None:
    everybody = list(range(501, 501 + N_USERS))

    def hurry(own: httpx.Client) -> None:
        answer = own.post("/recommend/batch", json={"user_ids": everybody, "top_k": 1, "deadline_ms": 1})
        assert answer.status_code in {200, 503}, answer.text

    beside(service, hurry, 2, 100)
    assert not is_open(service)


def test_two_clients_with_whole_batches_degrade_nobody_and_are_answered_whole(service: httpx.Client) -> None:
    everybody = list(range(501, 501 + N_USERS))
    tiers: list[set[str]] = []

    def ask_for_all(own: httpx.Client) -> None:
        answer = own.post("/recommend/batch", json={"user_ids": everybody, "top_k": 100})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["provenance"]["degraded"] == []
        assert [one["user_id"] for one in body["results"]] == everybody
        assert {len(one["recommendations"]) for one in body["results"]} == {100}
        tiers.append({one["tier"] for one in body["results"]})

    beside(service, ask_for_all, 2, 300)
    assert not is_open(service)
    assert tiers
    assert all(found == {"ranked"} for found in tiers)


def test_a_second_query_of_the_dashboard_is_refused_at_once(service: httpx.Client, database: sa.Engine) -> None:
    """The first one waits for a lock here."""
    with database.begin() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(sa.text("lock table predictions in access exclusive mode"))
        first = pool.submit(httpx.get, f"{service.base_url}/dashboard/data", timeout=120)

        def waits() -> bool:
            with database.connect() as connection:
                return bool(
                    connection.scalar(
                        sa.text(
                            "select count(*) from pg_stat_activity"
                            " where application_name = 'recsys-api-dashboard' and wait_event_type = 'Lock'"
                        )
                    )
                )

        shop.wait_until(waits, 30)
        for _ in range(70):
            second = service.get("/dashboard/data")
            assert (second.status_code, second.json()["status"]) == (503, "busy")
            assert second.headers["retry-after"]
        recommend(service)
        assert not first.done()
        holder.rollback()
        assert first.result().status_code == 200


def test_looks_that_were_given_up_leave_no_backends_behind(clean_database_url: str, clean_database: sa.Engine) -> None:
    """Somebody holds the catalogue for long: looks of the followers time out, and Postgres lets their backends go."""
    database, database_url = clean_database, clean_database_url
    counted = sa.text("select count(*) from pg_stat_activity where application_name = 'recsys-api'")
    shop.stock(database)
    shop.publish(database, "held", shop.FIRST)
    with shop.running_service(database_url) as client, database.connect() as counting:
        shop.wait_until(lambda: shop.is_ready(client), 20)
        before = counting.execute(counted).scalar_one()
        with database.begin() as holder:
            holder.execute(sa.text("lock table items, categories, publication_pointer in access exclusive mode"))
            most = 0
            for _ in range(24):
                time.sleep(1)
                counting.rollback()
                most = max(most, counting.execute(counted).scalar_one())
        assert most <= before + 6, f"{most} backends of a worker that had {before}"
