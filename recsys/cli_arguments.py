"""What the commands of `recsys` have in common: arguments read, results shown, the settings with a database that is
there."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import typer

from recsys import settings
from recsys.errors import InputError
from recsys.instants import instant_of
from recsys.settings import Settings


def show(result: Any) -> None:
    """Print it as JSON."""
    typer.echo(json.dumps(result, indent=1, default=str))


def options_of(pairs: list[str] | None, option: str = "--option") -> dict[str, str]:
    """NAME=VALUE, several, by name; InputError."""
    options: dict[str, str] = {}
    for pair in pairs or []:
        name, found, value = pair.partition("=")
        if not found or not name:
            raise InputError(f"{option} {pair!r} is not of the form NAME=VALUE")
        if name in options:
            raise InputError(f"{option} names {name} twice")
        options[name] = value
    return options


def instant(text: str | None) -> dt.datetime | None:
    """ISO 8601, UTC where it names no zone; InputError."""
    if text is None:
        return None
    try:
        return instant_of(text)
    except ValueError:
        raise InputError(f"{text!r} is no instant; expected ISO 8601, as 2026-03-01T12:00:00Z") from None


def end_of(text: str | None) -> dt.datetime | None:
    """An instant, or so many days or hours from now; InputError."""
    found = re.fullmatch(r"([0-9]{1,5})([dh])", text or "")
    if found is None:
        return instant(text)
    return dt.datetime.now(dt.UTC) + dt.timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])})


def ready() -> Settings:
    """The settings, when Postgres is there and has this version's tables."""
    from recsys.storage.engine import with_patience

    loaded = settings.load()
    with_patience(lambda: database().dispose(), loaded.database_patience_s)
    return loaded


def database() -> Any:
    """An engine; InputError where the tables are not those of this release."""
    from recsys.storage.engine import engine, require_current

    found = engine(settings.load())
    require_current(found)
    return found
