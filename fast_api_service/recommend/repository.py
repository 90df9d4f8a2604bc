"""The reads of requests from Postgres: one statement and one round trip, with a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from fast_api_service.batching import MicroBatcher
from fast_api_service.postgres.away import AWAY, DatabaseAwayError, in_words
from fast_api_service.postgres.read_pool import Breaker, NoneFreeError, ReadPool
from recsys.events.recent import N_BOUGHT
from recsys.serving.recent import Events, Recent, merged

Answer = TypeVar("Answer")
Keys = tuple[str | None, str | None]  # a user id, and a session id


class UserRow(NamedTuple):
    """A user's key and recent events."""

    user_key: int | None  # None for unknown users
    recent: Sequence[Recent] = ()  # of the user and the session, newest first


class Reads:
    """A connection pool for requests, behind a circuit breaker.

    A query may take `limit_s`, one of many users `large_limit_s`; only these timeouts count for the breaker. After the
    `timeout_s` of a call, the call stops waiting, but its query goes on.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        size: int,
        limit_s: float = 1.0,
        large_limit_s: float = 5.0,
    ) -> None:
        self._pool, self._size = ReadPool(connect, size), size
        self._limit_s, self._large_limit_s = limit_s, large_limit_s
        self._large = asyncio.Semaphore(min(_N_LARGE, size))
        self._running: set[asyncio.Task[Any]] = set()
        self.breaker = Breaker()
        self._batcher = MicroBatcher(self._read_batch, _REQUESTS, n_running=_N_RUNNING)

    @property
    def pool_use(self) -> tuple[int, int]:
        """Connections in use, and idle ones."""
        return self._pool.n_in_use, self._pool.n_idle

    async def close(self) -> None:
        """Close the idle connections; those in use are closed after their queries."""
        for query in self._running:
            query.cancel()
        await self._pool.close()

    async def warm(self) -> None:
        """Open a few connections and prepare the statement on them, before the first request."""
        with suppress(*AWAY):  # requests prepare it then
            await self._pool.prepare(USERS_SQL, ([], []), min(_N_WARM, self._size))

    async def user(self, user_id: str | None, session_id: str | None, timeout_s: float) -> UserRow:
        """Key and latest events of a user, of a session, or of both; DatabaseAwayError."""
        [row] = await self._read_few(((user_id, session_id),), timeout_s)
        return row

    async def users(self, keys: Sequence[Keys], timeout_s: float) -> Sequence[UserRow]:
        """The same of several, in their order; DatabaseAwayError.

        Concurrent reads of a few users are batched into one query. Many users are read in chunks, so that neither a
        connection nor the event loop is blocked for long.
        """
        if len(keys) <= _A_FEW:
            return await self._read_few(keys, timeout_s)
        until = asyncio.get_running_loop().time() + timeout_s
        found: list[UserRow] = []
        for start in range(0, len(keys), _LARGE):
            self._check_breaker()
            found += await self._run_large(self._users(keys[start : start + _LARGE], self._large_limit_s), until)
        return found

    async def _read_few(self, keys: Sequence[Keys], timeout_s: float) -> Sequence[UserRow]:
        self._check_breaker()
        try:
            return await self._batcher.get(keys, timeout_s)
        except TimeoutError:
            raise DatabaseAwayError("Postgres did not answer in time") from None

    def _check_breaker(self) -> None:
        if not self.breaker.allows():
            raise DatabaseAwayError("Postgres failed a moment ago")

    async def _read_batch(self, requests: Sequence[Sequence[Keys]]) -> list[Sequence[UserRow]]:
        if len(requests) == 1:
            return [await self._users(requests[0], self._limit_s)]
        rows = iter(await self._users([one for keys in requests for one in keys], self._limit_s))
        return [[next(rows) for _ in keys] for keys in requests]

    async def _users(self, keys: Sequence[Keys], limit_s: float) -> list[UserRow]:
        users, sessions = zip(*keys, strict=True)
        rows = await self._rows(USERS_SQL, (users, sessions), limit_s)
        late: dict[int, list[Sequence[Recent]]] = {}
        if places := [place for place, row in enumerate(rows) if row[7] or row[8]]:
            late = await self._late([keys[place] for place in places], places, limit_s)
        return [UserRow(row[0], _latest(row, late.get(place, ()))) for place, row in enumerate(rows)]

    async def _late(
        self, keys: Sequence[Keys], places: Sequence[int], limit_s: float
    ) -> dict[int, list[Sequence[Recent]]]:
        """Place → purchases of items that were in no catalogue when posted. Rows of user_recent lack these, and have
        `has_unknown` set; so they are read from the log."""
        found = await self._rows(LATE_SQL, tuple(zip(*keys, strict=True)), limit_s)
        return {
            place: [events for at in (0, 3) if (events := _recent(row, at))]
            for place, row in zip(places, found, strict=True)
        }

    async def _run_large(self, query: Coroutine[Any, Any, Answer], until: float) -> Answer:
        """The result of a large query, of which few run at a time; DatabaseAwayError at `until`, in the loop's time,
        while the query goes on."""
        try:
            async with asyncio.timeout_at(until):
                await self._large.acquire()
        except TimeoutError:
            query.close()
            raise DatabaseAwayError("too many large reads are running; retry soon") from None

        def ended(task: asyncio.Task[Answer]) -> None:
            self._running.discard(task)
            self._large.release()
            if not task.cancelled():
                task.exception()  # mark as retrieved: the caller may have stopped waiting

        task = asyncio.create_task(query)
        self._running.add(task)
        task.add_done_callback(ended)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        if not done:
            raise DatabaseAwayError("Postgres did not answer in time")
        return task.result()

    async def _rows(self, sql: str, arguments: tuple[Any, ...], limit_s: float) -> list[asyncpg.Record]:
        try:
            rows = await self._pool.fetch(sql, arguments, limit_s)
        except NoneFreeError as error:
            raise DatabaseAwayError(str(error)) from None
        except AWAY as error:
            self.breaker.failed()
            raise DatabaseAwayError(in_words(error)) from error
        self.breaker.succeeded()
        return rows


_N_WARM: Final = 4  # connections opened before the first request
_REQUESTS: Final = 32  # in one query
_N_RUNNING: Final = 2  # such queries at a time: the rows of one are decoded while the other runs
_N_LARGE: Final = 2  # queries of many users at a time; the other connections are for small ones
_LARGE: Final = 100  # users in a large query
_A_FEW: Final = 50  # most users of a request that is batched with others

# One row per pair of the user ids $1 and the session ids $2, arrays of equal length, in their order: user_key, then
# three columns of the user's recent events and three of the session's; then for each, whether purchases have to be
# read from the log, too.
USERS_SQL: Final = """
    select u.user_key, a.item_keys, a.event_types, a.occurred_ms, b.item_keys, b.event_types, b.occurred_ms,
           a.has_unknown, b.has_unknown
    from unnest($1::text[], $2::text[]) with ordinality as requested (user_id, session_id, place)
    left join users u on u.user_id = requested.user_id
    left join user_recent a on a.owner = 'user:' || requested.user_id
    left join user_recent b on b.owner = 'session:' || requested.session_id
    order by requested.place
