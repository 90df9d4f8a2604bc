"""A route class for what is called all the time: the body is read and validated once, straight from its bytes.

FastAPI's own handling of a request with a JSON body costs more than all the rest of a recommendation. The document,
the paths and the errors are FastAPI's as before.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class HotRoute(APIRoute):
    """For endpoints `(request, body)` that give a Response; other parameters are not looked at."""

    def get_route_handler(self) -> Handler:
        endpoint = self.endpoint
        body_type = typing.get_type_hints(endpoint, include_extras=True)["body"]
        validate = TypeAdapter(body_type).validator.validate_json

        async def handle(request: Request) -> Response:
            body = await request.body()
            if not _is_json(request):
                raise RequestValidationError([{"type": "model_type", "loc": ("body",), "msg": "not JSON"}])
            try:
                value = validate(body)
            except ValidationError as error:
                raise RequestValidationError([_at_body(problem) for problem in error.errors()]) from None
            answer: Response = await endpoint(request, value)
            return answer

        return handle


def _is_json(request: Request) -> bool:
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            return bool(media_type == b"application/json" or media_type.endswith(b"+json"))
    return False


def _at_body(problem: Any) -> dict[str, Any]:
    """A problem of pydantic's as FastAPI tells it: under `body`, and for bad JSON where it is."""
    if problem["type"] == "json_invalid":
        text, _, where = str(problem["ctx"]["error"]).partition(" at ")
        return {**problem, "loc": ("body", where or "its end"), "ctx": {"error": text}}
    return {**problem, "loc": ("body", *problem["loc"])}
