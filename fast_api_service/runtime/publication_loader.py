"""The publication as a worker holds it, but for its models: read in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson
from asyncpg.pool import PoolConnectionProxy as Connection

from fast_api_service.runtime import catalogue_loader, item_rows
from fast_api_service.runtime.catalogue_loader import Epoch
from recsys.events import meaning as event_meaning
from recsys.serving.neighbours import N_NEIGHBOURS, NeighbourIndex
from recsys.serving.recent import EventMeaning
from recsys.serving.snapshot import NOT_PUBLISHED, ListVersion, Publication, StoredList

_POINTER_SQL: Final = """
select p.publication_id, p.moved_at from (select) one left join publication_pointer p on true
"""
_PUBLICATION_SQL: Final = """
select b.publication_id, b.fence, b.created_at, b.status, b.dataset, b.manifest, b.models, b.checks
from publications b where b.publication_id = $1
"""
_VERSIONS_SQL: Final = """
select list_version_id, kind, version, dataset, made_by, created_at, n_rows, n_items, sources
from list_versions where list_version_id = any($1)
"""
_NEIGHBOURS_SQL: Final = f"""
select owner_key, item_keys[1:{N_NEIGHBOURS}], scores[1:{N_NEIGHBOURS}] from lists where list_version_id = $1
"""  # noqa: S608 - a number of ours
_DEFAULT_SQL: Final = "select owner_key, item_keys, scores, sources from lists where list_version_id = $1"


class Pointer(NamedTuple):
    """Where the pointer stands; another one means another publication."""

    epoch: Epoch
    publication_id: int | None  # None: nothing is published
    moved_at: dt.datetime | None


@dataclass(frozen=True)
class Published:
    """What one publication adds to the catalogue, and what events mean since its data."""

    pointer: Pointer
    publication: Publication  # NOT_PUBLISHED where there is none
    default_lists: Mapping[int, StoredList]
    neighbours: Mapping[str, NeighbourIndex]
    meaning: EventMeaning


async def pointer(connection: Connection) -> Pointer:
    """Where the pointer stands in the caller's transaction."""
    return Pointer(await catalogue_loader.epoch(connection), *await connection.fetchrow(_POINTER_SQL))


async def read(connection: Connection, former: Published | None) -> Published:
    """The publication that the pointer names in the caller's transaction. Neighbours of list versions that stay are
    taken from the `former` one."""
    at = await pointer(connection)
    publication = await _publication(connection, at.publication_id) or NOT_PUBLISHED
    defaults = await connection.fetch(_DEFAULT_SQL, publication.version_id("default"))
    default_lists = {row["owner_key"]: StoredList(*list(row)[1:]) for row in defaults}
    if former is not None and former.pointer.epoch != at.epoch:
        former = None  # the same numbers may be of other lists
    return Published(
        at,
        publication,
        default_lists,
        await _neighbours(connection, publication, former),
        await event_meaning.meaning(connection),
    )


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


async def _neighbours(
    connection: Connection, publication: Publication, former: Published | None
) -> dict[str, NeighbourIndex]:
    """The best neighbours of all items, by kind."""
    found = {}
    for kind in ("i2i", "similar"):
        version_id = publication.version_id(kind)
        if former is not None and version_id == former.publication.version_id(kind) and kind in former.neighbours:
            found[kind] = former.neighbours[kind]
        elif version_id is not None:
            index = found[kind] = NeighbourIndex()
            cursor = await connection.cursor(_NEIGHBOURS_SQL, version_id)
            while portion := await cursor.fetch(item_rows.ROWS_A_TIME):
                for row in portion:
                    index.add(*row)
    return found
