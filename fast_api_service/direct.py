"""Routes that bypass the framework: FastAPI's handling of a request takes as long as two recommendations.

A direct route validates the body straight from its bytes, and the gate calls it before the framework's middleware and
routing. OpenAPI document, paths and errors are the same as for other routes.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from fast_api_service import errors


class Answer(Protocol):
    """A complete response, such as a Response of Starlette."""

    status_code: int
    body: bytes | memoryview[int]
    raw_headers: list[tuple[bytes, bytes]]


class JsonBytes(Response):
    """A response of encoded JSON, without the overhead of Response's constructor."""

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.status_code = status_code
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


class DirectRoute(APIRoute):
    """For endpoints `(request, body)` that return a Response; other parameters are ignored.

    This includes dependencies: the state of the service is `request.app.state.service`, elsewhere `ServiceState`.
    """

    _validate: Callable[[bytes], Any]

    def reading(self, validate: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """The parser of bodies: pydantic's; a subclass may have another."""
        return validate

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        body_type = typing.get_type_hints(self.endpoint, include_extras=True)["body"]
        self._validate = self.reading(TypeAdapter(body_type).validator.validate_json)

        async def handle(request: Request) -> Response:
            return await self.respond(request, await request.body())

        return handle

    async def respond(self, request: Request, body: bytes) -> Response:
        """The response to a request with this body, also for errors of a known kind."""
        try:
            if not _is_json(request):
                raise RequestValidationError([{"type": "model_type", "loc": ("body",), "msg": "not JSON"}])
            try:
                value = self._validate(body)
            except ValidationError as error:
                raise RequestValidationError(
                    [_at_body(problem) for problem in error.errors(include_url=False, include_input=False)]
                ) from None
            answer: Response = await self.endpoint(request, value)
            return answer
        except errors.KNOWN as error:
            return await errors.answer(request, error)


def _is_json(request: Request) -> bool:
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            if value == b"application/json":
                return True
            media_type = value.partition(b";")[0].strip().lower()
            return bool(media_type == b"application/json" or media_type.endswith(b"+json"))
    return False


def _at_body(problem: Any) -> dict[str, Any]:
    """A pydantic error as FastAPI reports it: under `body`, and for invalid JSON with its position."""
    if problem["type"] == "json_invalid":
        text, _, where = str(problem["ctx"]["error"]).partition(" at ")
        return {**problem, "loc": ("body", where or "its end"), "ctx": {"error": text}}
    return {**problem, "loc": ("body", *problem["loc"])}
