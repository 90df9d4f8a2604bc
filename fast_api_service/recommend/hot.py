"""Routes that are called all the time, answered below the framework.

FastAPI's handling of one request costs as much as two recommendations. A hot route's body is read and validated once,
straight from its bytes, and `HotPath` hands the request to it before the framework's own middle layers and routing.
The document, the paths and the errors are FastAPI's as for any other route.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fast_api_service import errors

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class HotRoute(APIRoute):
    """For endpoints `(request, body)` that give a Response; other parameters are not looked at."""

    respond: Handler

    def reading(self, validate: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """What makes a body of its bytes: pydantic's way, unless a route knows a shorter one that ends in it."""
        return validate

    def get_route_handler(self) -> Handler:
        endpoint = self.endpoint
        body_type = typing.get_type_hints(endpoint, include_extras=True)["body"]
        validate = self.reading(TypeAdapter(body_type).validator.validate_json)

        async def handle(request: Request) -> Response:
            body = await _body(request)
            if not _is_json(request):
                raise RequestValidationError([{"type": "model_type", "loc": ("body",), "msg": "not JSON"}])
            try:
                value = validate(body)
            except ValidationError as error:
                raise RequestValidationError([_at_body(problem) for problem in error.errors()]) from None
            answer: Response = await endpoint(request, value)
            return answer

        self.respond = handle
        return handle


class HotPath:
    """Plain ASGI: answers the hot routes of `app`, and passes all else on."""

    def __init__(self, inner: ASGIApp, app: FastAPI) -> None:
        self.inner = inner
        self.app = app
        self._routes: dict[tuple[str, str], HotRoute] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await self.inner(scope, receive, send)
            return
        scope["app"], scope["route"] = self.app, route
        request = Request(scope, receive)
        try:
            response = await route.respond(request)
        except tuple(errors.HANDLERS) as error:
            response = await errors.answer(request, error)
        await response(scope, receive, send)

    def _route(self, scope: Scope) -> HotRoute | None:
        if self._routes is None:
            hot = [route for route in self.app.routes if isinstance(route, HotRoute)]
            self._routes = {(method, route.path): route for route in hot for method in route.methods}
        return self._routes.get((scope["method"], scope["path"]))


class JsonBytes(Response):
    """Ready bytes of JSON; a Response that skips what only others need."""

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.status_code = status_code
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


async def _body(request: Request) -> bytes:
    """The whole body, usually one message."""
    parts = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_json(request: Request) -> bool:
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            if value == b"application/json":
                return True
            media_type = value.partition(b";")[0].strip().lower()
            return bool(media_type == b"application/json" or media_type.endswith(b"+json"))
    return False


def _at_body(problem: Any) -> dict[str, Any]:
    """A problem of pydantic's as FastAPI tells it: under `body`, and for bad JSON where it is."""
    if problem["type"] == "json_invalid":
        text, _, where = str(problem["ctx"]["error"]).partition(" at ")
        return {**problem, "loc": ("body", where or "its end"), "ctx": {"error": text}}
    return {**problem, "loc": ("body", *problem["loc"])}
