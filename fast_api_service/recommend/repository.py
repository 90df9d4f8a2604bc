"""What requests read from Postgres: each one statement and one round trip, in time or not at all.

Statements name the partitions of the publication that the caller holds, so that an answer never mixes two and
Postgres need not look for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from fast_api_service.postgres.breaker import Breaker
from fast_api_service.postgres.coalesce import Coalescer
from fast_api_service.postgres.read_pool import HeldConnections, NoneFreeError
from recsys.events.connections import LOST
from recsys.events.recent import N_BOUGHT
from recsys.serving.recent import Events, History, Recent, merged
from recsys.serving.snapshot import Publication, StoredList
from recsys.storage.list_format import partition_name

Answer = TypeVar("Answer")

USER_LISTS, ITEM_LISTS, EVENTS = SOURCES = ("user_lists", "item_lists", "events")  # each with a breaker of its own
NO_TABLES = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
AWAY = (*LOST, asyncpg.PostgresError)


class DatabaseAwayError(Exception):
    """Postgres did not answer, or not in time."""


class UserLists(NamedTuple):
    """What is stored of one who asks."""

    known: bool  # the user is in the catalogue of users
    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # of the user and the session, newest first
    history: History | None = None  # of the user, before the night
    user_key: int | None = None


class UserEvents(NamedTuple):
    """Who a user is, and what they did recently."""

    user_key: int | None  # None where the catalogue has no such user
    recent: Sequence[Recent] = ()  # newest first


class ItemLists(NamedTuple):
    """The neighbours of an item."""

    i2i: StoredList | None
    similar: StoredList | None


class Reads:
    """Connections that are held for requests, with a circuit breaker for each kind of statement.

    A query may take `limit_s`, one of many users `large_limit_s`, whoever asks; only that counts for the breakers. The
    `timeout_s` of a call ends that call's waiting, and nothing else.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        size: int,
        limit_s: float = 1.0,
        large_limit_s: float = 5.0,
    ) -> None:
        self._held, self._size = HeldConnections(connect, size), size
        self._limit_s, self._large_limit_s = limit_s, large_limit_s
        self._large = asyncio.Semaphore(min(_N_LARGE, size))
        self._running: set[asyncio.Task[Any]] = set()
        self.breakers = {source: Breaker() for source in SOURCES}
        self._coalescers: dict[int, Coalescer] = {}  # by publication
        self._events_together = Coalescer(self._events)

    @property
    def pool_use(self) -> tuple[int, int]:
        """Connections that queries hold now, and open ones that wait for a query."""
        return self._held.n_in_use, self._held.n_idle

    async def close(self) -> None:
        """End the idle connections; those in use end with their queries."""
        for query in self._running:
            query.cancel()
        await self._held.close()

    async def warm(self, publication: Publication) -> None:
        """Have the statement of most requests ready for a publication on every connection that is idle, and on a few
        before the first request comes."""
        with suppress(*AWAY):  # then requests prepare it
            await self._held.prepare(users_sql(*_versions(publication)), ([], []), min(_N_WARM, self._size))

    async def user(
        self, user_id: str | None, session_id: str | None, publication: Publication, timeout_s: float
    ) -> UserLists:
        """Lists and latest events of a user, of a session, or of both; DatabaseAwayError.

        Users who are asked for at the same moment are read together.
        """
        if not self.breakers[USER_LISTS].allows():
            raise DatabaseAwayError(_A_MOMENT_AGO)
        try:
            lists: UserLists = await self._together(publication).get((user_id, session_id), timeout_s)
        except TimeoutError:
            raise DatabaseAwayError("Postgres did not answer in time") from None
        return lists

    async def users(self, user_ids: Sequence[str], publication: Publication, timeout_s: float) -> list[UserLists]:
        """The same of many users, in their order; DatabaseAwayError.

        They are read some at a time, so that neither a connection nor the event loop is held up for long.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        found: list[UserLists] = []
        for start in range(0, len(user_ids), _LARGE):
            some = [(user_id, None) for user_id in user_ids[start : start + _LARGE]]
            if not self.breakers[USER_LISTS].allows():
                raise DatabaseAwayError(_A_MOMENT_AGO)
            found += await self._one_of_few(self._users(some, publication, self._large_limit_s), until)
        return found

    def _together(self, publication: Publication) -> Coalescer:
        """What reads users of a publication together; those of former ones go when nothing is under way there."""
        found = self._coalescers.get(publication.publication_id)
        if found is None:
            self._coalescers = {of: one for of, one in self._coalescers.items() if not one.is_idle}

            async def fetch(asked: Sequence[tuple[str | None, str | None]]) -> list[UserLists]:
                return await self._users(asked, publication, self._limit_s)

            found = self._coalescers[publication.publication_id] = Coalescer(fetch)
        return found

    async def _users(
        self, asked: Sequence[tuple[str | None, str | None]], publication: Publication, limit_s: float
    ) -> list[UserLists]:
        arguments = tuple(zip(*asked, strict=True))
        rows = await self._rows(USER_LISTS, users_sql(*_versions(publication)), arguments, limit_s)
        late = await self._late(asked, rows, limit_s)
        return [_user_lists(row, publication, late.get(place, ())) for place, row in enumerate(rows)]

    async def _late(
        self, asked: Sequence[tuple[str | None, str | None]], rows: Sequence[asyncpg.Record], limit_s: float
    ) -> dict[int, Sequence[Sequence[Recent]]]:
        """Place in `asked` → what was bought of items that were in no catalogue when it was posted: the rows in
        user_recent cannot know of those, and say so. Then it is read from the log."""
        places = [place for place, row in enumerate(rows) if row[16] or row[17]]
        if not places:
            return {}
        users, sessions = ([asked[place][which] for place in places] for which in (0, 1))
        found = await self._rows(USER_LISTS, LATE_SQL, (users, sessions), limit_s)
        return {
            place: [events for at in (0, 3) if (events := _recent(row, at))]
            for place, row in zip(places, found, strict=True)
        }

    async def events(self, user_ids: Sequence[str], timeout_s: float) -> Sequence[UserEvents]:
        """Keys and latest events of users, in their order; DatabaseAwayError.

        Requests of the same moment for a few users are read together.
        """
        if not self.breakers[EVENTS].allows():
            raise DatabaseAwayError(_A_MOMENT_AGO)
        if len(user_ids) > _A_FEW:
            until = asyncio.get_running_loop().time() + timeout_s
            [found] = await self._one_of_few(self._events([user_ids], self._large_limit_s), until)
            return found
        try:
            together: Sequence[UserEvents] = await self._events_together.get(user_ids, timeout_s)
        except TimeoutError:
            raise DatabaseAwayError("Postgres did not answer in time") from None
        return together

    async def _events(self, asked: Sequence[Sequence[str]], limit_s: float | None = None) -> list[list[UserEvents]]:
        every_id = [user_id for user_ids in asked for user_id in user_ids]
        rows = await self._rows(EVENTS, EVENTS_SQL, (every_id,), limit_s or self._limit_s)
        found = (UserEvents(row[0], _recent(row, 1)) for row in rows)
        return [list(islice(found, len(user_ids))) for user_ids in asked]

    async def item(self, item_key: int, publication: Publication, timeout_s: float) -> ItemLists:
        """i2i and similar list of an item; DatabaseAwayError."""
        sql = item_sql(publication.version_id("i2i"), publication.version_id("similar"))
        if not self.breakers[ITEM_LISTS].allows():
            raise DatabaseAwayError(_A_MOMENT_AGO)
        query = self._rows(ITEM_LISTS, sql, (item_key,), self._limit_s, wait_s=timeout_s)
        [row] = await self._waited_for(query, asyncio.get_running_loop().time() + timeout_s)
        return ItemLists(_stored(row, 0), _stored(row, 3))

    async def _one_of_few(self, query: Coroutine[Any, Any, Answer], until: float) -> Answer:
        """What a large query gives, of which a few run at a time; see _waited_for."""
        try:
            async with asyncio.timeout_at(until):
                await self._large.acquire()
        except TimeoutError:
            query.close()
            raise DatabaseAwayError("others are reading many users; ask again soon") from None
        return await self._waited_for(query, until, self._large.release)

    async def _waited_for(
        self, query: Coroutine[Any, Any, Answer], until: float, at_its_end: Callable[[], None] | None = None
    ) -> Answer:
        """What `query` gives; DatabaseAwayError at `until`, by the loop's clock, while the query goes on by itself."""

        def ended(task: asyncio.Task[Answer]) -> None:
            self._running.discard(task)
            if at_its_end is not None:
                at_its_end()
            if not task.cancelled():
                task.exception()  # is told to who waits, if anybody still does

        task = asyncio.create_task(query)
        self._running.add(task)
        task.add_done_callback(ended)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        if not done:
            raise DatabaseAwayError("Postgres did not answer in time")
        return task.result()

    async def _rows(
        self, source: str, sql: str, arguments: tuple[Any, ...], limit_s: float, wait_s: float | None = None
    ) -> list[asyncpg.Record]:
        breaker = self.breakers[source]
        try:
            rows = await self._held.fetch(sql, arguments, limit_s, wait_s)
        except NoneFreeError as error:
            raise DatabaseAwayError(str(error)) from None
        except AWAY as error:
            breaker.failed()
            raise DatabaseAwayError(in_words(error)) from error
        breaker.succeeded()
        return rows


