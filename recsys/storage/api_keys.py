"""The service's API keys. A key's text is given out once, when it is made; the table holds its digest alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from recsys import api_key
from recsys.errors import InputError, NotFoundError
from recsys.storage.tables import api_keys

MAX_NAME_LENGTH = 100


class ApiKey(NamedTuple):
    """What may be shown of a key."""

    key_id: str
    name: str
    scopes: list[str]
    rate_per_s: float | None  # None: the service's default
    created_at: dt.datetime
    revoked_at: dt.datetime | None
    expires_at: dt.datetime | None  # None: never


_SHOWN = [api_keys.c[name] for name in ApiKey._fields]


def create(
    engine: sa.Engine,
    name: str,
    scopes: Collection[str],
    rate_per_s: float | None = None,
    expires_at: dt.datetime | None = None,
) -> tuple[str, ApiKey]:
    """A new key: its text, which cannot be had again, and its row. Raises InputError for what cannot be used."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise InputError(f"a key's name has 1 to {MAX_NAME_LENGTH} printable characters; it says who uses the key")
    if unknown := sorted(set(scopes) - set(api_key.SCOPES)):
        raise InputError(f"there is no scope {', '.join(map(repr, unknown))}; scopes are {', '.join(api_key.SCOPES)}")
    if not scopes:
        raise InputError(f"a key needs a scope: {', '.join(api_key.SCOPES)}")
    if rate_per_s is not None and not 0.001 <= rate_per_s <= 1e6:
        raise InputError(f"the rate is {rate_per_s} requests per second; it should be from 0.001 to 1000000")
    if expires_at is not None and expires_at <= dt.datetime.now(dt.UTC):
        raise InputError(f"a key that expired at {expires_at.isoformat()} is of no use; give an instant to come")
    text, stored = api_key.make()
    row = {
        "key_id": stored.key_id,
        "digest": stored.digest,
        "name": name,
        "scopes": [scope for scope in api_key.SCOPES if scope in scopes],
        "rate_per_s": rate_per_s,
        "expires_at": expires_at,
    }
    with engine.begin() as connection:
        made = connection.execute(sa.insert(api_keys).values(row).returning(*_SHOWN)).one()
    return text, ApiKey(*made)


def every(engine: sa.Engine) -> list[ApiKey]:
    """All keys, revoked ones too, in the order of their making."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*_SHOWN).order_by(api_keys.c.created_at, api_keys.c.key_id))
        return [ApiKey(*row) for row in rows]


def revoke(engine: sa.Engine, key_id: str) -> ApiKey:
    """End a key for good; one that is revoked already stays as it is. Raises NotFoundError."""
    ended = (
        sa.update(api_keys)
        .where(api_keys.c.key_id == key_id)
        .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, sa.func.now()))
        .returning(*_SHOWN)
    )
    with engine.begin() as connection:
        row = connection.execute(ended).one_or_none()
    if row is None:
        raise NotFoundError("there is no key of this id; `recsys keys list` shows the ids")
    return ApiKey(*row)
