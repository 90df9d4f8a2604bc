"""Error responses: one form, a suitable status code, never a stack trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from recsys.errors import InputError
from recsys.events.log import LogAwayError

log = logging.getLogger(__name__)
_STATUS_BY_CODE = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_MAX_PROBLEMS = 5
_MAX_LOOKED_AT: Final = 100  # a body may have tens of thousands
_FORMS = ("one", "lists")  # pydantic's names for the forms of a body


class ErrorAnswer(BaseModel):
    """The body of every response that is not 2xx."""

    success: bool = Field(False, json_schema_extra={"const": False})
    status: str = Field(description="an error code for programs, stable between versions")
    error: str = Field(description="what is wrong and how to fix it")


class ApiError(Exception):
    """An error of a route: HTTP code, error code, message, and the seconds for Retry-After."""

    def __init__(self, code: int, status: str, error: str, retry_after_s: int | None = None) -> None:
        super().__init__(error)
        self.code, self.status, self.error, self.retry_after_s = code, status, error, retry_after_s


def error_response(code: int, status: str, error: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON; text that cannot be encoded as UTF-8 (lone surrogates) is replaced."""
    text = error.encode("utf-8", "replace").decode()
    body = orjson.dumps({"success": False, "status": status, "error": text})
    return Response(body, code, headers, "application/json")


def documented(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may respond with these codes."""
    descriptions = {
        401: "No API key, or one that is not valid",
        403: "The key lacks the scope",
        404: "Not found",
        409: "In conflict with the current state; the text has the details",
        413: "The body is larger than 1 MiB",
        422: "The request is invalid",
        429: "Too many requests with this key; retry after Retry-After seconds",
        503: "Not available at the moment; retry after Retry-After seconds",
    }
    return {code: {"model": ErrorAnswer, "description": descriptions[code]} for code in codes}


def install(app: FastAPI) -> None:
    """Register a handler for every known kind of error; the middleware turns others into 500."""
    for kind, handler in HANDLERS.items():
        app.exception_handler(kind)(handler)


async def answer(request: Request, error: Exception) -> Response:
    """The response to an error of a known kind."""
    handler = next(handler for kind, handler in HANDLERS.items() if isinstance(error, kind))
    return await handler(request, error)


async def _api_error(_: Request, error: ApiError) -> Response:
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return error_response(error.code, error.status, error.error, headers)


async def _input_error(_: Request, error: InputError) -> Response:
    return error_response(422, "invalid_request", str(error))


async def _log_away(_: Request, error: LogAwayError) -> Response:
    log.warning("%s", error)
    text = "the event log did not answer; send the same again, what it has taken is not counted twice"
    return error_response(503, "log_away", text, {"Retry-After": "1"})


async def _validation_error(_: Request, error: RequestValidationError) -> Response:
    errors = error.errors()
    looked_at = _without_consequences(errors[:_MAX_LOOKED_AT])
    problems = list(dict.fromkeys(map(in_words, looked_at)))
    n_more = len(problems[_MAX_PROBLEMS:]) + len(errors[_MAX_LOOKED_AT:])
    more = f"; and {n_more} more" if n_more else ""
    return error_response(422, "invalid_request", "; ".join(problems[:_MAX_PROBLEMS]) + more + ". See /docs")


def _without_consequences(errors: Sequence[Any]) -> list[Any]:
    """Without the lists that are too short only because an entry of theirs is invalid, and not counted."""
    inner = {tuple(problem["loc"][:n]) for problem in errors for n in range(len(problem["loc"]))}
    return [problem for problem in errors if problem["type"] != "too_short" or tuple(problem["loc"]) not in inner]


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 400:  # FastAPI's code for invalid UTF-8, too long numbers and the like
        return error_response(422, "invalid_request", "the body cannot be read as JSON in UTF-8")
    headers = dict(error.headers) if error.headers else {}
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    texts = {
        404: f"there is no {request.url.path[:100]} here; /docs lists what there is",
        405: f"{request.url.path[:100]} does not take {request.method}; it takes {headers.get('Allow')}",
    }
    status = _STATUS_BY_CODE.get(error.status_code, "invalid_request")
    return error_response(error.status_code, status, texts.get(error.status_code, str(error.detail)), headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of the path; the framework has those of the first route only."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    methods = (route.methods or set() for route in routes if route.matches(request.scope)[0] != Match.NONE)
    return ", ".join(sorted(set().union(*methods)))


HANDLERS: Final[dict[type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    ApiError: _api_error,
    InputError: _input_error,
    LogAwayError: _log_away,
    RequestValidationError: _validation_error,
    HTTPException: _http_error,
}
KNOWN: Final = tuple(HANDLERS)


def in_words(problem: dict[str, Any]) -> str:
    """A pydantic error as `field: problem`; "json_invalid" and a body of the wrong kind have their own messages."""
    where = ".".join(str(part)[:60] for part in problem["loc"][1:] if part not in _FORMS)
    if problem["type"] == "json_invalid":
        where = f"character {where}" if where.isdigit() else where
        return f"the body is not JSON ({problem['ctx']['error']} at {where})"
    is_of_forms = problem["type"] == "model_attributes_type" and len(problem["loc"]) == 2  # a body of several forms
    if problem["type"].startswith("union_tag_"):  # the discriminator of a union
        field, kinds = problem["ctx"]["discriminator"].strip("'"), problem["ctx"].get("expected_tags")
        where = f"{where}.{field}" if where else field
        return f"{where}: should be one of {kinds}" if kinds else f"{where}: Field required"
    message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] in ("too_short", "too_long"):  # "Tuple should have …": no word of JSON
        message = message.partition(" ")[2].replace(" after validation", "")
    if not where and problem["type"] == "value_error":  # of the whole body, with a message of ours
        return message
    if is_of_forms or (not where and problem["loc"][0] == "body"):
        return "the body should be a JSON object, sent with the header Content-Type: application/json"
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such field"
    return f"{where}: {message}"
