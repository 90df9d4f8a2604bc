"""Long work in a thread of its own, while the event loop keeps sending heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from recsys.errors import RecsysError

Answer = TypeVar("Answer")

BEAT_S: Final = 1.0
STUCK_S: Final = 1800.0  # without progress for so long, work is considered to hang and heartbeats end


class Worker:
    """A single thread, since networks keep thread-local state. `beat` is called each second while it works."""

    def __init__(self, beat: Callable[[], Awaitable[object]]) -> None:
        self._beat = beat
        self._thread = ThreadPoolExecutor(1, "updater")
        self._progress_at = 0.0

    async def do(self, work: Callable[..., Answer], *arguments: Any, **more: Any) -> Answer:
        """The result of `work`. A failed heartbeat is ignored: the next access to Postgres raises the error."""
        self.progress()
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments, **more))
        while not (await asyncio.wait({future}, timeout=BEAT_S))[0]:
            if time.monotonic() < self._progress_at + STUCK_S:
                with contextlib.suppress(RecsysError):
                    await self._beat()
        return future.result()

    def progress(self) -> None:
        """Report progress; called by the work."""
        self._progress_at = time.monotonic()
