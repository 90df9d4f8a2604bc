"""API keys, their scopes and rate limits; and the security headers of pages."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from fast_api_service.auth.scopes import OPEN, in_words, needed_scopes
from fast_api_service.errors import error_response
from fast_api_service.metrics import Metrics
from fast_api_service.middleware import hosts
from fast_api_service.settings import ApiSettings
from recsys import api_key

log = logging.getLogger(__name__)

_BURST_S = 2.0  # a burst may use up the rate of this time
_ROUNDING = 0.001  # of a token: sums of floats are not exact
_NO_DIGEST = bytes(32)
_NOT_READ = "the API keys were not read from Postgres yet; the log of the service has the reason"
_NO_KEYS = "there are no API keys, so nothing is served: create one with `recsys keys create`"


class StoredKey(NamedTuple):
    """A row of the table api_keys."""

    key_id: str
    digest: bytes
    scopes: Sequence[str]
    rate_per_s: float | None
    revoked: bool
    expires_at: dt.datetime | None = None


class Keyring:
    """The keys as last read from Postgres, valid also while it is away; and their rate limits.

    With an empty table everything is open on loopback, and nothing elsewhere. A table whose keys are all revoked is
    not empty: revoking the last key opens nothing. Workers that share a port share, by `number_of_key`, the limits of
    keys as well.
    """

    def __init__(
        self, settings: ApiSettings, metrics: Metrics, clock: Callable[[], float] = time.monotonic,
        number_of_key: Callable[[str], memoryview[float]] | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._number_of_key = number_of_key or (lambda _: memoryview(bytearray(8)).cast("d"))
        self._rows: dict[str, StoredKey] | None = None  # None: not read yet
        self._is_loopback = settings.is_loopback
        self._keys: dict[str, _Key] = {}  # by key_id, without revoked ones

    @property
    def needed(self) -> bool:
        """Whether a request needs a key. True also before the keys are read."""
        return bool(self._rows) or self._rows is None or not self._is_loopback

    def take(self, rows: Sequence[StoredKey]) -> None:
        """Replace the keys; an unchanged one keeps the state of its rate limit."""
        former, self._rows = self._rows, {row.key_id: row for row in rows}
        if self._rows == former:
            return
        self._keys = {
            row.key_id: self._keys[row.key_id]
            if former is not None and former.get(row.key_id) == row
            else _Key(row, row.rate_per_s or self._settings.rate_per_s, self._number_of_key(row.key_id))
            for row in rows
            if not row.revoked
        }
        if rows:
            log.info("%d API keys are valid, %d are revoked", len(self._keys), len(rows) - len(self._keys))
        elif self._is_loopback:
            log.warning("there are no API keys: everything is open to this machine, until `recsys keys create`")
        else:
            log.error("%s; API_HOST=%s is not a loopback address", _NO_KEYS, self._settings.host)

    def refusal(self, scope: Scope, route_of: Callable[[Scope], BaseRoute | None]) -> Response | str:
        """The error response; or, where the request is allowed, the id of its key, empty if it needs none. Uses up the
        key's rate limit.

        401 without a valid key, 403 where it lacks a scope or the route declares none, 429 over the rate limit; 503 for
        all but /health while there are no keys to check; and where no key is needed, 403 for pages of other origins.
        With a valid key, what no route answers is allowed, to get its 404.
        """
        if not self.needed:
            return self._refusal_to_pages(scope["method"], scope["path"], scope["headers"])
        if scope["path"] == "/health":
            return ""
        if not self._rows:
            text = _NOT_READ if self._rows is None else _NO_KEYS
            return error_response(503, "not_ready", text, {"Retry-After": "2"})
        route = route_of(scope)
        scopes = needed_scopes(route)
        if scopes == OPEN:
            return ""
        presented = _presented(scope["headers"])
        if presented is None:
            return self._unauthorized("missing", "this needs an API key: send `Authorization: Bearer <key>`")
        key = self._verified(presented)
        if key is None:
            return self._unauthorized("wrong", "this API key is not known, or was revoked; see `recsys keys list`")
        if key.expires_at is not None and key.expires_at <= dt.datetime.now(dt.UTC):
            text = f"key {key.key_id} expired at {key.expires_at.isoformat()}; create another with `recsys keys create`"
            return self._unauthorized("expired", text)
        if wait_s := key.wait_s(self._clock()):
            self._metrics.shed.labels("rate_limit").inc()
            text = f"key {key.key_id} may make {key.rate_per_s:g} requests per second; wait for Retry-After seconds"
            return error_response(429, "rate_limited", text, {"Retry-After": str(math.ceil(wait_s))})
        if route is None:
            return key.key_id
        if scopes is None:
            return self._forbidden("no rule allows this route")
        if missing := scopes - key.scopes:
            return self._forbidden(
                f"key {key.key_id} lacks the {in_words(missing)}; it has {', '.join(sorted(key.scopes))}"
            )
        return key.key_id

    def _refusal_to_pages(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> Response | str:
        problem = hosts.problem(method, path, headers, self._settings.hosts, self._settings.cors_origins)
        if not problem:
            return ""
        self._metrics.auth_failures.labels("page").inc()
        return error_response(403, "forbidden", problem)

    def _forbidden(self, text: str) -> Response:
        self._metrics.auth_failures.labels("scope").inc()
        return error_response(403, "forbidden", text)

    def _verified(self, text: str) -> _Key | None:
        """The key of this text. The comparison takes constant time, also for unknown ids."""
        parts = api_key.read(text)
        if parts is None:
            return None
        key = self._keys.get(parts.key_id)
        same = hmac.compare_digest(parts.digest, key.digest if key else _NO_DIGEST)
        return key if same else None

    def _unauthorized(self, reason: str, text: str) -> Response:
        self._metrics.auth_failures.labels(reason).inc()
        return error_response(401, "unauthorized", text, {"WWW-Authenticate": "Bearer"})


class _Key:
    """A valid key with its token bucket, which starts full.

    The bucket is one number, the time at which it will be full again, so that processes can share it without a lock:
    two that take a token in the same microsecond may take one for both.
    """

    __slots__ = ("_full_at", "digest", "expires_at", "key_id", "rate_per_s", "scopes")

    def __init__(self, row: StoredKey, rate_per_s: float, full_at: memoryview[float]) -> None:
        self.key_id, self.digest, self.rate_per_s = row.key_id, row.digest, rate_per_s
        self.scopes = frozenset(api_key.SCOPES if api_key.ADMIN in row.scopes else row.scopes)
        self.expires_at = row.expires_at
        self._full_at = full_at  # of one float: seconds of the clock, which is the same for all processes

    @property
    def _burst(self) -> float:
        return max(1.0, _BURST_S * self.rate_per_s)

    def wait_s(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there will be one."""
        full_at = max(self._full_at[0], now)
        n_missing = 1 - (self._burst - (full_at - now) * self.rate_per_s)
        if n_missing > _ROUNDING:
            return n_missing / self.rate_per_s
        self._full_at[0] = full_at + 1 / self.rate_per_s
        return 0.0


def caller(scope: Scope) -> str:
    """The id of the key of an authorized request; empty where none was needed."""
    key_id: str = scope.get("state", {}).get("key_id", "")
    return key_id


def page_headers(html: str) -> dict[str, str]:
    """Security headers of a page: scripts are files of this service, and those inline in `html` by their hash.

    Styles may be inline, because scripts set them; the page cannot be framed, and sends no referrer.
    """
    inline = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


def _presented(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The key that a request presents, in either of the two headers."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            return value.strip().decode("latin-1")
    return None
