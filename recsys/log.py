"""Logging, set up once by each entry point."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from recsys.errors import InputError

_TEXT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: at (UTC), level, logger, message, what was given as `extra`, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def setup(level: str | None = None, log_format: str | None = None) -> None:
    """Log to standard error, one entry an event; RECSYS_LOG_LEVEL and RECSYS_LOG_FORMAT (text, json) unless given.

    InputError for a level that there is not.
    """
    level = (level or os.environ.get("RECSYS_LOG_LEVEL") or "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise InputError(f"RECSYS_LOG_LEVEL={level}: there is DEBUG, INFO, WARNING and ERROR")
    handler = logging.StreamHandler(sys.stderr)
    is_json = (log_format or os.environ.get("RECSYS_LOG_FORMAT", "text")) == "json"
    handler.setFormatter(JsonLines() if is_json else _TEXT)
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))


_PLACE: ContextVar[str] = ContextVar("place", default="")


@contextmanager
def within(place: str) -> Iterator[None]:
    """What is logged in here may say which part of something longer it belongs to."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def place(otherwise: str) -> str:
    """The innermost `within`."""
    return _PLACE.get() or otherwise


class Pace:
    """Says when it is time to tell again how far something long is: not at once, and every `every_s` seconds then."""

    def __init__(self, every_s: float = 10.0) -> None:
        self.every_s = every_s
        self._logged_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether to tell now; if so, the next time is `every_s` from now."""
        if time.monotonic() - self._logged_at < self.every_s:
            return False
        self._logged_at = time.monotonic()
        return True


def stack(error: BaseException) -> str:
    """Where an exception and its causes came from, without their messages, which may quote what a user sent."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(
        f"{type(link).__module__}.{type(link).__qualname__} at\n{''.join(traceback.format_tb(link.__traceback__))}"
        for link in reversed(chain)
    ).rstrip()
