"""LISTEN on Postgres: notifications wake the followers at once, instead of at their next poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import asyncpg

from recsys.events.connections import LOST, ended_after

log = logging.getLogger(__name__)
CHANNEL = "recsys_catalogue"  # notified by triggers
_CONNECT_S = 5.0
_RECONNECT_S = 1.0


async def listen(dsn: str, wakes: Mapping[str, Callable[[], None]]) -> None:
    """Call `wakes[channel]` for every notification on a channel, until cancelled.

    Reconnects after a lost connection. While there is none (a proxy or a standby may not support LISTEN), the
    followers' polling finds the changes.
    """
    is_polling = False
    while True:
        try:
            await _listen_once(dsn, wakes)
            log.info("the connection that listens for changes was lost; reconnecting")
        except (*LOST, asyncpg.PostgresError) as error:
            if not is_polling:
                log.warning("cannot listen for changes, polling instead: %s", type(error).__name__)
            is_polling = True
        else:
            is_polling = False
        await asyncio.sleep(_RECONNECT_S)


async def _listen_once(dsn: str, wakes: Mapping[str, Callable[[], None]]) -> None:
    """Listen until the connection is lost."""
    lost = asyncio.Event()
    connection = await asyncpg.connect(
        dsn, timeout=_CONNECT_S, server_settings={"application_name": "recsys-api-listener"}
    )
    try:
        connection.add_termination_listener(lambda _: lost.set())
        with ended_after(connection, _CONNECT_S):
            for channel, wake in wakes.items():
                await connection.add_listener(channel, lambda *_, wake=wake: wake())
                wake()  # notifications may have been missed
        await lost.wait()
    finally:
        connection.terminate()
