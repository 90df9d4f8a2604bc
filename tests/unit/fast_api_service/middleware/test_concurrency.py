"""Beyond the bound requests are rejected, those who watch are let in, and what was let in is served.

Kinds of requests do not take each other's slots, and neither do those who send or read slowly."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_api_service.auth.keys import Keyring
from fast_api_service.metrics import Metrics
from fast_api_service.middleware import concurrency
from fast_api_service.middleware.concurrency import Admission
from fast_api_service.middleware.gate import Gate
from fast_api_service.settings import ApiSettings


class Slow:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/recommend":
            await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]


def bounded(app: ASGIApp, metrics: Metrics, limit: int) -> tuple[Gate, Admission]:
    """The gate around an application that needs no key."""
    keyring = Keyring(ApiSettings(), metrics)
    keyring.take([])
    admission = Admission(metrics, limit)
    return Gate(app, FastAPI(), keyring, metrics, admission), admission


async def answer_of(app: Gate, path: str) -> tuple[int, dict[bytes, bytes]]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "path": path, "method": "POST", "headers": HEADERS}, receive, send)
    return messages[0]["status"], dict(messages[0]["headers"])


def test_what_comes_above_the_bound_is_rejected() -> None:
    metrics = Metrics()

    async def run() -> None:
        slow = Slow()
        app, admission = bounded(slow, metrics, limit=3)
        admitted = [asyncio.create_task(answer_of(app, "/recommend")) for _ in range(3)]
        await asyncio.sleep(0)
        for path in concurrency.ALWAYS_ADMITTED:
            assert (await answer_of(app, path))[0] == 200
        status, headers = await answer_of(app, "/recommend")
        assert (status, headers[b"retry-after"]) == (503, b"1")
        slow.may_answer.set()
        assert [(await one)[0] for one in admitted] == [200] * 3
        assert (await answer_of(app, "/recommend"))[0] == 200
        assert {slots.n_taken for slots in admission.slots.values()} == {0}

    asyncio.run(run())
    assert b'recsys_shed_total{reason="queue"} 1.0' in metrics.text()


def test_refusals_take_turns_but_none_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "REFUSALS_PER_S", 100.0)
    monkeypatch.setattr(concurrency, "MAX_WAIT_S", 0.1)

    async def run() -> tuple[float, list[Any]]:
        app, _ = bounded(Slow(), Metrics(), limit=0)
        started = time.perf_counter()
        answers = await asyncio.gather(*(answer_of(app, "/recommend") for _ in range(50)))
        return time.perf_counter() - started, answers

    took_s, answers = asyncio.run(run())
    assert {status for status, _ in answers} == {503}
    assert took_s >= 0.09  # the first eleven went out one by one, the others at once


def test_kinds_of_requests_do_not_take_each_others_places() -> None:
    of = {
        "/recommend": "recommend", "/similar/1": "recommend", "/predict": "recommend", "/recommend/batch": "batch",
        "/online/data/add": "events", "/online/events/1": "catalogue", "/items/1": "catalogue", "/users": "catalogue",
        "/dashboard/data": "operations", "/online/training/status": "operations", "/config": "operations",
        "/openapi.json": "operations", "/": "operations", "/no/such": "operations",
    }  # fmt: skip
    assert {path: concurrency.kind_of(path) for path in of} == of

    async def run() -> None:
        for path, kind in of.items():
            stuck = asyncio.Event()

            async def app(scope: Scope, receive: Receive, send: Send, path: str = path, stuck: Any = stuck) -> None:
                if scope["path"] == path:
                    await stuck.wait()
                await send({"type": "http.response.start", "status": 200, "headers": []})

            bound, admission = bounded(app, Metrics(), limit=64)
            limit = admission.slots[kind].limit
            waiting = [asyncio.create_task(answer_of(bound, path)) for _ in range(limit)]
            await asyncio.sleep(0)
            assert (await answer_of(bound, path))[0] == 503
            others = {other: (await answer_of(bound, other))[0] for other, its in of.items() if its != kind}
            assert set(others.values()) == {200}, (path, others)
            stuck.set()
            assert {(await one)[0] for one in waiting} == {200}

    asyncio.run(run())
    assert {kind: Admission(Metrics(), 64).slots[kind].limit for kind in set(of.values())} == {
        "recommend": 64, "events": 64, "catalogue": 16, "operations": 16, "batch": 4,
    }  # fmt: skip


def test_a_request_takes_its_place_when_it_is_whole_and_leaves_it_when_its_answer_is_made() -> None:
    async def run() -> None:
        bodies: list[bytes] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            message = await receive()
            assert not message["more_body"]
            bodies.append(message["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        bound, admission = bounded(app, Metrics(), limit=1)
        slots = admission.slots["recommend"]
        pieces: asyncio.Queue[Message] = asyncio.Queue()
        reads = asyncio.Event()
        n_taken_at_the_end = []

        async def send(message: Message) -> None:
            n_taken_at_the_end.append(slots.n_taken)
            await reads.wait()

        scope = {"type": "http", "path": "/recommend", "method": "POST", "headers": HEADERS}
        slow = asyncio.create_task(bound(scope, pieces.get, send))
        await pieces.put({"type": "http.request", "body": b"{", "more_body": True})
        await asyncio.sleep(0.01)
        assert slots.n_taken == 0
        assert (await answer_of(bound, "/recommend"))[0] == 200  # beside it
        await pieces.put({"type": "http.request", "body": b"}", "more_body": False})
        await asyncio.sleep(0.01)
        assert (bodies, n_taken_at_the_end, slots.n_taken) == ([b"", b"{}"], [0], 0)  # its client does not read
        assert (await answer_of(bound, "/recommend"))[0] == 200
        reads.set()
        await slow
        assert slots.n_taken == 0

    asyncio.run(run())


def test_all_unfinished_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_UNFINISHED_BYTES", 1000)

    async def run() -> None:
        bound, admission = bounded(Slow(), Metrics(), limit=4)

        async def never() -> Message:
            return await asyncio.get_running_loop().create_future()

        async def send(_: Message) -> None:
            return None

        def unfinished(n: int) -> Receive:
            messages = [{"type": "http.request", "body": b" " * n, "more_body": True}]

            async def receive() -> Message:
                return messages.pop() if messages else await never()

            return receive

        scope = {"type": "http", "path": "/config", "method": "PUT", "headers": HEADERS}
        first = asyncio.create_task(bound(scope, unfinished(900), send))
        await asyncio.sleep(0)
        statuses: list[int] = []

        async def take(message: Message) -> None:
            statuses.append(message.get("status", 0))

        await bound(scope, unfinished(200), take)
        assert statuses[0] == 503
        assert (await answer_of(bound, "/config"))[0] == 200  # one that is whole
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert admission._n_unfinished == 0

    asyncio.run(run())
