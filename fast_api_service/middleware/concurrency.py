"""Concurrency limits by kind of request: excess requests are refused cheaply, with Retry-After.

A request occupies a slot from when it is received completely until its response is built, so that slow clients occupy
none.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics

ALWAYS_ADMITTED: Final = ("/health", "/ready", "/metrics")  # monitoring must work under overload
MAX_BODY_BYTES: Final = 1 << 20
MAX_UNFINISHED_BYTES: Final = 64 << 20  # of all bodies that are being received
REFUSALS_PER_S: Final = 500.0  # more would slow admitted requests down
MAX_WAIT_S: Final = 0.5  # by which a refusal is delayed; beyond, it is sent at once

RECOMMEND, BATCH, EVENTS, CATALOGUE, OPERATIONS = "recommend", "batch", "events", "catalogue", "operations"
# Share of the limit for each kind. A batch takes as much work as hundreds of requests.
_SHARE: Final = {RECOMMEND: 1.0, BATCH: 1 / 16, EVENTS: 1.0, CATALOGUE: 1 / 4, OPERATIONS: 1 / 4}
_BY_FIRST_SEGMENT: Final = {
    "recommend": RECOMMEND, "similar": RECOMMEND, "predict": RECOMMEND,
    "items": CATALOGUE, "users": CATALOGUE, "categories": CATALOGUE,
    "store_object": CATALOGUE, "store_objects": CATALOGUE,
}  # fmt: skip


class Slots:
    """The slots for one kind of request."""

    __slots__ = ("kind", "limit", "n_taken")

    def __init__(self, kind: str, limit: int) -> None:
        self.kind, self.limit = kind, limit
        self.n_taken = 0


class Admission:
    """Limits concurrent requests by kind; excess ones are refused with 503 `overloaded`.

    Refusals are sent at a limited rate, so that clients that retry at once wait a little, instead of keeping the
    process busy. A body beyond MAX_BODY_BYTES, declared or actual, is refused with 413.
    """

    def __init__(self, metrics: Metrics, limit: int) -> None:
        self._metrics = metrics
        self.slots = {kind: Slots(kind, int(limit * share) or min(limit, 1)) for kind, share in _SHARE.items()}
        self._n_unfinished = 0  # bytes
        self._next_refusal = 0.0

    def slots_of(self, path: str) -> Slots:
        """The slots for a request's kind."""
        return self.slots[kind_of(path)]

    async def whole_body(self, message: Message, scope: Scope, receive: Receive) -> Message | Response:
        """The whole body in one message, of which `message` is the first part, or a refusal."""
        if _declared(scope) > MAX_BODY_BYTES:
            return _too_large()
        body = bytearray(message.get("body", b""))
        n_counted = 0
        try:
            while True:
                self._n_unfinished += len(body) - n_counted
                n_counted = len(body)
                if n_counted > MAX_BODY_BYTES:
                    return _too_large()
                if self._n_unfinished > MAX_UNFINISHED_BYTES:
                    self._metrics.shed.labels("queue").inc()
                    text = (
                        "too many large bodies are being received; wait for Retry-After seconds, or send less at once"
                    )
                    return error_response(503, "overloaded", text, {"Retry-After": "1"})
                if not message.get("more_body"):
                    return {"type": "http.request", "body": bytes(body), "more_body": False}
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
        finally:
            self._n_unfinished -= n_counted

    async def refusal(self, slots: Slots) -> Response:
        """The refusal of a request without a free slot, delayed to limit their rate."""
        self._metrics.shed.labels("queue").inc()
        now = time.monotonic()
        turn = max(now, self._next_refusal)
        if turn - now <= MAX_WAIT_S:
            self._next_refusal = turn + 1 / REFUSALS_PER_S
            await asyncio.sleep(turn - now)
        text = (
            f"{slots.limit} requests of this kind ({slots.kind}) are in flight already; wait for Retry-After seconds,"
            " or start more workers"
        )
        return error_response(503, "overloaded", text, {"Retry-After": "1"})


def kind_of(path: str) -> str:
    """The kind of a request, by its path."""
    if path == "/recommend/batch":
        return BATCH
    if path.startswith("/online/"):
        return EVENTS if path == "/online/data/add" else CATALOGUE if path.startswith("/online/events/") else OPERATIONS
    return _BY_FIRST_SEGMENT.get(path[1:].partition("/")[0], OPERATIONS)


def _declared(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(length) if length.isdigit() else 0


def _too_large() -> Response:
    text = f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer ids at a time"
    return error_response(413, "body_too_large", text)
