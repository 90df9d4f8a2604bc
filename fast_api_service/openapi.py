"""The OpenAPI document and the /docs page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastapi_offline
import orjson
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute

from fast_api_service import openapi_examples
from fast_api_service.auth.keys import page_headers
from fast_api_service.auth.scopes import by_operation, in_words, needs_no_key
from fast_api_service.errors import documented
from fast_api_service.runtime.state import State
from recsys.api_key import EVENTS, RECOMMEND
from recsys.ids import ID_PATTERN, INTEGER_ID_PATTERN, MAX_ID_LENGTH
from recsys.serving.ids import JsonType
from recsys.serving.snapshot import Snapshot

_TAGS: list[dict[str, Any]] = [
    {"name": "recommend", "description": "For the pages of a shop"},
    {"name": "online", "description": "Events of users, in real time"},
    {"name": "catalogue", "description": "The shop's items, users and categories"},
    {"name": "operations", "description": "For operators of the service"},
]
_STATIC = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI, so that the page needs no internet


def install(app: FastAPI, state: State) -> None:
    """Serve /docs and /openapi.json; the document has the id types of the catalogue in service."""
    documents = _Documents(app, state)
    app.openapi = documents.whole  # type: ignore[method-assign]
    app.mount("/static", needs_no_key(StaticFiles(directory=_STATIC)), name="static")

    html = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{app.title}: documentation",
        swagger_js_url="/static/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui.css",
        swagger_favicon_url="/static/favicon.png",
        # no validator, which is a third-party site that would get the document's URL
        swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0, "validatorUrl": None},
    )
    # a header that no form can send, so that operations without a body work where no key is needed
    with_header = "SwaggerUIBundle({requestInterceptor: r => { r.headers['X-Requested-With'] = 'docs'; return r },"
    page = bytes(html.body).decode().replace("SwaggerUIBundle({", with_header, 1)
    headers = page_headers(page)

    @app.get("/openapi.json", include_in_schema=False)
    @needs_no_key
    async def openapi() -> Response:
        return Response(await documents.text(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    @needs_no_key
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)


class _Documents:
    """Caches the document, which depends on the catalogue's id types and on whether a key is needed."""

    def __init__(self, app: FastAPI, state: State) -> None:
        self._app, self._state = app, state
        self._cached_for: tuple[Any, ...] = ()
        self._cached: tuple[dict[str, Any], bytes] | None = None
        self._lock = asyncio.Lock()

    async def text(self) -> bytes:
        """As JSON. Building it takes as long as many requests, so it is done in a thread."""
        async with self._lock:
            return (await asyncio.to_thread(self._current))[1]

    def whole(self) -> dict[str, Any]:
        """The document itself."""
        return self._current()[0]

    def _current(self) -> tuple[dict[str, Any], bytes]:
        types, needs_keys = _types(self._state.snapshot), self._state.keys.needed
        wanted = (*types.values(), needs_keys)
        if self._cached is None or self._cached_for != wanted:
            document = self._make(types, needs_keys=needs_keys)
            self._cached, self._cached_for = (document, orjson.dumps(document)), wanted
        return self._cached

    def _make(self, types: dict[str, JsonType | None], *, needs_keys: bool) -> dict[str, Any]:
        document = get_openapi(
            title=self._app.title,
            version=self._app.version,
            description=self._app.description,
            routes=self._app.routes,
            tags=_TAGS,
            separate_input_output_schemas=False,
        )
        _name_id_types(document, types)
        _document_scopes(document, self._app.routes, needs_keys=needs_keys)
        openapi_examples.fill(document, types)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation.pop("x-scopes", None)
        return document


def _document_scopes(document: dict[str, Any], routes: Iterable[BaseRoute], *, needs_keys: bool) -> None:
    """Add to each operation its scopes and refusals, and the key, where this service needs one."""
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A key made by `recsys keys create`"}
    needed = by_operation(routes)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = needed[method.upper(), path]
            if not scopes:
                continue
            operation["responses"] = _refusals() | operation["responses"]
            other = EVENTS if RECOMMEND in scopes else RECOMMEND
            operation["x-scopes"] = {"scope": sorted(scopes)[0], "other": other}
            needs = f"Needs the {in_words(scopes)}."
            if method == "post" and "requestBody" not in operation:
                needs += " Where no key is needed, send `Content-Type: application/json` or `X-Requested-With`."
            operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
            if needs_keys:
                operation["security"] = [{"key": []}]


def _refusals() -> dict[str, Any]:
    """The refusals of every operation with a scope."""
    schema = {"$ref": "#/components/schemas/ErrorAnswer"}
    return {
        str(code): {"description": response["description"], "content": {"application/json": {"schema": schema}}}
        for code, response in documented(401, 403, 429, 503).items()
    }


def _types(snapshot: Snapshot | None) -> dict[str, JsonType | None]:
    if snapshot is None:
        return {"user": None, "item": None, "category": None, "any": None}
    return {
        "user": snapshot.user_id_type,
        "item": snapshot.items.json_type,
        "category": snapshot.categories.json_type,
        "any": None,
    }


def _name_id_types(node: Any, types: dict[str, JsonType | None]) -> None:
    """Replace schemas marked `x-id-of` by the id schema of the loaded catalogue, and `x-schema` by a reference."""
    if isinstance(node, list):
        for child in node:
            _name_id_types(child, types)
    if not isinstance(node, dict):
        return
    if "x-schema" in node:
        node["$ref"] = f"#/components/schemas/{node.pop('x-schema')}"
    entity = node.pop("x-id-of", None)
    if entity is not None:
        node.pop("type", None)
        node |= _id_schema(types[entity], entity)
        return
    for child in node.values():
        _name_id_types(child, types)


def _id_schema(json_type: JsonType | None, entity: str) -> dict[str, Any]:
    integer = {"type": "integer", "minimum": -(10**18) + 1, "maximum": 10**18 - 1, "examples": [1]}
    text: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": ID_PATTERN}
    if json_type is None:
        return {"anyOf": [integer, text]}
    if json_type == "integer":
        text = {"type": "string", "pattern": INTEGER_ID_PATTERN}
    return {
        "anyOf": [integer, text] if json_type == "integer" else [text, integer],
        "description": f"{entity} ids of this catalogue are {json_type}s; the other form is accepted, but not returned",
    }
