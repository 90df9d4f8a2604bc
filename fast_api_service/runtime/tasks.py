"""Supervised background tasks: each is restarted after any failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fast_api_service.metrics import Metrics

log = logging.getLogger(__name__)
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
END_S: Final = 3.0
CALM_S: Final = 60.0  # uptime that resets the backoff


class Tasks:
    """Starts tasks and restarts them after failures, with backoff and a counter."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` until it is cancelled or returns, and restart it after failures."""
        self._metrics.task_restarts.labels(name)
        self._tasks.append(asyncio.create_task(self._keep(name, work), name=name))

    async def end(self) -> None:
        """Cancel all and wait briefly for their ends; a hanging task ends with its connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, hanging = await asyncio.wait(self._tasks, timeout=END_S)
            for task in hanging:
                log.warning("the task %s does not end and is abandoned", task.get_name())
        self._tasks.clear()

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        pause_s = FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                await work()
                return
            except asyncio.CancelledError:
                if task is None or task.cancelling():
                    raise
                log.exception("the task %s was cancelled from within; restarting it", name)
            except Exception:
                if task is None or task.cancelling():
                    log.exception("the task %s failed while being cancelled", name)
                    return
                log.exception("the task %s failed; restarting it", name)
            self._metrics.task_restarts.labels(name).inc()
            if loop.time() - began > CALM_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
