"""Around every request: an id, the time it took, and no stack trace in the answer."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics
from recsys.log import stack

log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Envelope:
    """Plain ASGI, because Starlette's own middleware base class costs a task per request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[BaseRoute] = ()) -> None:
        self.app = app
        self.metrics = metrics
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(started=started, request_id=request_id.decode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered
        except Exception as error:
            known_as = request_id.decode()
            log.error("request %s failed\n%s", known_as, stack(error), extra={"request_id": known_as})
            if status:  # the answer is already on its way; the connection ends here
                raise RuntimeError(f"the answer to request {known_as} broke off") from None
            text = f"an error of ours, not of yours; its log entry is request {known_as}"
            await error_response(500, "internal_error", text)(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route") or self._route(scope), "path_format", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.count_request(route, method, status, time.perf_counter() - started)

    def _route(self, scope: Scope) -> BaseRoute | None:
        """Whose request it was that was refused before anybody looked for its route."""
        return next((route for route in self.routes if route.matches(scope)[0] == Match.FULL), None)


def _request_id(scope: Scope) -> bytes:
    """The client's X-Request-ID where it is a plain word, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return bytes(value)
    return os.urandom(8).hex().encode()
