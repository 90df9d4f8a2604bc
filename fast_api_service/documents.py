"""The OpenAPI document and the /docs page, with ids of the loaded catalogue so that every example runs."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, isnan
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from fast_api_service.errors import documented
from fast_api_service.schemas_catalogue import ABSENT_ID, STORED_ID
from fast_api_service.scopes import OPEN, in_words, needed_scopes
from fast_api_service.security import page_headers
from fast_api_service.state import State
from recsys.ids import ID_PATTERN, INTEGER_ID_PATTERN, MAX_ID_LENGTH
from recsys.serving.ids import ExternalId, JsonType, to_external
from recsys.serving.item_numbers import PRICE
from recsys.serving.snapshot import ALL_ITEMS, Snapshot

_STATIC = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI, so that the page needs no internet


def install(app: FastAPI, state: State) -> None:
    """Serve /docs and /openapi.json; the document follows the snapshot in service."""
    app.openapi = _document_of(app, state)  # type: ignore[method-assign]
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")

    made = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{app.title}: documentation",
        swagger_js_url="/static/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui.css",
        swagger_favicon_url="/static/favicon.png",
        # without a validator, which is a site of others that would be told where the document is
        swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0, "validatorUrl": None},
    )
    # a header that no form can send, so that operations without a body work where no key is needed
    asking = "SwaggerUIBundle({requestInterceptor: r => { r.headers['X-Requested-With'] = 'docs'; return r },"
    page = bytes(made.body).decode().replace("SwaggerUIBundle({", asking, 1)
    headers = page_headers(page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)


def _document_of(app: FastAPI, state: State) -> Callable[[], dict[str, Any]]:
    made_for: tuple[Snapshot | None, bool] = None, True
    document: dict[str, Any] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal made_for, document
        snapshot, needs_keys = state.snapshot, state.keys.needed
        if document is None or snapshot is not made_for[0] or needs_keys != made_for[1]:
            made_for = snapshot, needs_keys
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=[
                    {"name": "recommend", "description": "For the pages of a shop"},
                    {"name": "online", "description": "What users do, as it happens"},
                    {"name": "catalogue", "description": "What the shop tells of its items, users and categories"},
                    {"name": "operations", "description": "For those who run the service"},
                ],
            )  # fmt: skip
            _name_id_types(document, _types(snapshot))
            _fill_writes(document)
            _tell_of_keys(document, needs_keys=needs_keys)
            if snapshot is not None:
                _fill_examples(document, snapshot)
        return document

    return openapi


def _tell_of_keys(document: dict[str, Any], *, needs_keys: bool) -> None:
    """Say of each operation which scope it needs, and how it refuses; it asks for a key where this service does."""
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A key made by `recsys keys create`"}
    reference = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    refusals = {
        str(code): {"description": response["description"], "content": reference}
        for code, response in documented(401, 403, 429, 503).items()
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = needed_scopes(method.upper(), path)
            if scopes == OPEN or scopes is None:
                continue
            operation["responses"] = refusals | operation["responses"]
            needs = f"Needs the {in_words(scopes)}."
            operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
            if needs_keys:
                operation["security"] = [{"key": []}]


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
    """Replace each schema marked `x-id-of` by what the loaded catalogue takes, and `x-schema` by a reference."""
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
    integer = {"type": "integer", "minimum": -(10**18) + 1, "maximum": 10**18 - 1}
    text: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": ID_PATTERN}
    if json_type is None:
        return {"anyOf": [integer, text]}
    if json_type == "integer":
        text = {"type": "string", "pattern": INTEGER_ID_PATTERN}
    return {
        "anyOf": [integer, text] if json_type == "integer" else [text, integer],
        "description": f"{entity} ids of this catalogue are {json_type}s; the other form is understood, not given",
    }


def _fill_examples(document: dict[str, Any], snapshot: Snapshot) -> None:
    """Put ids of the loaded catalogue into the examples."""
    user_id, item_id = snapshot.example_user_id, snapshot.example_item_id
    if item_id is not None and snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item")) is None:
        item_id = None  # deleted since
    paths = document["paths"]
    examples = paths["/recommend"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        value = example["value"] = dict(example["value"])
        if "user_id" in value and user_id is not None:
            value["user_id"] = to_external(user_id, snapshot.user_id_type, "user")
        for field in ("exclude", "item_ids", "seq", "candidate_items"):
            if field in value:
                value[field] = _popular_ids(snapshot)[: 5 if field == "candidate_items" else 2]
    batch = paths["/recommend/batch"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in batch.values():
        if user_id is not None:
            ids = [to_external(user_id, snapshot.user_id_type, "user"), to_external("1", snapshot.user_id_type, "user")]
            example["value"] = example["value"] | {"user_ids": ids}
    _fill_event_examples(paths, snapshot)
    _fill_predict_examples(paths, snapshot)
    category_id = next((c for c in snapshot.categories if _has_list(snapshot, c)), None)
    if category_id is None:
        examples.pop("a category")
    else:
        examples["a category"]["value"]["category_id"] = category_id
    _fill_filters(examples, snapshot)
    any_category = next(iter(snapshot.categories), None)
    known = {"/items/{item_id}": item_id, "/users/{user_id}": user_id, "/categories/{category_id}": any_category}
    for path, id_ in {"/similar/{item_id}": item_id, **known}.items():
        _give_example(paths[path]["get"], id_)


def _fill_filters(examples: dict[str, Any], snapshot: Snapshot) -> None:
    """Ask for what a popular item is like; without one that has a number and a category there is no example."""
    items, tree = snapshot.items, snapshot.categories
    for key in _popular_keys(snapshot):
        numbers = ((name, items.numbers.column(name)) for name in items.numbers.names)
        of_item = {name: column[key] for name, column in numbers if column is not None and not isnan(column[key])}
        category_id = next((id_ for id_ in tree if tree.key(id_) == items.category(key)), None)
        if of_item and category_id is not None:
            name = PRICE if PRICE in of_item else min(of_item)
            about = {"min": floor(of_item[name] - abs(of_item[name]) / 2), "max": ceil(of_item[name] + 1)}
            examples["filtered"]["value"]["filters"] = {"categories": [category_id], "properties": {name: about}}
            return
    examples.pop("filtered")


def _fill_writes(document: dict[str, Any]) -> None:
    """Let examples of writes store and delete what no shop has."""
    for path in ("/items/{item_id}", "/users/{user_id}", "/categories/{category_id}"):
        _give_example(document["paths"][path]["put"], STORED_ID)
        _give_example(document["paths"][path]["delete"], ABSENT_ID)
    _give_example(document["paths"]["/config/revert/{config_id}"]["post"], 0)


def _give_example(operation: dict[str, Any], id_: ExternalId | None) -> None:
    for parameter in operation["parameters"]:
        if parameter["in"] == "path" and id_ is not None:
            parameter["example"] = id_


def _fill_event_examples(paths: dict[str, Any], snapshot: Snapshot) -> None:
    user_id, item_id = snapshot.example_user_id, snapshot.example_item_id
    if user_id is None or item_id is None:
        return
    ids = {
        "user_id": to_external(user_id, snapshot.user_id_type, "user"),
        "item_id": to_external(item_id, snapshot.items.json_type, "item"),
    }
    body = paths["/online/data/add"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        value = example["value"]
        samples = [sample | ids for sample in value.get("samples", ())]
        example["value"] = {"samples": samples} if samples else value | ids
    for parameter in paths["/online/events/{user_id}"]["get"]["parameters"]:
        if parameter["name"] == "user_id":
            parameter["example"] = ids["user_id"]


def _fill_predict_examples(paths: dict[str, Any], snapshot: Snapshot) -> None:
    """A user who has a list, popular items, and the category of the first of them."""
    items = _popular_ids(snapshot)[:2]
    if snapshot.example_user_id is None or not items:
        return
    user_id = to_external(snapshot.example_user_id, snapshot.user_id_type, "user")
    listing = {
        "user_id": user_id,
        "category_id": next((c for c in snapshot.categories if _has_list(snapshot, c)), None),
        "products": [{"product_id": f"product of {item_id}", "item_ids": [item_id]} for item_id in items],
    }
    pair = {"user_id": user_id, "item_id": items[0]}
    values: dict[str, dict[str, Any]] = {
        "/predict": {
            "a pair": pair,
            "lists": {"user_ids": [user_id] * len(items), "item_ids": items},
            "pairs": {"pairs": [pair], "user_feats": {"day_of_week": 6, "hour": 20}},
        },
        "/predict/product_positions": {"a listing": listing},
    }
    for path, value_by_name in values.items():
        examples = paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for name, value in value_by_name.items():
            examples[name]["value"] = value
        if listing["category_id"] is None:
            examples.pop("a listing", None)


def _popular_ids(snapshot: Snapshot) -> list[ExternalId]:
    return [snapshot.items.id(key) for key in _popular_keys(snapshot)]


def _popular_keys(snapshot: Snapshot) -> list[int]:
    stored = snapshot.default_lists.get(ALL_ITEMS)
    return [key for key in stored.item_keys if snapshot.items.is_available(key)] if stored else []


def _has_list(snapshot: Snapshot, category_id: ExternalId) -> bool:
    return snapshot.categories.key(category_id) in snapshot.default_lists
