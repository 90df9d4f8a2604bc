"""`python -m tests.integration.dying_updater POINT N`: the updater, ended by SIGKILL when it is at a point for the N-th
time.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from recsys.online import training_state, updater
from recsys.online.kafka_log import KafkaLog
from recsys.online.postgres_log import PostgresLog
from recsys.online.trainer import Trainer
from recsys.serving.update import Update
from recsys.settings import Settings

LOG = KafkaLog if Settings().kafka_bootstrap_servers else PostgresLog

# point → what is called there, and whether it dies before or after the call
POINTS: dict[str, tuple[Any, str, str]] = {
    "events are read": (LOG, "read", "after"),
    "keys are read": (Trainer, "learn", "before"),
    "a portion is learned": (Trainer, "_step", "after"),
    "all is learned": (Trainer, "learn", "after"),
    "half of the artifact is written": (Update, "write", "after"),
    "the artifact is not yet in place": (Trainer, "write", "after"),
    "a base is restored": (Trainer, "restore", "after"),
    "an update is followed": (Trainer, "follow", "after"),
    "the artifact is in place": (training_state, "commit", "before"),
    "the row is written and not committed": (training_state, "commit", "after"),
    "the row is committed": (Trainer, "committed", "before"),
    "all is committed": (Trainer, "committed", "after"),
}


def die_at(point: str, n: int) -> None:
    """Put the end where it is asked for."""
    owner, name, when = POINTS[point]
    real, calls = getattr(owner, name), 0

    def count(moment: str) -> None:
        nonlocal calls
        if moment == when:
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, _asynchronous(real, count) if inspect.iscoroutinefunction(real) else _plain(real, count))


def _plain(real: Callable[..., Any], count: Callable[[str], None]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        count("before")
        result = real(*arguments, **named)
        count("after")
        return result

    return call


def _asynchronous(real: Callable[..., Any], count: Callable[[str], None]) -> Callable[..., Any]:
    async def call(*arguments: Any, **named: Any) -> Any:
        count("before")
        result = await real(*arguments, **named)
        count("after")
        return result

    return call


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]))
    updater.main()
