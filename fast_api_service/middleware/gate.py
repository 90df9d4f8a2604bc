"""What every request passes, in one layer: an id, its key, a place, its whole body, the time it took, and no stack
trace in the answer."""

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
from fast_api_service.middleware.concurrency import ALWAYS_LET_IN, MAX_BODY_BYTES, Admission, Places
from fast_api_service.middleware.protocol import WHOLE_ANSWER
from recsys.log import stack

log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOSNIFF = (b"x-content-type-options", b"nosniff")


class Gate:
    """Plain ASGI around `framework`, the rest of `app`; direct routes of `app` are answered right here.

    Refusals, too, get a request id and are counted.
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
        passage = _Passage(send, request_id)
        try:
            await self._let_through(scope, receive, passage)
        except ClientDisconnect:
            passage.status = 499  # nobody is there to be answered
        except Exception as error:
            known_as = request_id.decode()
            log.error("request %s failed\n%s", known_as, stack(error), extra={"request_id": known_as})
            if passage.status:  # the answer is already on its way; the connection ends here
                raise RuntimeError(f"the answer to request {known_as} broke off") from None
            text = f"an error of ours, not of yours; its log entry is request {known_as}"
            await error_response(500, "internal_error", text)(scope, receive, passage.send)
        finally:
            passage.leave()
            route = getattr(scope.get("route") or self._route(scope), "path_format", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.traffic.count_request(route, method, passage.status, time.perf_counter() - started)

    async def _let_through(self, scope: Scope, receive: Receive, passage: _Passage) -> None:
        method, path = scope["method"], scope["path"]
        key_id = self._keyring.refusal(scope, self._route)
        if not isinstance(key_id, str):  # who may not call sends no body either
            await key_id(scope, receive, passage.send)
            return
        scope["state"]["key_id"] = key_id
        if path in ALWAYS_LET_IN:
            await self._framework(scope, receive, passage.send)
            return
        route, places = self._direct.get((method, path)) or (None, self._admission.places_of(path))
        whole: Message | None = None
        if method != "GET" and places.n_taken < places.limit:
            whole = await receive()
            if whole.get("more_body") or len(whole.get("body", b"")) > MAX_BODY_BYTES:
                found = await self._admission.whole_body(whole, scope, receive)
                if isinstance(found, Response):
                    await found(scope, receive, passage.send)
                    return
                whole = found
        if places.n_taken >= places.limit:
            overloaded = await self._admission.refusal(places)
            await overloaded(scope, receive, passage.send)
            return
        passage.take(places)
        if route is None or whole is None:
            await self._framework(scope, _receiving(whole, receive), passage.send)
            return
        if whole["type"] == "http.disconnect":
            raise ClientDisconnect
        scope["app"], scope["route"] = self._app, route
        await passage.answer(scope, await route.respond(Request(scope, receive), whole.get("body", b"")))

    @cached_property
    def _direct(self) -> dict[tuple[str, str], tuple[DirectRoute, Places]]:
        """By method and path; all routes are there when the first request comes."""
        direct = [route for route in self._app.routes if isinstance(route, DirectRoute)]
        return {
            (method, route.path): (route, self._admission.places_of(route.path))
            for route in direct
            for method in route.methods
        }

    def _route(self, scope: Scope) -> BaseRoute | None:
        """The route that answers a request, as the router chooses it: by path and method, else by path, with 405."""
        if direct := self._direct.get((scope["method"], scope["path"])):
            return direct[0]
        of_path = None
        for route in self._app.routes:
            match, _ = route.matches(scope)
            if match == Match.FULL:
                return route
            if match == Match.PARTIAL:
                of_path = of_path or route
        return of_path


class Service(FastAPI):
    """The application. A request goes in by `enter`: what stands there stands around all that the framework does."""

    enter: ASGIApp

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.enter = super().__call__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter(scope, receive, send)


class _Passage:
    """One request's way out: its answer gets the request's id, and when it begins, the request's place is free."""

    __slots__ = ("_places", "_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = (b"x-request-id", request_id)
        self._places: Places | None = None
        self.status = 0  # of the answer; 0 before it begins

    def take(self, places: Places) -> None:
        """Hold one of the places."""
        places.n_taken += 1
        self._places = places

    def leave(self) -> None:
        """Let go of it."""
        if self._places is not None:
            self._places.n_taken -= 1
            self._places = None

    async def send(self, message: Message) -> None:
        """A message of the framework's."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._request_id, _NOSNIFF]
        self.leave()
        await self._send(message)

    async def answer(self, scope: Scope, answer: Answer) -> None:
        """A whole answer."""
        self.status = answer.status_code
        self.leave()
        at_once = scope.get("extensions", {}).get(WHOLE_ANSWER)
        if at_once is not None:
            lines = [b"%b: %b\r\n" % header for header in (*answer.raw_headers, self._request_id, _NOSNIFF)]
            await at_once(answer.status_code, b"".join(lines), answer.body)
            return
        headers = [*answer.raw_headers, self._request_id, _NOSNIFF]
        await self._send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body})


def _receiving(whole: Message | None, receive: Receive) -> Receive:
    """Gives the whole body, which was received already, first."""
    waiting = None if whole is None else [whole]

    async def receive_whole() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive if waiting is None else receive_whole


def _request_id(scope: Scope) -> bytes:
    """The client's X-Request-ID where it is a plain word, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return bytes(value)
    return b"%016x" % getrandbits(64)
