"""The serving configuration: GET and PUT /config, its history, and going back. A bad version is refused."""

from __future__ import annotations

from typing import Annotated, Any

import asyncpg
import orjson
from fastapi import APIRouter, Body, Path, Query, Request

from fast_api_service.auth.keys import caller
from fast_api_service.auth.scopes import needs
from fast_api_service.config import repository
from fast_api_service.config.repository import COLUMNS, version_of
from fast_api_service.config.schemas import ConfigHistory, ConfigInForce, ConfigVersion, NewConfig
from fast_api_service.config.warnings import warnings_of
from fast_api_service.errors import ApiError, documented
from fast_api_service.runtime.state import ServiceState, State
from recsys.api_key import ADMIN, METRICS
from recsys.serving.config import DEFAULT, ServingConfig

router = APIRouter(tags=["operations"])

_HISTORY_SQL = f"select {COLUMNS} from config_versions order by config_id desc limit $1"  # noqa: S608 - names of ours
_ONE_SQL = f"select {COLUMNS} from config_versions where config_id = $1"  # noqa: S608
_LOCK_SQL = "lock table config_versions in share row exclusive mode"
_INSERT_SQL = f"""
insert into config_versions (config, comment, author) values ($1, $2, $3) returning {COLUMNS}
"""  # noqa: S608
_EXAMPLES: dict[str, Any] = {
    "cart": {
        "summary": "Neighbours of the cart by turns with the list",
        "value": {"config": {"surfaces": {"cart": {"blend": "interleave"}}}, "comment": "an example"},
    },
    "rules": {
        "summary": "In the cart nothing above 50, and at most two items of a category; a varied homepage",
        "value": {
            "config": {
                "surfaces": {
                    "cart": {"filters": {"properties": {"price": {"max": 50}}}, "max_per_category": 2},
                    "homepage": {"diversity": 0.3},
                }
            },
            "comment": "an example",
        },
    },
    "defaults": {"summary": "Back to the defaults", "value": {"config": {}, "comment": "the defaults"}},
}


@router.get("/config", responses=documented(503), summary="Get the configuration in force", operation_id="config")
@needs(METRICS)
async def read(state: ServiceState) -> ConfigInForce:
    """The newest version that can be read, and the newer ones that cannot; version 0 are the defaults, which hold until
    another one is put."""
    found = await state.lookups.transaction(repository.in_force)
    return ConfigInForce(**dict(found.version), passed_over=list(found.passed_over), problem=found.problem or None)


@router.get(
    "/config/history", responses=documented(422, 503), summary="List earlier versions", operation_id="config_history"
)
@needs(METRICS)
async def history(state: ServiceState, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> ConfigHistory:
    """The newest first."""
    return ConfigHistory(versions=[version_of(row) for row in await _fetch(state, _HISTORY_SQL, limit)])


@router.put(
    "/config",
    responses=documented(409, 413, 422, 503),
    summary="Add a configuration version",
    operation_id="put_config",
)
@needs(ADMIN)
async def put(
    request: Request, state: ServiceState, body: Annotated[NewConfig, Body(openapi_examples=_EXAMPLES)]
) -> ConfigVersion:
    """Adds a version, which every worker follows within five seconds. With `replaces`, only if that one is in force:
    409 where somebody else was faster. `warnings` names rules that leave a surface empty and names that nothing has."""
    return await _add(state, caller(request.scope), body.config, body.comment, body.replaces)


@router.post(
    "/config/revert/{config_id}",
    responses=documented(404, 409, 422, 503),
    summary="Revert to an earlier version",
    operation_id="revert_config",
)
@needs(ADMIN)
async def revert(
    request: Request, state: ServiceState, config_id: Annotated[int, Path(ge=0, le=2**53)]
) -> ConfigVersion:
    """Adds a version with the content of a former one; 0 are the defaults. Nothing of the history is lost."""
    if config_id == 0:
        return await _add(state, caller(request.scope), DEFAULT, "back to the defaults", None)
    rows = await _fetch(state, _ONE_SQL, config_id)
    if not rows:
        raise ApiError(404, "unknown_version", f"there is no version {config_id}; /config/history names them")
    config = version_of(rows[0]).config
    if config is None:
        raise ApiError(
            409, "conflict", f"version {config_id} was written by another version of the service; put it anew"
        )
    return await _add(state, caller(request.scope), config, f"back to version {config_id}", None)


async def _add(state: State, author: str, config: ServingConfig, comment: str, replaces: int | None) -> ConfigVersion:
    text = orjson.dumps(config.model_dump(mode="json", exclude_defaults=True)).decode()

    async def write(connection: asyncpg.Connection) -> Any:
        await connection.execute(_LOCK_SQL)
        in_force = (await repository.in_force(connection)).config_id
        if replaces is not None and replaces != in_force:
            raise ApiError(409, "conflict", f"version {in_force} is in force, not {replaces}; read it first")
        return await connection.fetchrow(_INSERT_SQL, text, comment, author)

    row = await state.writes.transaction(write)
    state.wake()
    version = version_of(row)
    if state.snapshot is not None:
        version.warnings = warnings_of(config, state.snapshot)
    return version


async def _fetch(state: State, sql: str, *arguments: Any) -> list[Any]:
    return list(await state.lookups.transaction(lambda connection: connection.fetch(sql, *arguments)))
