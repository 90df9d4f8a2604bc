"""A process that ends itself by SIGKILL when it is at a point for the N-th time."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple


class Point(NamedTuple):
    """What is called there, and whether the end comes before the call, after it, or when half its file is written."""

    owner: Any
    name: str
    when: str


def die_at(point: Point, n: int) -> None:
    """Put the end where it is asked for."""
    real, calls = getattr(point.owner, point.name), 0

    def count(moment: str, *arguments: Any) -> None:
        nonlocal calls
        if moment == ("before" if point.when == "before" else "after"):
            calls += 1
            if calls == n:
                if point.when == "half":
                    _halve(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)

    make = _asynchronous if inspect.iscoroutinefunction(real) else _plain
    setattr(point.owner, point.name, make(real, count))


def _halve(*arguments: Any) -> None:
    """Leave half of the file that a call has written: its path is the second argument."""
    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)


def _plain(real: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        count("before")
        result = real(*arguments, **named)
        count("after", *arguments)
        return result

    return call


def _asynchronous(real: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
    async def call(*arguments: Any, **named: Any) -> Any:
        count("before")
        result = await real(*arguments, **named)
        count("after", *arguments)
        return result

    return call
