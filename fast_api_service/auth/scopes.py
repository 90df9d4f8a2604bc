"""The scopes that a key needs, which each route declares beside itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from starlette.routing import BaseRoute, Mount, Route

_Answering = TypeVar("_Answering")  # an endpoint, or an application that is mounted
_ATTRIBUTE: Final = "needed_scopes"
OPEN: Final[frozenset[str]] = frozenset()  # needs no key


def needs(scope: str, *others: str) -> Callable[[_Answering], _Answering]:
    """Declares of an endpoint the scopes that a key must have, all of them."""

    def declare(answering: _Answering) -> _Answering:
        setattr(answering, _ATTRIBUTE, frozenset({scope, *others}))
        return answering

    return declare


def needs_no_key(answering: _Answering) -> _Answering:
    """Declares of an endpoint, or of what is mounted, that it is for anybody."""
    setattr(answering, _ATTRIBUTE, OPEN)
    return answering


def needed_scopes(route: BaseRoute | None) -> frozenset[str] | None:
    """What a route declares, empty where it needs no key; None where it declares nothing, and for no route."""
    answering = route.app if isinstance(route, Mount) else getattr(route, "endpoint", None)
    return getattr(answering, _ATTRIBUTE, None)


def by_operation(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], frozenset[str] | None]:
    """The scopes of each route by method and path; what is mounted is there as GET."""
    return {
        (method, route.path_format if isinstance(route, Route) else route.path): needed_scopes(route)
        for route in routes
        if isinstance(route, Route | Mount)
        for method in getattr(route, "methods", None) or ("GET",)
    }


def in_words(scopes: frozenset[str]) -> str:
    """As text: `scope users`, or `scopes catalogue and users`."""
    return f"scope{'s' if len(scopes) > 1 else ''} {' and '.join(sorted(scopes))}"