"""


def _late_columns(of: str, column: str) -> str:
    """Three columns of purchases, from the log; null for rows without unknown items."""
    columns = ("i.item_key", "e.event_type", "floor(extract(epoch from e.occurred_at) * 1000)::bigint")
    return ", ".join(
        f"""case when {of}.has_unknown then array(
            select {value} from events e join items i on i.item_id = e.item_id
            where e.{column} = requested.{column} and e.event_type = any({of}.bought_types)
            order by e.occurred_at desc, e.event_id limit {N_BOUGHT}
        ) end"""  # noqa: S608 - constants
        for value in columns
    )


# Separate from the usual query, because its plan takes longer to set up, even if it finds nothing.
LATE_SQL: Final = f"""
    select {_late_columns("a", "user_id")}, {_late_columns("b", "session_id")}
    from unnest($1::text[], $2::text[]) with ordinality as requested (user_id, session_id, place)
    left join user_recent a on a.owner = 'user:' || requested.user_id
    left join user_recent b on b.owner = 'session:' || requested.session_id
    order by requested.place
"""  # noqa: S608 - constants


def _latest(row: asyncpg.Record, late: Sequence[Sequence[Recent]]) -> Sequence[Recent]:
    of_user, of_session = _recent(row, 1), _recent(row, 4)
    if late:
        return merged(*filter(None, (of_user, of_session)), *late)
    return merged(of_user, of_session) if of_user and of_session else of_user or of_session


def _recent(row: asyncpg.Record, at: int) -> Sequence[Recent]:
    keys = row[at]
    return Events(keys, row[at + 1], row[at + 2]) if keys else ()