def in_words(error: Exception) -> str:
    """What went wrong, and for tables of another version what to do."""
    hint = "; the database is older than this service: run `recsys migrate`" if isinstance(error, NO_TABLES) else ""
    return f"{type(error).__name__}: {error}{hint}"


def _versions(publication: Publication) -> tuple[int | None, int | None, int | None]:
    return publication.version_id("ranked"), publication.version_id("personal"), publication.version_id("history")


_N_WARM: Final = 4  # connections that are open before the first request comes
_N_LARGE: Final = 2  # queries of many users at a time; those of single ones have the other connections
_LARGE: Final = 100  # users in one of them
_A_FEW: Final = 50  # users of one request that are read together with those of others
_A_MOMENT_AGO: Final = "Postgres failed a moment ago"
_NO_LIST: Final = "null::int[], null::real[], null::smallint[]"


@lru_cache(maxsize=16)
def users_sql(ranked: int | None, personal: int | None, history: int | None) -> str:
    """A row for each of the users $1 and the sessions $2, two arrays of ids of equal length, in their order:
    user_key, then three columns each of the ranked list, the personal list, the history, the user's latest events and
    the session's; then of both, whether what was bought has to be looked for in the log, too."""
    return f"""
        select u.user_key, {_columns("r", ranked)}, {_columns("s", personal)}, {_columns("h", history)},
               {_events("a")}, {_events("b")}, a.has_unknown, b.has_unknown
        from unnest($1::text[], $2::text[]) with ordinality as asked (user_id, session_id, place)
        left join users u on u.user_id = asked.user_id
        {_join("r", ranked, "u.user_key")} {_join("s", personal, "u.user_key")} {_join("h", history, "u.user_key")}
        left join user_recent a on a.owner = 'user:' || asked.user_id
        left join user_recent b on b.owner = 'session:' || asked.session_id
        order by asked.place
    """  # noqa: S608 - numbers of ours


