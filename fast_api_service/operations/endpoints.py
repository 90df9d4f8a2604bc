"""For those who run the service: /health, /ready, /metrics, /model/info."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from fast_api_service.auth.scopes import needs, needs_no_key
from fast_api_service.errors import ApiError, documented
from fast_api_service.runtime.state import ServiceState, State
from fast_api_service.schemas import Health, ModelInfo, Ready
from recsys import __version__
from recsys.api_key import METRICS
from recsys.instants import data_ends_at
from recsys.serving.snapshot import ListVersion, Snapshot

router = APIRouter(tags=["operations"])


@router.head("/health", include_in_schema=False)  # load balancers ask so
@router.get("/health", summary="Check that the process is alive", operation_id="health")
@needs_no_key
async def health() -> Health:
    """Alive means that it answers; see /ready for whether it can serve."""
    return Health(version=__version__)


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses=documented(503), summary="Check that it can serve", operation_id="ready")
@needs_no_key
async def ready(state: ServiceState) -> Ready:
    """Ready when a publication and its item dictionary are loaded, even while Postgres is away."""
    snapshot = _in_service(state)
    return Ready(
        publication_id=snapshot.publication.publication_id,
        n_items=len(snapshot.items),
        database="up" if state.database.up else "away",
    )


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    summary="Get metrics for Prometheus",
    operation_id="metrics",
)
@needs(METRICS)
async def metrics(state: ServiceState) -> Response:
    """Prometheus' text format; `monitoring/` says what each metric means.

    Of several workers on a port, whichever answers tells the metrics of all, each with its number as `api_worker`."""
    return Response(await state.all_metrics(), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/model/info",
    responses=documented(503),
    summary="Get publication, models and catalogue in service",
    operation_id="model_info",
)
@needs(METRICS)
async def model_info(state: ServiceState) -> ModelInfo:
    """The publication with its lists, the models behind it, and the catalogue."""
    snapshot = _in_service(state)
    publication = snapshot.publication
    return ModelInfo.model_validate(
        {
            "service_version": __version__,
            "publication": {
                "publication_id": publication.publication_id,
                "fence": publication.fence,
                "created_at": publication.created_at,
                "age_s": (dt.datetime.now(dt.UTC) - publication.created_at).total_seconds(),
                "dataset": publication.dataset,
                "lists": {kind: _list_info(version) for kind, version in publication.lists.items()},
                "checks": publication.checks,
            },
            "models": publication.models,
            "config": {
                "config_id": state.config_id,
                "passed_over": list(state.in_force.passed_over),
                "problem": state.in_force.problem or None,
            },
            "scorer": state.models.info() | {"online": state.updates.info()},
            "catalogue": {
                "n_items": len(snapshot.items),
                "n_available": snapshot.items.n_available,
                "n_categories": len(snapshot.categories),
                "id_types": {
                    "user": snapshot.user_id_type,
                    "item": snapshot.items.json_type,
                    "category": snapshot.categories.json_type,
                },
                "numeric_properties": snapshot.items.numbers.names,
            },
        }
    )


def _in_service(state: State) -> Snapshot:
    if state.snapshot is None or not state.snapshot.is_published:
        raise ApiError(503, "not_ready", state.problem, retry_after_s=2)
    return state.snapshot


def _list_info(version: ListVersion) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(version).items() if name != "kind"}
    return fields | {"data_until": data_ends_at(version.dataset)}
