"""Work that takes time, in a thread of its own, while the event loop goes on telling that the process is alive."""

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
STUCK_S: Final = 1800.0  # work that shows no progress for so long is taken to hang


class Worker:
    """One thread, always the same: networks keep things by thread. `beat` is called each second while it works."""

    def __init__(self, beat: Callable[[], Awaitable[object]]) -> None:
        self._beat = beat
        self._thread = ThreadPoolExecutor(1, "updater")
        self._progress_at = 0.0

    async def do(self, work: Callable[..., Answer], *arguments: Any, **more: Any) -> Answer:
        """What `work` gives. Where a beat fails, the next thing that is done finds out why."""
        self.progress()
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments, **more))
        while not (await asyncio.wait({future}, timeout=BEAT_S))[0]:
            if time.monotonic() < self._progress_at + STUCK_S:
                with contextlib.suppress(RecsysError):
                    await self._beat()
        return future.result()

    def progress(self) -> None:
        """Called by work that goes on."""
        self._progress_at = time.monotonic()
