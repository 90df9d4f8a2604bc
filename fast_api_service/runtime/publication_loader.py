"""The publication in a worker's memory, without its lists and models: read in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson
from asyncpg.pool import PoolConnectionProxy as Connection

from fast_api_service.runtime import catalogue_loader
from fast_api_service.runtime.catalogue_loader import Epoch
from recsys.events import meaning as event_meaning
from recsys.serving.list_file import ListFile
from recsys.serving.recent import EventMeaning
from recsys.serving.snapshot import NOT_PUBLISHED, ListVersion, Publication

_POINTER_SQL: Final = """
select p.publication_id, p.moved_at from (select) one left join publication_pointer p on true
"""
_PUBLICATION_SQL: Final = """
select b.publication_id, b.fence, b.created_at, b.status, b.dataset, b.manifest, b.models, b.checks
from publications b where b.publication_id = $1
"""
_VERSIONS_SQL: Final = """
select list_version_id, kind, version, dataset, made_by, created_at, n_rows, n_items, sources, meta->>'file' as file
from list_versions where list_version_id = any($1)
"""


class Pointer(NamedTuple):
    """The publication pointer; a different one means a different publication."""

    epoch: Epoch
    publication_id: int | None  # None: nothing is published
    moved_at: dt.datetime | None


@dataclass(frozen=True)
class Published:
    """A publication, and the meaning of events in its data."""

    pointer: Pointer
    publication: Publication  # NOT_PUBLISHED where there is none
    meaning: EventMeaning
    lists: Mapping[str, ListFile] = field(default_factory=dict)  # by kind; read last, see `list_loader`


async def pointer(connection: Connection) -> Pointer:
    """The pointer in the caller's transaction."""
    return Pointer(await catalogue_loader.epoch(connection), *await connection.fetchrow(_POINTER_SQL))


async def read(connection: Connection) -> Published:
    """The publication of the pointer in the caller's transaction."""
    at = await pointer(connection)
    publication = await _publication(connection, at.publication_id) or NOT_PUBLISHED
    return Published(at, publication, await event_meaning.meaning(connection))


async def _publication(connection: Connection, publication_id: int | None) -> Publication | None:
    row = await connection.fetchrow(_PUBLICATION_SQL, publication_id)
    if row is None:
        return None
    manifest: dict[str, int] = orjson.loads(row["manifest"])
    versions = await connection.fetch(_VERSIONS_SQL, list(manifest.values()))
    version_by_id = {
        version["list_version_id"]: ListVersion(**{**version, "sources": tuple(version["sources"])})
        for version in versions
    }
    return Publication(
        publication_id=row["publication_id"],
        fence=row["fence"],
        created_at=row["created_at"],
        status=row["status"],
        dataset=row["dataset"],
        models=orjson.loads(row["models"]),
        checks=orjson.loads(row["checks"]),
        lists={kind: version_by_id[number] for kind, number in manifest.items() if number in version_by_id},
    )
