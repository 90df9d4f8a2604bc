"""An ear on Postgres: who follows something there is woken by a change at once, instead of at its next look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import asyncpg

from recsys.events.connections import LOST, ended_after

log = logging.getLogger(__name__)
CHANNEL = "recsys_catalogue"  # the triggers of migration 0003 tell it
_CONNECT_S = 5.0
_RECONNECT_S = 1.0


async def listen(dsn: str, wakes: Mapping[str, Callable[[], None]]) -> None:
    """For every change that is told on a channel, call what `wakes` names for it, until cancelled.

    A lost connection is made again. While there is none (a proxy or a standby may not let anybody listen), changes
    are found by the followers' regular looks.
    """
    deaf = False
    while True:
        try:
            await _listen_once(dsn, wakes)
            log.info("the connection that listens for changes was lost; connecting again")
        except (*LOST, asyncpg.PostgresError) as error:
            if not deaf:
                log.warning("changes are looked for, not heard of: %s", type(error).__name__)
            deaf = True
        else:
            deaf = False
        await asyncio.sleep(_RECONNECT_S)


async def _listen_once(dsn: str, wakes: Mapping[str, Callable[[], None]]) -> None:
    """Until the connection is lost."""
    lost = asyncio.Event()
    connection = await asyncpg.connect(
        dsn, timeout=_CONNECT_S, server_settings={"application_name": "recsys-api-listener"}
    )
    try:
        connection.add_termination_listener(lambda _: lost.set())
        with ended_after(connection, _CONNECT_S):
            for channel, wake in wakes.items():
                await connection.add_listener(channel, lambda *_, wake=wake: wake())
                wake()  # what was told while nobody listened
        await lost.wait()
    finally:
        connection.terminate()
