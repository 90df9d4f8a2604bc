"""Postgres hangs (SIGSTOP, as a host that stalls or a network that swallows packets): it does not answer and nothing
ends. Recommendations go on from memory, all else is refused in a bounded time, and all is back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
import sqlalchemy as sa

from fast_api_service.errors import ApiError
from fast_api_service.postgres import write_pool
from fast_api_service.postgres.write_pool import Writable
from recsys.dsn import postgres_url
from recsys.events import connections
from recsys.events.connections import Connections
from recsys.events.log import LogAwayError
from tests.integration import serving_shop as shop
from tests.integration.postgres_proxy import proxy_to
from tests.integration.posting import own_postgres

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to make one for each client takes seconds
DEADLINE_MS = 1000
N_CLIENTS = 100  # more than have places
LOOK_UP_S = 4.5  # what the service promises, and some of a busy machine


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """All processes of the server there stand still."""
    postmaster = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
    stopped = [postmaster]
    postmaster.send_signal(signal.SIGSTOP)  # first, so that it makes no others
    for child in postmaster.children(recursive=True):
        child.send_signal(signal.SIGSTOP)
        stopped.append(child)
    try:
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Path, str, sa.Engine]]:
    with own_postgres() as (folder, url, engine):
        shop.stock(engine)
        yield folder, url, engine


@pytest.mark.slow  # as long as the patience of writes, and more
def test_recommendations_go_on_while_many_post_and_all_is_back_afterwards(
    server: tuple[Path, str, sa.Engine],
) -> None:
    folder, url, engine = server
    shop.publish(engine, "v1", shop.FIRST)
    freeze_s = float(os.environ.get("TEST_FREEZE_S", "20"))
    acknowledged: set[str] = set()
    outcomes: Counter[object] = Counter()
    is_over = threading.Event()

    with shop.running_service(url, API_DEADLINE_MS=str(DEADLINE_MS)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 20)

        def post(number: int) -> None:
            with httpx.Client(base_url=client.base_url, timeout=60, verify=NO_TLS) as own:
                n = 0
                while not is_over.is_set():
                    event_id = f"{number}-{n}"
                    body = {"event_id": event_id, "user_id": 503, "item_id": 1001 + number % 10}
                    answer = own.post("/online/data/add", json=body)
                    if answer.status_code == 200:
                        acknowledged.add(event_id)
                        n += 1
                    else:
                        assert answer.headers["retry-after"], answer.text
                        time.sleep(0.5)
                    outcomes[answer.status_code] += 1

        def read(*paths: str) -> dict[str, int]:
            """What is not answered from memory is refused, and not kept waiting until the end."""
            with httpx.Client(base_url=client.base_url, timeout=60, verify=NO_TLS) as own:
                answers = {path: own.get(path) for path in paths}
            assert max(answer.elapsed.total_seconds() for answer in answers.values()) < LOOK_UP_S
            return {path: answer.status_code for path, answer in answers.items()}

        catalogue = ("/items/1001", "/items", "/users/501", "/categories")
        others = ("/config", "/online/events/503", "/config/history", "/online/streaming/status")
        with ThreadPoolExecutor(N_CLIENTS + 2) as pool:
            posting = [pool.submit(post, number) for number in range(N_CLIENTS)]
            try:
                shop.wait_until(lambda: len(acknowledged) > 10, 60)
                with frozen(folder):
                    until = time.monotonic() + freeze_s
                    reading = [pool.submit(read, *paths) for paths in (catalogue, others)]
                    n_answered = 0
                    while time.monotonic() < until:
                        answer = client.post("/recommend", json={"user_id": 501, "top_k": 10})
                        assert answer.status_code == 200, (n_answered, answer.text)
                        assert answer.json()["provenance"]["time_ms"] < DEADLINE_MS
                        assert len(answer.json()["recommendations"]) == 10
                        n_answered += 1
                        time.sleep(0.05)
                    assert outcomes[503]
                    assert {code for one in reading for code in one.result(30).values()} == {503}
                    n_before = len(acknowledged)
                shop.wait_until(lambda: len(acknowledged) > n_before + 10, 60)
            finally:
                is_over.set()
            for one in posting:
                one.result(60)
        shop.wait_until(
            lambda: client.post("/recommend", json={"user_id": 501}).json()["provenance"]["degraded"] == [], 20
        )
        assert client.get("/items/1001").status_code == 200
        with engine.connect() as connection:
            stored = connection.scalars(sa.text("select event_id from events")).all()
        assert acknowledged <= set(stored)
        assert len(stored) == len(set(stored))


def test_a_worker_that_is_told_to_end_does_while_postgres_hangs(server: tuple[Path, str, sa.Engine]) -> None:
    folder, url, engine = server
    shop.publish(engine, "v0", shop.FIRST)
    with shop.running_service(url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 20)
        assert client.post("/online/data/add", json={"user_id": 503, "item_id": 1001}).status_code == 200
        assert client.get("/items/1001").status_code == 200
        with frozen(folder):
            assert client.post("/recommend", json={"user_id": 501}).status_code == 200
            time.sleep(1.5)  # followers and the exposure log are at it
            client.process.terminate()  # type: ignore[attr-defined]
            assert client.process.wait(30) in (0, -15)  # type: ignore[attr-defined]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WORK_S", 0.5)
    monkeypatch.setattr(write_pool, "_CONNECT_S", 1.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("while_what", ["a statement", "the commit"])
def test_a_transaction_ends_though_the_server_does_not_answer_and_the_next_one_goes_well(
    server: tuple[Path, str, sa.Engine], while_what: str
) -> None:
    folder, url, _ = server

    async def play() -> None:
        writes = Writable(postgres_url(url))
        await writes.open()
        others = Connections(url, "tests")

        async def work(connection: asyncpg.Connection) -> int:
            await connection.fetchval("select 1")
            there.set()
            await goes_on.wait()
            return await connection.fetchval("select 2") if while_what == "a statement" else 2

        for make in (lambda: writes.transaction(work, 0.5), lambda: others.transaction(work)):
            there, goes_on = asyncio.Event(), asyncio.Event()
            working = asyncio.create_task(make())
            await there.wait()
            with frozen(folder):
                goes_on.set()
                async with asyncio.timeout(20):
                    with pytest.raises((ApiError, LogAwayError)):
                        await working
            assert await make() == 2
        with frozen(folder):  # all connections hang, and none can be made
            async with asyncio.timeout(30):
                outcomes = await asyncio.gather(
                    *(writes.transaction(work, 0.5) for _ in range(12)), return_exceptions=True
                )
            assert {type(outcome) for outcome in outcomes} == {ApiError}
        assert await writes.transaction(work) == 2
        await others.close()
        await writes.close()

    asyncio.run(play())


@pytest.mark.slow  # as long as the patience of writes
def test_all_is_back_after_a_network_has_swallowed_what_was_said(server: tuple[Path, str, sa.Engine]) -> None:
    """No connection is ended by anybody; those that hang are given up one by one, reads, writes and followers."""
    _, url, engine = server
    shop.publish(engine, "v2", shop.FIRST)
    with proxy_to(url) as proxy, shop.running_service(proxy.url, API_DEADLINE_MS=str(DEADLINE_MS)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 20)

        def post(number: int) -> int:
            body = {"event_id": f"swallowed-{number}", "user_id": 503, "item_id": 1001}
            return httpx.post(f"{client.base_url}/online/data/add", json=body, timeout=60).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(post, range(8))) == {200}
            assert client.post("/recommend", json={"user_id": 501}).json()["provenance"]["degraded"] == []
            for path in ("/items/1001", "/config/history"):
                assert client.get(path).status_code == 200
            n_shown = shop.count(engine, "predictions")
            proxy.swallow()
            under_way = [pool.submit(post, number) for number in range(8, 16)]
            shop.wait_until(
                lambda: client.post("/recommend", json={"user_id": 501}).json()["provenance"]["degraded"] == [], 30
            )
            assert {one.result() for one in under_way} <= {200, 503}
        shop.wait_until(lambda: post(16) == 200, 60)
        for path in ("/items/1001", "/config/history"):
            shop.wait_until(lambda path=path: client.get(path).status_code == 200, 30)
        shop.wait_until(lambda: shop.count(engine, "predictions") > n_shown, 60)
        version = shop.put(client, "/config", config={})["config_id"]
        config_id = lambda: client.post("/recommend", json={}).json()["provenance"]["config_id"]  # noqa: E731
        shop.wait_until(lambda: config_id() == version, 60)
