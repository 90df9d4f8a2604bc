"""What the follower reads from Postgres: the publication, the catalogue, API keys, the configuration."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import orjson

from fast_api_service import item_rows, unreadable
from fast_api_service.item_rows import ItemChange
from fast_api_service.reads import AWAY, DatabaseAwayError, Reads, in_words
from fast_api_service.security import StoredKey
from fast_api_service.settings import ApiSettings
from recsys.errors import InputError
from recsys.ids import is_id
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.ids import JsonType
from recsys.serving.neighbours import N_NEIGHBOURS, NeighbourIndex
from recsys.serving.recent import EventMeaning
from recsys.serving.snapshot import ALL_ITEMS, NOT_PUBLISHED, ListVersion, Publication, Snapshot, StoredList

log = logging.getLogger(__name__)

_LOAD_S = 120.0
_LOOK_S = 2.0
_SESSION = {
    "application_name": "recsys-api",
    "default_transaction_read_only": "on",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # planning costs ten times the reading
}
# A request's query looks a few rows up by key; without statistics yet, or with old ones, Postgres might think of more.
_LOOK_UP = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"}
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg")

# $1 is a snapshot of Postgres' transactions: rows that were changed by others than those are new to us.
_IS_NEW = """changed_xid >= pg_snapshot_xmin($1::text::pg_snapshot)
             and not pg_visible_in_snapshot(changed_xid, $1::text::pg_snapshot)"""
# Asking for the first row in order keeps the look to the index.
_PULSE_SQL = f"""
select p.publication_id, p.moved_at, pg_current_snapshot()::text as seen,
       (select true from items where {_IS_NEW} order by changed_xid limit 1) is not null as items_changed,
       (select true from categories where {_IS_NEW} order by changed_xid limit 1) is not null as categories_changed
