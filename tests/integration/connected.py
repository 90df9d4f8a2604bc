"""Work on one connection to Postgres, as the processes beside the service do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from recsys.events.connections import Connections

Answer = TypeVar("Answer")


def run(url: str, work: Callable[[Connections], Awaitable[Answer]]) -> Answer:
    """Do it within a minute, and end the connection."""

    async def bounded() -> Answer:
        connections = Connections(url, "tests")
        try:
            return await asyncio.wait_for(work(connections), 60)
        finally:
            await connections.close()

    return asyncio.run(bounded())
