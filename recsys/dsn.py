"""DATABASE_URL, read once and for all: SQLAlchemy, asyncpg and libpq each take another text for the same address."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from recsys.errors import InputError

_EXPECTED: Final = "expected postgresql://user:password@host:5432/name"
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(:[0-9]{1,5})?\Z")


def postgres_url(url: str) -> str:
    """`postgresql://…` as all three understand it: without a driver, user and password percent-encoded.

    A password may hold `/`, `@`, `:`, `#` as they are. InputError, which shows nothing of the URL but its scheme.
    """
    scheme, found, rest = url.strip().partition("://")
    if not found:
        raise InputError(f"DATABASE_URL cannot be read; {_EXPECTED}")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise InputError(f"DATABASE_URL names {scheme[:30]}; only postgresql:// is supported")
    head = rest.partition("?")[0]
    end = (head if "@" in head else rest).rfind("@")  # of user and password
    login, place = rest[: max(end, 0)], rest[end + 1 :]
    hosts, slash, more = place.partition("/")
    if not slash:
        hosts, question, more = place.partition("?")
        slash = "/" + question
    if not all(_HOST.match(host) for host in hosts.split(",")):
        raise InputError(f"DATABASE_URL: host and port cannot be read; {_EXPECTED}, a ? in a password as %3F")
    user, colon, password = login.partition(":")
    who = quote(unquote(user), safe="") + (":" + quote(unquote(password), safe="") if colon else "")
    return f"postgresql://{who}{'@' if end >= 0 else ''}{hosts}{slash}{more}"
