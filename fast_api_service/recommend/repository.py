"""What requests read from Postgres: one statement and one round trip, in time or not at all."""

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
Asked = tuple[str | None, str | None]  # the id of a user, and that of a session


class UserRow(NamedTuple):
    """Who somebody is, and what they did recently."""

    user_key: int | None  # None where the catalogue has no such user
    recent: Sequence[Recent] = ()  # of the user and the session, newest first


class Reads:
    """Connections that are held for requests, behind a circuit breaker.

    A query may take `limit_s`, one of many users `large_limit_s`, whoever asks; only that counts for the breaker. The
    `timeout_s` of a call ends that call's waiting, and nothing else.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        size: int,
        limit_s: float = 1.0,
        large_limit_s: float = 5.0,
    ) -> None:
        self._held, self._size = ReadPool(connect, size), size
        self._limit_s, self._large_limit_s = limit_s, large_limit_s
        self._large = asyncio.Semaphore(min(_N_LARGE, size))
        self._running: set[asyncio.Task[Any]] = set()
        self.breaker = Breaker()
        self._together = MicroBatcher(self._of_requests, _REQUESTS, n_running=_N_RUNNING)

    @property
    def pool_use(self) -> tuple[int, int]:
        """Connections that queries hold now, and open ones that wait for a query."""
        return self._held.n_in_use, self._held.n_idle

    async def close(self) -> None:
        """End the idle connections; those in use end with their queries."""
        for query in self._running:
            query.cancel()
        await self._held.close()

    async def warm(self) -> None:
        """Have a few connections open, and the statement ready on them, before the first request comes."""
        with suppress(*AWAY):  # then requests prepare it
            await self._held.prepare(USERS_SQL, ([], []), min(_N_WARM, self._size))

    async def user(self, user_id: str | None, session_id: str | None, timeout_s: float) -> UserRow:
        """Key and latest events of a user, of a session, or of both; DatabaseAwayError."""
        [row] = await self._of_few(((user_id, session_id),), timeout_s)
        return row

    async def users(self, asked: Sequence[Asked], timeout_s: float) -> Sequence[UserRow]:
        """The same of several, in their order; DatabaseAwayError.

        What requests of the same moment ask of a few is read together. Many are read some at a time, so that neither a
        connection nor the event loop is held up for long.
        """
        if len(asked) <= _A_FEW:
            return await self._of_few(asked, timeout_s)
        until = asyncio.get_running_loop().time() + timeout_s
        found: list[UserRow] = []
        for start in range(0, len(asked), _LARGE):
            self._check_breaker()
            found += await self._one_of_few(self._users(asked[start : start + _LARGE], self._large_limit_s), until)
        return found

    async def _of_few(self, asked: Sequence[Asked], timeout_s: float) -> Sequence[UserRow]:
        self._check_breaker()
        try:
            return await self._together.get(asked, timeout_s)
        except TimeoutError:
            raise DatabaseAwayError("Postgres did not answer in time") from None

    def _check_breaker(self) -> None:
        if not self.breaker.allows():
            raise DatabaseAwayError("Postgres failed a moment ago")

    async def _of_requests(self, asked: Sequence[Sequence[Asked]]) -> list[Sequence[UserRow]]:
        if len(asked) == 1:
            return [await self._users(asked[0], self._limit_s)]
        rows = iter(await self._users([one for some in asked for one in some], self._limit_s))
        return [[next(rows) for _ in some] for some in asked]

    async def _users(self, asked: Sequence[Asked], limit_s: float) -> list[UserRow]:
        users, sessions = zip(*asked, strict=True)
        rows = await self._rows(USERS_SQL, (users, sessions), limit_s)
        late: dict[int, list[Sequence[Recent]]] = {}
        if places := [place for place, row in enumerate(rows) if row[7] or row[8]]:
            late = await self._late([asked[place] for place in places], places, limit_s)
        return [UserRow(row[0], _latest(row, late.get(place, ()))) for place, row in enumerate(rows)]

    async def _late(
        self, asked: Sequence[Asked], places: Sequence[int], limit_s: float
    ) -> dict[int, list[Sequence[Recent]]]:
        """Place → what was bought of items that were in no catalogue when it was posted: the rows in user_recent
        cannot know of those, and say so. Then it is read from the log."""
        found = await self._rows(LATE_SQL, tuple(zip(*asked, strict=True)), limit_s)
        return {
            place: [events for at in (0, 3) if (events := _recent(row, at))]
            for place, row in zip(places, found, strict=True)
        }

    async def _one_of_few(self, query: Coroutine[Any, Any, Answer], until: float) -> Answer:
        """What a large query gives, of which a few run at a time; DatabaseAwayError at `until`, by the loop's clock,
        while the query goes on by itself."""
        try:
            async with asyncio.timeout_at(until):
                await self._large.acquire()
        except TimeoutError:
            query.close()
            raise DatabaseAwayError("others are reading many users; ask again soon") from None

        def ended(task: asyncio.Task[Answer]) -> None:
            self._running.discard(task)
            self._large.release()
            if not task.cancelled():
                task.exception()  # reported to who waits, if anybody still does

        task = asyncio.create_task(query)
        self._running.add(task)
        task.add_done_callback(ended)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        if not done:
            raise DatabaseAwayError("Postgres did not answer in time")
        return task.result()

    async def _rows(self, sql: str, arguments: tuple[Any, ...], limit_s: float) -> list[asyncpg.Record]:
        try:
            rows = await self._held.fetch(sql, arguments, limit_s)
        except NoneFreeError as error:
            raise DatabaseAwayError(str(error)) from None
        except AWAY as error:
            self.breaker.failed()
            raise DatabaseAwayError(in_words(error)) from error
        self.breaker.succeeded()
        return rows


_N_WARM: Final = 4  # connections that are open before the first request comes
_REQUESTS: Final = 32  # in a query
_N_RUNNING: Final = 2  # queries of those at a time, so that one is read while the other one runs
_N_LARGE: Final = 2  # queries of many users at a time; those of single ones have the other connections
_LARGE: Final = 100  # users in one of them
_A_FEW: Final = 50  # users of one request that are read together with those of others

# A row for each of the users $1 and the sessions $2, two arrays of ids of equal length, in their order: user_key, then
# three columns each of the user's latest events and the session's; then of both, whether what was bought has to be
# looked for in the log, too.
USERS_SQL: Final = """
    select u.user_key, a.item_keys, a.event_types, a.occurred_ms, b.item_keys, b.event_types, b.occurred_ms,
           a.has_unknown, b.has_unknown
    from unnest($1::text[], $2::text[]) with ordinality as asked (user_id, session_id, place)
    left join users u on u.user_id = asked.user_id
    left join user_recent a on a.owner = 'user:' || asked.user_id
    left join user_recent b on b.owner = 'session:' || asked.session_id
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


def _latest(row: asyncpg.Record, late: Sequence[Sequence[Recent]]) -> Sequence[Recent]:
    of_user, of_session = _recent(row, 1), _recent(row, 4)
    if late:
        return merged(*filter(None, (of_user, of_session)), *late)
    return merged(of_user, of_session) if of_user and of_session else of_user or of_session


def _recent(row: asyncpg.Record, at: int) -> Sequence[Recent]:
    keys = row[at]
    return Events(keys, row[at + 1], row[at + 2]) if keys else ()
