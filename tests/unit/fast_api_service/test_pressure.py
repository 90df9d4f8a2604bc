"""Beyond the bound requests are turned away, those who watch are let in, and what was let in is served."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from fast_api_service import pressure
from fast_api_service.metrics import Metrics
from fast_api_service.pressure import Pressure


class Slow:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/recommend":
            await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def answer_of(app: Pressure, path: str) -> tuple[int, dict[bytes, bytes]]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send)
    return messages[0]["status"], dict(messages[0]["headers"])


def test_what_comes_above_the_bound_is_turned_away() -> None:
    metrics = Metrics()

    async def run() -> None:
        slow = Slow()
        app = Pressure(slow, metrics, limit=3)
        admitted = [asyncio.create_task(answer_of(app, "/recommend")) for _ in range(3)]
        await asyncio.sleep(0)
        for path in pressure.ALWAYS_LET_IN:
            assert (await answer_of(app, path))[0] == 200
        status, headers = await answer_of(app, "/recommend")
        assert (status, headers[b"retry-after"]) == (503, b"1")
        slow.may_answer.set()
        assert [(await one)[0] for one in admitted] == [200] * 3
        assert (await answer_of(app, "/recommend"))[0] == 200
        assert app.n_in_flight == 0

    asyncio.run(run())
    assert b'recsys_shed_total{reason="queue"} 1.0' in metrics.text()


def test_refusals_take_turns_but_none_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "REFUSALS_PER_S", 100.0)
    monkeypatch.setattr(pressure, "MAX_WAIT_S", 0.1)

    async def run() -> tuple[float, list[Any]]:
        app = Pressure(Slow(), Metrics(), limit=0)
        started = time.perf_counter()
        answers = await asyncio.gather(*(answer_of(app, "/recommend") for _ in range(50)))
        return time.perf_counter() - started, answers

    took_s, answers = asyncio.run(run())
    assert {status for status, _ in answers} == {503}
    assert took_s >= 0.09  # the first eleven went out one by one, the others at once
