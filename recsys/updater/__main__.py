"""`python -m recsys.updater`: the process that learns from events (`process`).

`recsys updater` starts and supervises it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

from recsys import log as logs
from recsys import settings as settings_module
from recsys.errors import InputError, RecsysError
from recsys.events.connections import Connections
from recsys.events.opening import open_log
from recsys.settings import Settings
from recsys.storage.engine import database_url
from recsys.updater.process import Updater
from recsys.updater.store import LEASE_LOST_STATUS, LeaseLostError

log = logging.getLogger(__name__)


async def run(settings: Settings, holder: str) -> None:
    """Work until SIGTERM or SIGINT, or until the training is stopped through the API."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connections = Connections(database_url(settings), "recsys-updater")
    event_log = open_log(settings, connections, "recsys-trainer")
    try:
        await Updater(settings, connections, event_log, holder).work(stop)
    finally:
        await event_log.close()
        await connections.close()


def main() -> None:
    """Entry point. Exit status: 0 stopped, 1 error, 2 invalid input, 3 lease lost to another updater."""
    try:
        logs.setup()
        holder = f"{socket.gethostname()}:{os.getpid()}"
        asyncio.run(run(settings_module.load(), holder))
    except LeaseLostError as error:
        log.error("%s", error)
        raise SystemExit(LEASE_LOST_STATUS) from None
    except RecsysError as error:
        log.error("%s", error)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None


if __name__ == "__main__":
    main()
