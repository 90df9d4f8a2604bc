"""The layer around all routes: request id, key, slot, whole body, timing, and no stack trace in the response."""

from __future__ import annotations

import logging
import re
import time
from functools import cached_property
from random import getrandbits
from typing import Any

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_api_service.auth.keys import Keyring
from fast_api_service.direct import Answer, DirectRoute
from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics
from fast_api_service.middleware.concurrency import ALWAYS_ADMITTED, MAX_BODY_BYTES, Admission, Slots
from fast_api_service.middleware.protocol import WHOLE_ANSWER
from recsys.log import stack

log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOSNIFF = (b"x-content-type-options", b"nosniff")


class Gate:
    """ASGI middleware around `framework`, the rest of `app`; direct routes of `app` are called from here.

    Refusals have a request id and are counted, too.
    """

    def __init__(
        self, framework: ASGIApp, app: FastAPI, keyring: Keyring, metrics: Metrics, admission: Admission
    ) -> None:
        self._framework, self._app = framework, app
        self._keyring, self._metrics, self._admission = keyring, metrics, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(started=started, request_id=request_id.decode())
        exchange = _Exchange(send, request_id)
        try:
            await self._handle(scope, receive, exchange)
        except ClientDisconnect:
            exchange.status = 499  # there is no client to respond to
        except Exception as error:
            id_ = request_id.decode()
            log.error("request %s failed\n%s", id_, stack(error), extra={"request_id": id_})
            if exchange.status:  # the response has begun: close the connection
                raise RuntimeError(f"the response to request {id_} broke off") from None
            text = f"an error of the service, not of the request; it is logged as request {id_}"
            await error_response(500, "internal_error", text)(scope, receive, exchange.send)
        finally:
            exchange.release()
            route = getattr(scope.get("route") or self._route(scope), "path_format", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.traffic.count_request(route, method, exchange.status, time.perf_counter() - started)

    async def _handle(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        method, path = scope["method"], scope["path"]
        key_id = self._keyring.refusal(scope, self._route)
        if not isinstance(key_id, str):  # refuse before reading the body
            await key_id(scope, receive, exchange.send)
            return
        scope["state"]["key_id"] = key_id
        if path in ALWAYS_ADMITTED:
            await self._framework(scope, receive, exchange.send)
            return
        route, slots = self._direct.get((method, path)) or (None, self._admission.slots_of(path))
        whole: Message | None = None
        if method != "GET" and slots.n_taken < slots.limit:
            whole = await receive()
            if whole.get("more_body") or len(whole.get("body", b"")) > MAX_BODY_BYTES:
                found = await self._admission.whole_body(whole, scope, receive)
                if isinstance(found, Response):
                    await found(scope, receive, exchange.send)
                    return
                whole = found
        if slots.n_taken >= slots.limit:
            overloaded = await self._admission.refusal(slots)
            await overloaded(scope, receive, exchange.send)
            return
        exchange.take(slots)
        if route is None or whole is None:
            await self._framework(scope, _receiving(whole, receive), exchange.send)
            return
        if whole["type"] == "http.disconnect":
            raise ClientDisconnect
        scope["app"], scope["route"] = self._app, route
        await exchange.answer(scope, await route.respond(Request(scope, receive), whole.get("body", b"")))

    @cached_property
    def _direct(self) -> dict[tuple[str, str], tuple[DirectRoute, Slots]]:
        """By method and path; all routes are registered before the first request."""
        direct = [route for route in self._app.routes if isinstance(route, DirectRoute)]
        return {
            (method, route.path): (route, self._admission.slots_of(route.path))
            for route in direct
            for method in route.methods
        }

    def _route(self, scope: Scope) -> BaseRoute | None:
        """The route of a request, as the router chooses it: by path and method, else by path, with 405."""
        if direct := self._direct.get((scope["method"], scope["path"])):
            return direct[0]
        by_path = None
        for route in self._app.routes:
            match, _ = route.matches(scope)
            if match == Match.FULL:
                return route
            if match == Match.PARTIAL:
                by_path = by_path or route
        return by_path


class Service(FastAPI):
    """The application. `enter` is the outermost ASGI app: middleware put there wraps all of the framework."""

    enter: ASGIApp

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.enter = super().__call__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter(scope, receive, send)


class _Exchange:
    """Sends one request's response, with the request's id; releases the request's slot when the response begins."""

    __slots__ = ("_request_id", "_send", "_slots", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = (b"x-request-id", request_id)
        self._slots: Slots | None = None
        self.status = 0  # of the response; 0 before it begins

    def take(self, slots: Slots) -> None:
        """Occupy one of the slots."""
        slots.n_taken += 1
        self._slots = slots

    def release(self) -> None:
        """Release the slot."""
        if self._slots is not None:
            self._slots.n_taken -= 1
            self._slots = None

    async def send(self, message: Message) -> None:
        """Send a message of the framework."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._request_id, _NOSNIFF]
        self.release()
        await self._send(message)

    async def answer(self, scope: Scope, answer: Answer) -> None:
        """Send a whole response."""
        self.status = answer.status_code
        self.release()
        send_whole = scope.get("extensions", {}).get(WHOLE_ANSWER)
        if send_whole is not None:
            lines = [b"%b: %b\r\n" % header for header in (*answer.raw_headers, self._request_id, _NOSNIFF)]
            await send_whole(answer.status_code, b"".join(lines), answer.body)
            return
        headers = [*answer.raw_headers, self._request_id, _NOSNIFF]
        await self._send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body})


def _receiving(whole: Message | None, receive: Receive) -> Receive:
    """A `receive` that returns the whole body, already received, first."""
    pending = None if whole is None else [whole]

    async def receive_whole() -> Message:
        return pending.pop() if pending else await receive()

    return receive if pending is None else receive_whole


def _request_id(scope: Scope) -> bytes:
    """The client's X-Request-ID if valid, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return bytes(value)
    return b"%016x" % getrandbits(64)
