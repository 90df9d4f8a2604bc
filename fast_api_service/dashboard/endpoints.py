"""GET /dashboard, a page for people, and GET /dashboard/data, the figures that it shows."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import asyncpg
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from fast_api_service.auth.keys import page_headers
from fast_api_service.auth.scopes import needs, needs_no_key
from fast_api_service.dashboard import queries
from fast_api_service.dashboard.schemas import MAX_DAYS, DashboardData, Day, InService
from fast_api_service.errors import ApiError, documented
from fast_api_service.postgres.away import AWAY, NO_TABLES
from fast_api_service.runtime.state import ServiceState, State
from recsys.api_key import METRICS
from recsys.errors import InputError
from recsys.serving.recent import EventMeaning

router = APIRouter(tags=["operations"])

_STATIC = Path(__file__).parent / "static"
_DAYS = 7  # when no range is given
_one_at_a_time = asyncio.Semaphore(1)  # the queries are heavy: a worker runs one


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    page = (_STATIC / "dashboard.html").read_text(encoding="utf-8")
    headers = page_headers(page)
    app.mount("/dashboard/static", needs_no_key(StaticFiles(directory=_STATIC)), name="dashboard")

    @app.get("/dashboard", include_in_schema=False)
    @needs_no_key  # it has no data, and asks for a key to get them
    async def dashboard() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)


@router.get(
    "/dashboard/data",
    responses=documented(422, 503),
    summary="Get the figures of the dashboard",
    operation_id="dashboard_data",
)
@needs(METRICS)
async def data(
    state: ServiceState,
    date_from: Annotated[
        Day | None, Query(description="first day, UTC; a week ago by default", examples=["2026-03-01"])
    ] = None,
    date_to: Annotated[
        Day | None, Query(description="last day, included; today by default", examples=["2026-03-31"])
    ] = None,
    k: Annotated[int, Query(ge=1, le=100, description="hit rates look at the first k items of an answer")] = 10,
) -> DashboardData:
    """Hit rates, click-through, conversion, coverage, times and shares of the answers shown on some days, overall, by
    surface, by model and by day. At most 92 days."""
    first, last = _range(date_from, date_to)
    snapshot = state.snapshot
    bought = (snapshot.meaning if snapshot else EventMeaning()).bought
    found = await _compute(state, first, last, bought, k)
    return DashboardData.model_validate(
        {
            "date_from": first,
            "date_to": last,
            "k": k,
            "n_available": found.n_available,
            "bought_event_types": list(bought),
            "answers_per_day": found.overall["n_answers"] / ((last - first).days + 1),
            "in_service": _in_service(state),
            "overall": found.overall,
            "by_surface": found.by_surface,
            "by_model": found.by_model,
            "by_day": found.by_day,
        }
    )


def _range(date_from: dt.date | None, date_to: dt.date | None) -> tuple[dt.date, dt.date]:
    """First and last day; what is not given is a week that ends today, or with or begins with what is."""
    week = dt.timedelta(days=_DAYS - 1)
    last = date_to or (dt.datetime.now(dt.UTC).date() if date_from is None else date_from + week)
    first = date_from or last - week
    if first > last:
        raise InputError(f"date_from {first} is after date_to {last}; give the earlier day first")
    if (last - first).days >= MAX_DAYS:
        raise InputError(f"from {first} to {last} are {(last - first).days + 1} days; ask for {MAX_DAYS} at most")
    return first, last


async def _compute(state: State, first: dt.date, last: dt.date, bought: Sequence[str], k: int) -> queries.Figures:
    since = dt.datetime.combine(first, dt.time.min, dt.UTC)
    until = dt.datetime.combine(last, dt.time.min, dt.UTC) + dt.timedelta(days=1)
    started = time.monotonic()
    text = f"this took longer than {queries.STATEMENT_S:g} s; ask for fewer days, or when others do not"
    too_slow = ApiError(503, "too_slow", text, 30)
    if _one_at_a_time.locked():
        raise ApiError(503, "busy", "the figures are being computed for somebody else; try again soon", 5)
    try:
        async with _one_at_a_time:
            return await queries.compute(state.writes.dsn, since, until, bought, k)
    except NO_TABLES:
        raise ApiError(503, "not_ready", "the database is older than this service: run `recsys migrate`", 5) from None
    except (TimeoutError, asyncpg.QueryCanceledError):
        raise too_slow from None
    except AWAY:
        if time.monotonic() - started > queries.STATEMENT_S:
            raise too_slow from None
        raise ApiError(
            503, "database_away", "figures cannot be read while Postgres is away; try again soon", 1
        ) from None


def _in_service(state: State) -> InService | None:
    if state.snapshot is None or not state.snapshot.is_published:
        return None
    publication = state.snapshot.publication
    return InService(
        publication_id=publication.publication_id,
        created_at=publication.created_at,
        age_s=(dt.datetime.now(dt.UTC) - publication.created_at).total_seconds(),
        dataset=publication.dataset,
        models=dict(publication.models),
        lists={kind: version.version for kind, version in publication.lists.items()},
        config_id=state.config_id,
    )
