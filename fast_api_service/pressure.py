"""A bound on the requests under way: more are turned away, with Retry-After, and at little cost."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics

ALWAYS_LET_IN: Final = ("/health", "/ready", "/metrics")  # those who watch must see an overloaded service
REFUSALS_PER_S: Final = 500.0  # more would take the time of those who are served
MAX_WAIT_S: Final = 0.5  # of a refusal for its turn; beyond, it goes out at once


class Pressure:
    """Plain ASGI: at most `limit` requests are under way; what comes above is answered 503 `overloaded`.

    Refusals go out one after the other at a bounded rate. Clients that try again at once thus wait a little, instead
    of keeping the process busy with refusing them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, limit: int) -> None:
        self.app = app
        self.metrics = metrics
        self.limit = limit
        self.n_in_flight = 0
        self._next_refusal = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_LET_IN:
            await self.app(scope, receive, send)
            return
        if self.n_in_flight >= self.limit:
            await self._refuse(scope, receive, send)
            return
        self.n_in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.n_in_flight -= 1

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.metrics.shed.labels("queue").inc()
        now = time.monotonic()
        turn = max(now, self._next_refusal)
        if turn - now <= MAX_WAIT_S:
            self._next_refusal = turn + 1 / REFUSALS_PER_S
            await asyncio.sleep(turn - now)
        text = f"{self.limit} requests are under way already; wait for Retry-After seconds, or start more workers"
        await error_response(503, "overloaded", text, {"Retry-After": "1"})(scope, receive, send)
