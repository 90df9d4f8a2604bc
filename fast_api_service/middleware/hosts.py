"""While no key is needed, everything is open to this machine, but not to web pages of other sites in its browser.

Such a page can make the browser send requests here: by a form or a fetch, without access to the response (CSRF), or
under a domain that it resolves to 127.0.0.1 (DNS rebinding), with access to the responses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

# Requests that change state and need no body, so that a form could send them.
WITHOUT_BODY: Final = ("/online/training/start", "/online/training/stop", "/config/revert", "/model/export")
_HEADERS: Final = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"content-type", b"x-requested-with"}
)


def problem(
    method: str, path: str, headers: Sequence[tuple[bytes, bytes]], hosts: Collection[str], origins: Collection[str]
) -> str:
    """Why a request may come from a page of another site; empty where it does not.

    `hosts`: further host names of this service; `origins`: origins that may call it.
    """
    raw = {name: value for name, value in headers if name in _HEADERS}
    host = _text(raw.get(b"host", b"localhost"))
    if not _is_here(host) and _name_of(host) not in hosts:
        return f"the Host header says {host[:100]!r}, which is not this machine: name it in API_HOSTS"
    may_be_a_form = method == "POST" and path.startswith(WITHOUT_BODY)
    if not may_be_a_form and b"origin" not in raw and b"sec-fetch-site" not in raw:
        return ""
    given = {name: _text(value) for name, value in raw.items()}
    origin = given.get(b"origin")
    if origin in origins:
        return ""
    if origin is not None and origin.partition("://")[2] != host:
        return f"a page of {origin[:100]!r} may not call this service: name it in API_CORS_ORIGINS"
    follows_link = method in ("GET", "HEAD") and given.get(b"sec-fetch-mode") == "navigate"
    if given.get(b"sec-fetch-site") == "cross-site" and not follows_link:
        return "a page of another site may not call this service: name it in API_CORS_ORIGINS"
    if may_be_a_form and b"x-requested-with" not in given:
        media_type = given.get(b"content-type", "").partition(";")[0].strip()
        if media_type != "application/json":
            return "without a body, send the header Content-Type: application/json, or X-Requested-With, as no form can"
    return ""


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


def _name_of(host: str) -> str:
    """The host without the port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host if host.count(":") == 1 else host


@lru_cache(maxsize=256)  # called per request, mostly with the same host
def _is_here(host: str) -> bool:
    name = _name_of(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
