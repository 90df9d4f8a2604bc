"""Weights, roles and names of the shop's event types, from Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
import orjson
from pydantic import ValidationError

from recsys.events.names import EventNames, names_of
from recsys.serving.config import DEFAULT, ServingConfig
from recsys.serving.recent import EventMeaning

_MEANING_SQL: Final = "select event_weights, bought_event_types, hides_bought from event_meaning"
_CONFIGS_SQL: Final = "select config from config_versions order by config_id desc"


async def meaning(connection: asyncpg.Connection) -> EventMeaning:
    """By the pipeline's settings and the source of the data; the defaults where there are no data."""
    row = await connection.fetchrow(_MEANING_SQL)
    if row is None:
        return EventMeaning()
    return EventMeaning(orjson.loads(row["event_weights"]), tuple(row["bought_event_types"]), row["hides_bought"])


async def weights(connection: asyncpg.Connection) -> dict[str, float]:
    """Weights of event types as in the service: by the configuration, else as in `meaning`."""
    return dict((await meaning(connection)).under(await _config(connection)).weights)


async def names(connection: asyncpg.Connection, synonyms: Mapping[str, Sequence[str]]) -> EventNames:
    """The names of event types, as in the service."""
    return names_of(await meaning(connection), await _config(connection), synonyms)


async def _config(connection: asyncpg.Connection) -> ServingConfig:
    """The newest configuration that this release can read, as in the service; within a transaction."""
    async for row in connection.cursor(_CONFIGS_SQL):
        try:
            return ServingConfig.model_validate_json(row["config"])
        except ValidationError:
            continue
    return DEFAULT