from publication_pointer p
"""  # noqa: S608 - our own words
_CHANGED_ITEMS_SQL = item_rows.CHANGED_SQL.format(is_new=_IS_NEW)
_CONFIG_SQL = "select config_id, config from config_versions where config_id > $1 order by config_id desc limit 1"
_PUBLICATION_SQL = """
select b.publication_id, b.fence, b.created_at, b.status, b.dataset, b.manifest, b.models, b.checks
from publication_pointer p join publications b using (publication_id)
"""
_VERSIONS_SQL = """
select list_version_id, kind, version, dataset, made_by, created_at, n_rows, n_items, sources
from list_versions where list_version_id = any($1)
"""
_NEIGHBOURS_SQL = f"""
select owner_key, item_keys[1:{N_NEIGHBOURS}], scores[1:{N_NEIGHBOURS}] from lists where list_version_id = $1
"""  # noqa: S608 - a number of ours
_MEANING_SQL = """
select event_weights, bought_event_types from raw.imports where status = 'complete' order by import_id desc limit 1
"""
_DEFAULT_SQL = "select owner_key, item_keys, scores, sources from lists where list_version_id = $1"
_KEYS_SQL = "select key_id, digest, scopes, rate_per_s, revoked_at is not null from api_keys"
_EXAMPLE_USER_SQL = """
select u.user_id from lists l join users u on u.user_key = l.owner_key where l.list_version_id = $1 limit 1
"""
_EXAMPLE_ITEM_SQL = """
select i.item_id from lists l join items i on i.item_key = l.owner_key and i.available
where l.list_version_id = $1 order by i.item_key = any($2) desc limit 1
"""


class Pulse(NamedTuple):
    """What tells a new state of the database from the one that was loaded."""

    publication_id: int | None  # None: nothing is published
    moved_at: dt.datetime | None
    seen: str  # Postgres' snapshot of the moment; what is changed by later transactions is not in it
    items_changed: bool  # since the snapshot that the caller gave
    categories_changed: bool


class Database:
    """Read-only connections: a few for the follower, and `reads`, those that are held for requests.

    Raises InputError for a URL that is not of Postgres.
    """

    def __init__(self, dsn: str, settings: ApiSettings) -> None:
        self.dsn = postgres_dsn(dsn)
        self._pool: asyncpg.Pool | None = None  # for the follower
        self.reads = Reads(self._connect, settings.pool_size)
        self.up = False

    async def open(self) -> None:
        """Make the pool; no connection is opened yet."""
        self._pool = await asyncpg.create_pool(
            self.dsn, min_size=0, max_size=2, timeout=5, reset=_nothing_to_reset, server_settings=_SESSION
        )

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.dsn, timeout=5, server_settings=_SESSION | _LOOK_UP)

    async def close(self) -> None:
        """End all connections, after the requests in flight."""
        await self.reads.close()
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    async def pulse(self, seen: str | None) -> Pulse:
        """State of pointer and catalogue; DatabaseAwayError.

        `seen`: `Pulse.seen` of the catalogue that is loaded, if one is.
        """
        async with self._connection(_LOOK_S) as connection:
            row = await connection.fetchrow(_PULSE_SQL, seen)
        return Pulse(*row)

    async def changed_items(self, seen: str) -> AsyncIterator[ItemChange]:
        """The items that changed since `seen`; DatabaseAwayError."""
        async with self._connection(_LOAD_S) as connection, connection.transaction():
            await connection.execute("set local plan_cache_mode = force_custom_plan")  # how many depends on `seen`
            cursor = await connection.cursor(_CHANGED_ITEMS_SQL, seen)
            while portion := await cursor.fetch(item_rows.ROWS_A_TIME):
                for row in portion:
                    yield ItemChange(*row)

    async def api_keys(self) -> list[StoredKey]:
        """All keys, revoked ones too; DatabaseAwayError."""
        async with self._connection(_LOOK_S) as connection:
            return [StoredKey(*row) for row in await connection.fetch(_KEYS_SQL)]

    async def config_after(self, config_id: int) -> tuple[int, str] | None:
        """The newest configuration as JSON, with its id; None where none is newer than `config_id`."""
        async with self._connection(_LOOK_S) as connection:
            row = await connection.fetchrow(_CONFIG_SQL, config_id)
        return tuple(row) if row else None

    async def categories(self, json_type: JsonType) -> CategoryTree:
        """All categories; DatabaseAwayError."""
        async with self._connection(_LOAD_S) as connection:
            return await _categories(connection, json_type)

    async def load(self, former: Snapshot | None, *, with_example_user: bool) -> tuple[Snapshot, str] | None:
        """All that is held in memory and the `seen` that it is of, read in one transaction; DatabaseAwayError.

        None where there is neither a publication nor an item. What is the same in the `former` snapshot is taken from
        it: its items, which follow the catalogue by themselves, and neighbours of list versions that stay.
        `with_example_user`: also the id of one user who has a list, for the documentation page.
        """
        async with self._connection(_LOAD_S) as connection, connection.transaction(isolation="repeatable_read"):
            publication = await _publication(connection) or NOT_PUBLISHED
            seen = await connection.fetchval("select pg_current_snapshot()::text")
            types = dict(await connection.fetch("select entity, json_type from id_types"))
            defaults = await connection.fetch(_DEFAULT_SQL, publication.version_id("default"))
            default_lists = {row["owner_key"]: StoredList(*list(row)[1:]) for row in defaults}
            example_user = await _example_user(connection, publication) if with_example_user else None
            example_item = await _example_item(connection, publication, default_lists.get(ALL_ITEMS))
            snapshot = Snapshot(
                publication=publication,
                items=await _items(connection, types.get("item", "string"), former),
                categories=await _categories(connection, types.get("category", "string")),
                default_lists=default_lists,
                user_id_type=types.get("user", "string"),
                neighbours=await _neighbours(connection, publication, former),
                meaning=await _meaning(connection),
                example_user_id=_if_id(example_user, types.get("user", "string")),
                example_item_id=_if_id(example_item, types.get("item", "string")),
            )
            return (snapshot, seen) if publication is not NOT_PUBLISHED or len(snapshot.items) else None

    @asynccontextmanager
    async def _connection(self, timeout_s: float) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        assert self._pool is not None, "open() comes first"  # noqa: S101 - a mistake of ours
        try:
            async with asyncio.timeout(timeout_s), self._pool.acquire() as connection:
                yield connection
        except AWAY as error:
            self.up = False
            raise DatabaseAwayError(in_words(error)) from error
        self.up = True


def postgres_dsn(url: str) -> str:
    """DATABASE_URL as asyncpg takes it; InputError where it is not of Postgres."""
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        raise InputError(f"DATABASE_URL begins with {scheme[:20]!r}; expected postgresql://user@host:5432/name")
    return "postgresql" + url[len(scheme) :]


async def _nothing_to_reset(_: Any) -> None:
    """Our statements leave no session state, so a connection needs no round trip before it is used again."""


async def _neighbours(
    connection: asyncpg.pool.PoolConnectionProxy, publication: Publication, former: Snapshot | None
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


async def _meaning(connection: asyncpg.pool.PoolConnectionProxy) -> EventMeaning:
    row = await connection.fetchrow(_MEANING_SQL)
    return EventMeaning(orjson.loads(row["event_weights"]), tuple(row["bought_event_types"])) if row else EventMeaning()


async def _publication(connection: asyncpg.pool.PoolConnectionProxy) -> Publication | None:
    row = await connection.fetchrow(_PUBLICATION_SQL)
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


async def _items(
    connection: asyncpg.pool.PoolConnectionProxy, json_type: JsonType, former: Snapshot | None
) -> ItemDictionary:
    if former is not None and former.items.json_type == json_type:
        return former.items
    return await item_rows.load(connection, json_type)


async def _categories(connection: asyncpg.pool.PoolConnectionProxy, json_type: JsonType) -> CategoryTree:
    rows = await connection.fetch(
        "select category_key, category_id, parent_category_key from categories where deleted_at is null"
    )
    ids = {row["category_key"]: row["category_id"] for row in rows}
    tree = CategoryTree(json_type, ids, {row["category_key"]: row["parent_category_key"] for row in rows})
    unreadable.tell("category", tree.unreadable)
    return tree


def _if_id(text: str | None, json_type: JsonType) -> str | None:
    return text if text is not None and is_id(text, json_type) else None


async def _example_user(connection: asyncpg.pool.PoolConnectionProxy, publication: Publication) -> str | None:
    """Somebody who has a list."""
    kind = "ranked" if "ranked" in publication.lists else "personal"
    return await connection.fetchval(_EXAMPLE_USER_SQL, publication.version_id(kind))


async def _example_item(
    connection: asyncpg.pool.PoolConnectionProxy, publication: Publication, popular: StoredList | None
) -> str | None:
    """An item that has neighbours, a popular one if there is one."""
    kind = "i2i" if "i2i" in publication.lists else "similar"
    popular_keys = list(popular.item_keys) if popular else []
    return await connection.fetchval(_EXAMPLE_ITEM_SQL, publication.version_id(kind), popular_keys)
