"""An ear on Postgres: changes of the catalogue wake the follower at once instead of at its next look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncpg

log = logging.getLogger(__name__)
CHANNEL = "recsys_catalogue"  # the triggers of migration 0003 tell it
_RECONNECT_S = 1.0


async def listen(dsn: str, wake: Callable[[], None]) -> None:
    """Call `wake` for every change that is told, until cancelled.

    A lost connection is made again. While there is none (a proxy or a standby may not let anybody listen), changes
    are found by the follower's regular look.
    """
    deaf = False
    while True:
        try:
            await _listen_once(dsn, wake)
            log.info("the connection that listens for changes was lost; connecting again")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not deaf:
                log.warning("changes of the catalogue are looked for, not heard of: %s", type(error).__name__)
            deaf = True
        else:
            deaf = False
        await asyncio.sleep(_RECONNECT_S)


async def _listen_once(dsn: str, wake: Callable[[], None]) -> None:
    """Until the connection is lost."""
    lost = asyncio.Event()
    connection = await asyncpg.connect(dsn, timeout=5, server_settings={"application_name": "recsys-api-listener"})
    try:
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(CHANNEL, lambda *_: wake())
        wake()  # what was told while nobody listened
        await lost.wait()
    finally:
        connection.terminate()
