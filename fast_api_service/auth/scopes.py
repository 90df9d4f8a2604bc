"""The scopes that a request needs, as one table of routes."""

from __future__ import annotations

from typing import Final

from recsys.api_key import ADMIN, CATALOGUE, EVENTS, METRICS, RECOMMEND, USERS

OPEN: Final[frozenset[str]] = frozenset()  # needs no key
_Needed = frozenset[str]  # all of them


def _scopes(*names: str) -> _Needed:
    return frozenset(names)


# Required scopes by method and path (that path, or anything below it). The first matching row decides; a route without
# one is refused.
RULES: Final[tuple[tuple[str, str, _Needed], ...]] = (
    ("*", "/health", OPEN),
    ("*", "/ready", OPEN),
    ("*", "/docs", OPEN),
    ("*", "/openapi.json", OPEN),
    ("*", "/static", OPEN),
    ("GET", "/dashboard/data", _scopes(METRICS)),
    ("GET", "/dashboard", OPEN),  # the page and its files have no data; it asks for a key to get them
    ("POST", "/recommend", _scopes(RECOMMEND)),
    ("GET", "/similar", _scopes(RECOMMEND)),
    ("POST", "/predict", _scopes(RECOMMEND)),
    ("POST", "/online/data/add", _scopes(EVENTS)),
    ("GET", "/online/events", _scopes(USERS)),
    ("GET", "/online", _scopes(METRICS)),
    ("*", "/online", _scopes(ADMIN)),
    ("*", "/items", _scopes(CATALOGUE)),
    ("*", "/categories", _scopes(CATALOGUE)),
    ("*", "/users", _scopes(USERS)),
    ("*", "/store_object", _scopes(CATALOGUE, USERS)),
    ("*", "/store_objects", _scopes(CATALOGUE, USERS)),
    ("GET", "/metrics", _scopes(METRICS)),
    ("GET", "/model/info", _scopes(METRICS)),
    ("*", "/model/export", _scopes(ADMIN)),
    ("GET", "/config", _scopes(METRICS)),
    ("*", "/config", _scopes(ADMIN)),
)


def needed_scopes(method: str, path: str) -> frozenset[str] | None:
    """The scopes that a key needs for this request, empty where it needs no key; None without a rule."""
    method = "GET" if method == "HEAD" else method
    for rule_method, start, scopes in RULES:
        if path.startswith(start) and rule_method in (method, "*") and path[len(start) : len(start) + 1] in ("", "/"):
            return scopes
    return None


def in_words(scopes: frozenset[str]) -> str:
    """As text: `scope users`, or `scopes catalogue and users`."""
    return f"scope{'s' if len(scopes) > 1 else ''} {' and '.join(sorted(scopes))}"
