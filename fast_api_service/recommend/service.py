"""The parts of recommendation responses: the user's state, the provenance, and the items as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import orjson
from starlette.types import Scope

from fast_api_service.errors import ApiError
from fast_api_service.recommend.repository import UserRow
from fast_api_service.runtime.in_service import InService
from fast_api_service.runtime.model_loader import FACTORS
from fast_api_service.runtime.state import State
from recsys.serving import blend, core, filters, sources
from recsys.serving.config import Surface
from recsys.serving.core import Pick
from recsys.serving.eligibility import Restriction
from recsys.serving.filters import Filters
from recsys.serving.ids import ExternalId, to_external
from recsys.serving.recent import History
from recsys.serving.snapshot import NOBODY, Snapshot, UserState
from recsys.session_index import KIND as SESSIONS

# Parts that may be missing. FOLD_IN: the item factors, without which new users are not folded in and diversity uses
# categories only. SESSION: the index of sessions, in whose place the neighbours of recent events are.
PERSONAL_LISTS, RECENT_EVENTS = "personal_lists", "recent_events"
PUBLICATION, FOLD_IN, SESSION = "publication", "fold_in", "session"

_KIND_BY_TIER: Final = {
    sources.RANKED: "ranked",
    sources.PERSONAL: "personal",
    sources.POPULAR_IN_CATEGORY: "default",
    sources.POPULAR: "default",
    sources.POPULAR_SAMPLED: "default",
    sources.I2I: "i2i",
    sources.SIMILAR: "similar",
}


def in_service(state: State) -> InService:
    """The current state; ApiError 503 if there is none yet."""
    if state.now is None:
        raise ApiError(503, "not_ready", state.problem, retry_after_s=2)
    return state.now


def degraded(snapshot: Snapshot, *missing: str) -> list[str]:
    """The parts that are missing from a response."""
    return [*(() if snapshot.is_published else (PUBLICATION,)), *missing]


def item_keys(
    snapshot: Snapshot, item_ids: Sequence[ExternalId], field: str = "", warnings: list[str] | None = None
) -> list[int]:
    """Keys of the known items; `warnings` gets the number of unknown ones. InputError for an invalid id."""
    if not item_ids:
        return []
    keys = [snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item")) for item_id in item_ids]
    known = [key for key in keys if key is not None]
    if warnings is not None and len(known) < len(keys):
        warnings.append(f"{field}: {len(keys) - len(known)} of {len(keys)} are not in the catalogue")
    return known


def category_key(snapshot: Snapshot, category_id: ExternalId | None) -> int | None:
    """Key of a category; ApiError 404 where there is none."""
    if category_id is None:
        return None
    key = snapshot.categories.key(to_external(category_id, snapshot.categories.json_type, "category"))
    if key is None:
        raise ApiError(404, "unknown_category", f"there is no category {category_id!r}; leave category_id out for all")
    return key


def user_state(snapshot: Snapshot, row: UserRow | None) -> UserState:
    """The input of the cascade for a user; `row` is None where nothing was read."""
    if row is None:
        return NOBODY
    if row.user_key is None:
        return UserState(recent=row.recent)
    list_of, key = snapshot.list_of, row.user_key
    past = list_of("history", key)
    history = None if past is None else History(past, snapshot.publication.lists["history"].sources)
    return UserState(list_of("ranked", key), list_of("personal", key), row.recent, history=history)


def not_loaded(now: InService, user: UserState, surface: Surface) -> list[str]:
    """The artifacts of the publication that are not loaded and with which a response to this user might differ."""
    snapshot, models, missing = now.snapshot, now.snapshot.publication.models, []
    if snapshot.factors is None and models.get(FACTORS) and blend.uses_factors(user, now.config, surface):
        missing.append(FOLD_IN)
    if snapshot.sessions is None and models.get(SESSIONS) and blend.uses_sessions(user, now.config, surface):
        missing.append(SESSION)
    return missing


def restriction(
    snapshot: Snapshot, requested: Filters | None, of_surface: Filters | None, warnings: list[str]
) -> Restriction | None:
    """The request's filters, resolved to keys; `warnings` gets conditions, also the surface's, that match nothing."""
    if of_surface is not None:
        filters.resolve(of_surface, snapshot.items, snapshot.categories, warnings, place="the surface's filters")
    return None if requested is None else filters.resolve(requested, snapshot.items, snapshot.categories, warnings)


def user_status(user_id: ExternalId | None, session_id: str | None, row: UserRow | None, user: UserState) -> str:
    """The status of the user, as in the provenance."""
    if user_id is None and session_id is None:
        return "anonymous"
    if row is None:
        return "unread"
    if user_id is None:
        return "guest"
    if row.user_key is None:
        return "unknown"
    return "light" if user.ranked is None and user.personal is None else "known"


def who(user_id: ExternalId | None, session_id: str | None = None) -> str:
    """For whom items are drawn: the user, else the session; empty for anonymous requests."""
    if user_id is not None:
        return f"user {user_id}"
    return "" if session_id is None else f"session {session_id}"


def time_left_s(scope: Scope, deadline_ms: float) -> float:
    """Seconds until the deadline of a request, counted from its arrival."""
    started: float = scope["state"]["started"]
    return started + deadline_ms / 1000 - time.perf_counter()


def origin(scope: Scope, now: InService, tier: str, missing: list[str]) -> dict[str, Any]:
    """The part of the provenance that all responses have."""
    members, made_at = now.origins.get(tier) or _origin_of(now, tier)
    return {
        **members,
        "list_age_s": None if made_at is None else round(time.time() - made_at, 1),
        "degraded": missing,
        "time_ms": round((time.perf_counter() - scope["state"]["started"]) * 1000, 2),
    }


def _origin_of(now: InService, tier: str) -> tuple[dict[str, Any], float | None]:
    """The part that is the same for all responses of this tier, cached; and when the list was created."""
    publication = now.snapshot.publication
    version = publication.lists.get(_KIND_BY_TIER.get(tier, ""))
    members = {
        "publication_id": publication.publication_id,
        "dataset": publication.dataset,
        "models": orjson.Fragment(orjson.dumps(publication.models)),
        "tier": tier,
        "list_version": version.version if version else None,
    }
    now.origins[tier] = found = members, version.created_at.timestamp() if version else None
    return found


def entries(snapshot: Snapshot, picks: Sequence[Pick], *, explain: bool = False) -> orjson.Fragment:
    """The items of a response as JSON; with `explain`, with the reason for each."""
    return orjson.Fragment(core.entries(snapshot.items.id_by_key, picks, explain))
