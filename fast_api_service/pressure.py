"""A bound on the requests under way: more are turned away early, with Retry-After, and at no great cost."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics

ALWAYS_LET_IN: Final = ("/health", "/ready", "/metrics")  # those who watch must see an overloaded service
_PAUSE_S: Final = 0.1  # before a refusal goes out: clients that try again at once cost little then
_MAX_PAUSED: Final = 2000


class Pressure:
    """Plain ASGI: at most `limit` requests are under way; what comes above is answered 503 `overloaded`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, limit: int) -> None:
        self.app = app
        self.metrics = metrics
        self.limit = limit
        self.n_in_flight = 0
        self.n_paused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_LET_IN:
            await self.app(scope, receive, send)
            return
        if self.n_in_flight >= self.limit:
            await self._turn_away(scope, receive, send)
            return
        self.n_in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.n_in_flight -= 1

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.metrics.shed.labels("queue").inc()
        if self.n_paused < _MAX_PAUSED:
            self.n_paused += 1
            try:
                await asyncio.sleep(_PAUSE_S)
            finally:
                self.n_paused -= 1
        text = f"{self.limit} requests are under way already; wait for Retry-After seconds, or start more workers"
        await error_response(503, "overloaded", text, {"Retry-After": "1"})(scope, receive, send)
