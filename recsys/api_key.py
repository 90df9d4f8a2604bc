"""The text of an API key, `rk_<key_id>_<secret>`: how it is made, and read by those who check it."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, NamedTuple

# Another one needs a migration too: the constraint ck_api_keys_scopes names them.
RECOMMEND, EVENTS, CATALOGUE, USERS, METRICS, ADMIN = SCOPES = (
    *("recommend", "events", "catalogue", "users", "metrics", "admin"),
)
MEANING: Final = {
    RECOMMEND: "recommendations, neighbours, predictions",
    EVENTS: "adding events",
    CATALOGUE: "items and categories: reading, changing, deleting",
    USERS: "users and their events: reading, changing, erasing",
    METRICS: "what the service says of itself: metrics, state, configuration, figures",
    ADMIN: "all of it, and changing the configuration and the updater",
}
_PREFIX = "rk"


class Presented(NamedTuple):
    """A key as Postgres knows it: by its public id and the SHA-256 of its secret."""

    key_id: str
    digest: bytes


def make() -> tuple[str, Presented]:
    """The text of a new key, and what of it may be stored."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"{_PREFIX}_{key_id}_{secret}", Presented(key_id, _digest(secret))


def read(text: str) -> Presented | None:
    """The parts of a key's text, None where it has not the form of one."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    return Presented(key_id, _digest(secret)) if prefix == _PREFIX and key_id and secret else None


def _digest(secret: str) -> bytes:
    # A fast hash without salt suffices: the secret is 32 random bytes, which nobody can guess or look up. (Slow
    # hashes protect passwords that people choose.)
    return hashlib.sha256(secret.encode()).digest()