EVENTS_SQL: Final = """
    select u.user_key, a.item_keys, a.event_types, a.occurred_ms
    from unnest($1::text[]) with ordinality as asked (id, place)
    left join users u on u.user_id = asked.id
    left join user_recent a on a.owner = 'user:' || asked.id
    order by asked.place
"""


def _late_columns(of: str, column: str) -> str:
    """Three columns of what was bought, from the log; a row that knows all of its items does not look there."""
    columns = ("i.item_key", "e.event_type", "floor(extract(epoch from e.occurred_at) * 1000)::bigint")
    return ", ".join(
        f"""case when {of}.has_unknown then array(
            select {value} from events e join items i on i.item_id = e.item_id
            where e.{column} = asked.{column} and e.event_type = any({of}.bought_types)
            order by e.occurred_at desc, e.event_id limit {N_BOUGHT}
        ) end"""  # noqa: S608 - our own words
        for value in columns
    )


# Apart from the query of most requests: even where nothing is to be found, its plan takes longer to set up.
LATE_SQL: Final = f"""
    select {_late_columns("a", "user_id")}, {_late_columns("b", "session_id")}
    from unnest($1::text[], $2::text[]) with ordinality as asked (user_id, session_id, place)
    left join user_recent a on a.owner = 'user:' || asked.user_id
    left join user_recent b on b.owner = 'session:' || asked.session_id
    order by asked.place
"""  # noqa: S608 - our own words


@lru_cache(maxsize=16)
def item_sql(i2i: int | None, similar: int | None) -> str:
    """One row: three columns each of the i2i and the similar list of the item with the key $1."""
    return f"""
        select {_columns("r", i2i)}, {_columns("s", similar)}
        from (select $1::int as key) asked {_join("r", i2i, "asked.key")} {_join("s", similar, "asked.key")}
    """  # noqa: S608 - numbers of ours


def _columns(name: str, version_id: int | None) -> str:
    return f"{name}.item_keys, {name}.scores, {name}.sources" if version_id is not None else _NO_LIST


def _join(name: str, version_id: int | None, owner: str) -> str:
    if version_id is None:
        return ""
    table = partition_name(int(version_id))
    return f"left join {table} {name} on {name}.list_version_id = {int(version_id)} and {name}.owner_key = {owner}"


def _events(name: str) -> str:
    return f"{name}.item_keys, {name}.event_types, {name}.occurred_ms"


def _user_lists(row: asyncpg.Record, publication: Publication, late: Sequence[Sequence[Recent]]) -> UserLists:
    latest, history = _latest(row, late), _history(row, publication)
    return UserLists(row[0] is not None, _stored(row, 1), _stored(row, 4), latest, history, row[0])


def _history(row: asyncpg.Record, publication: Publication) -> History | None:
    keys = row[7]
    return None if keys is None else History(keys, row[8], row[9], publication.lists["history"].sources)


def _stored(row: asyncpg.Record, at: int) -> StoredList | None:
    keys = row[at]
    return None if keys is None else StoredList(keys, row[at + 1], row[at + 2])


def _latest(row: asyncpg.Record, late: Sequence[Sequence[Recent]]) -> Sequence[Recent]:
    of_user, of_session = _recent(row, 10), _recent(row, 13)
    if late:
        return merged(*filter(None, (of_user, of_session)), *late)
    return merged(of_user, of_session) if of_user and of_session else of_user or of_session


def _recent(row: asyncpg.Record, at: int) -> Sequence[Recent]:
    keys = row[at]
    return Events(keys, row[at + 1], row[at + 2]) if keys else ()
