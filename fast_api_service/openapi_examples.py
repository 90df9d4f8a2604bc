"""The examples of the OpenAPI document: placeholder ids, and an example of each error response.

No id is taken from the catalogue: the document is public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fast_api_service.catalogue.schemas import ABSENT_ID, STORED_ID
from recsys.serving.ids import ExternalId, JsonType

# Field → entity of its ids.
ENTITY_BY_FIELD: Final[Mapping[str, str]] = {
    **dict.fromkeys(("user_id", "user_ids"), "user"),
    **dict.fromkeys(("item_id", "item_ids", "exclude", "seq", "candidate_items"), "item"),
    **dict.fromkeys(("category_id", "categories"), "category"),
}
_OTHERS: Final = (STORED_ID, ABSENT_ID)  # ids that no catalogue has: examples may store and delete these
_KEY: Final = "key 3f9c0a1b2c3d"
_NO_CATEGORY: Final = ("unknown_category", "there is no category 1; leave category_id out for all")
_TEMPLATE: Final = "A template: replace `category_id` by a category of your shop; an unknown one is 404."
_NO_JSON: Final = "the body should be a JSON object, sent with the header Content-Type: application/json. See /docs"

# Error code and message by HTTP status, and by prefix of the path where they differ; the longest prefix counts.
REFUSALS: Final[Mapping[int, Mapping[str, tuple[str, str]]]] = {
    401: {"": ("unauthorized", "this needs an API key: send `Authorization: Bearer <key>`")},
    403: {"": ("forbidden", f"{_KEY} lacks the scope {{scope}}; it has {{other}}")},
    404: {
        "/recommend": _NO_CATEGORY,
        "/predict": _NO_CATEGORY,
        "/similar": ("unknown_item", "there is no item '1' in the catalogue"),
        "/items": ("unknown_item", "there is no item 1 in the catalogue"),
        "/users": ("unknown_user", "there is no user 1 in the catalogue"),
        "/categories": ("unknown_category", "there is no category 1 in the catalogue"),
        "/online/events": (
            "unknown_user",
            "user id 'one' is not an integer, and user ids of this catalogue are integers",
        ),
        "/config": ("unknown_version", "there is no version 0; /config/history names them"),
    },
    409: {
        "/online/data/add": ("conflict", "this event_id is taken by an event with another content, which stays"),
        "/categories": ("category_in_use", "category 1 holds 2 items and 0 categories; move or delete them first"),
        "/config": ("conflict", "version 3 is in force, not 2; read it first"),
    },
    413: {"": ("body_too_large", "the body is larger than 1048576 bytes; send fewer ids at a time")},
    422: {
        "": ("invalid_request", _NO_JSON),
        "/similar": ("invalid_request", "top_k: should be greater than or equal to 1. See /docs"),
        "/dashboard": ("invalid_request", "k: should be greater than or equal to 1. See /docs"),
        "/online/events": ("invalid_request", "limit: should be greater than or equal to 1. See /docs"),
        "/online/training/logs": ("invalid_request", "limit: should be greater than or equal to 1. See /docs"),
        "/online/updates": ("invalid_request", "limit: should be greater than or equal to 1. See /docs"),
        "/config/history": ("invalid_request", "limit: should be greater than or equal to 1. See /docs"),
        "/config/revert": ("invalid_request", "config_id: should be greater than or equal to 0. See /docs"),
    },
    429: {"": ("rate_limited", f"{_KEY} may make 1000 requests per second; wait for Retry-After seconds")},
    503: {
        "": ("database_away", "nothing was written or read: Postgres is away; try the same again soon"),
        "/recommend": ("not_ready", "starting: nothing is loaded yet"),
        "/similar": ("not_ready", "starting: nothing is loaded yet"),
        "/ready": ("not_ready", "starting: nothing is loaded yet"),
        "/model/info": ("not_ready", "starting: nothing is loaded yet"),
        "/predict": ("model_unavailable", "no model is loaded, /recommend goes on without: nothing is loaded yet"),
        "/metrics": ("not_ready", "the API keys were not read from Postgres yet; the log of the service says why"),
    },
}
_LIMITED: Final = ("invalid_request", "limit: should be greater than or equal to 1. See /docs")
_WITHOUT_BODY: Final = (
    "invalid_request",
    "{entity} id 'one' is not an integer, and {entity} ids of this catalogue are integers",
)


def fill(document: dict[str, Any], types: Mapping[str, JsonType | None]) -> None:
    """Give every body and path an example with ids of the catalogue's types, and every error response its example."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                if "category_id" in example["value"]:
                    example["description"] = _TEMPLATE
                example["value"] = neutral(example["value"], types)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = _in_path(path, method, parameter["name"], types)
            for code, response in operation["responses"].items():
                if int(code) >= 400:
                    _show_refusal(response, int(code), path, method, operation)


def neutral(value: Any, types: Mapping[str, JsonType | None], entity: str | None = None) -> Any:
    """A value of an example, with its ids as the catalogue's JSON type instead of small integers."""
    if isinstance(value, dict):
        return {name: neutral(one, types, ENTITY_BY_FIELD.get(name)) for name, one in value.items()}
    if isinstance(value, list):
        return [neutral(one, types, entity) for one in value]
    is_id = entity is not None and type(value) is int and value not in _OTHERS
    return _id(entity, value, types) if is_id and entity is not None else value


def _id(entity: str, number: int, types: Mapping[str, JsonType | None]) -> ExternalId:
    return f"{entity}-{number}" if types[entity] == "string" else number


def _in_path(path: str, method: str, name: str, types: Mapping[str, JsonType | None]) -> ExternalId:
    entity = ENTITY_BY_FIELD.get(name)
    if entity is None:
        return 0
    if method in ("put", "delete") and path.startswith(("/items", "/users", "/categories")):
        return STORED_ID if method == "put" else ABSENT_ID
    return _id(entity, 1, types)


def _show_refusal(response: dict[str, Any], code: int, path: str, method: str, operation: dict[str, Any]) -> None:
    by_start = REFUSALS[code]
    start = max((start for start in by_start if path.startswith(start)), key=len)
    status, text = by_start[start]
    if code == 422 and not start and "requestBody" not in operation:
        entity = next((name for name in ("item", "user", "category") if f"{{{name}_id}}" in path), None)
        status, text = _LIMITED if entity is None else (_WITHOUT_BODY[0], _WITHOUT_BODY[1].format(entity=entity))
    text = text.format(**operation["x-scopes"]) if code == 403 else text
    content = response.setdefault("content", {}).setdefault("application/json", {})
    content["example"] = {"success": False, "status": status, "error": text}
