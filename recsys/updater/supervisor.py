"""`recsys updater`: starts the updater when one is wanted, kills it when it hangs, restarts it with backoff.

It imports no TensorFlow and is stateless: all state is in Postgres, and it may be killed at any time. An
updater whose supervisor is gone stops by itself.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from typing import Final

from recsys.events.connections import Connections
from recsys.events.log import LogAwayError
from recsys.settings import Settings
from recsys.storage.engine import database_url
from recsys.updater.store import LEASE_LOST_STATUS, TrainingState, TrainingStore

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_STALE_S: Final = 3.0  # how long a heartbeat must stay stale: just after an outage of Postgres all of them are
_END_S: Final = 30.0  # to commit what was read and end; then it is killed
_STEADY_S: Final = 300.0  # uptime that resets the count of consecutive failures
_MAX_PAUSE_S: Final = 60.0
_MAX_LINES: Final = 5_000  # of logs that wait for Postgres; the oldest are dropped


class _Lines(logging.Handler):
    """Buffers the log lines of this process for the log in Postgres."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: collections.deque[tuple[str, str]] = collections.deque(maxlen=_MAX_LINES)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(("supervisor", self.format(record)))


class Supervisor:
    """Supervises one updater process."""

    def __init__(self, connections: Connections) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._training = TrainingStore(connections)
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._started_at = self._start_at = float("-inf")
        self._stale_since: float | None = None
        self._terminated_at: float | None = None
        self._cause = ""  # why we killed it
        self._last_line = ""  # of the updater's output
        self.lines = _Lines()

    async def work(self, stop: asyncio.Event) -> None:
        """Supervise until stopped; then the updater commits and ends, too."""
        away = False
        while not stop.is_set():
            try:
                await self._look()
                away = False
            except LogAwayError as error:
                if not away:
                    log.warning("%s; retrying", error)
                away = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S)
        await self._end()

    async def _look(self) -> None:
        now = await self._training.state()
        await self._training.attend(self.name, self._holder())
        if self._child is not None and self._child.returncode is not None:
            await self._reap(self._child)
        elif self._child is not None:
            await self._watch(self._child, now)
        elif self._may_start(now):
            await self._start()
        await self._flush()

    def _may_start(self, training: TrainingState) -> bool:
        is_wanted = training.wanted == "running" and training.restarts <= training.max_restarts
        return is_wanted and time.monotonic() >= self._start_at

    def _holder(self) -> str:
        return f"{socket.gethostname()}:{self._child.pid}" if self._child else ""

    async def _start(self) -> None:
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "recsys.updater",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read(self._child))
        self._started_at, self._stale_since, self._terminated_at, self._cause = time.monotonic(), None, None, ""
        self._last_line = ""
        log.info("started updater %d", self._child.pid)

    async def _watch(self, child: asyncio.subprocess.Process, training: TrainingState) -> None:
        """Terminate the updater if it is not wanted, kill it if it hangs."""
        now = time.monotonic()
        if training.wanted != "running" and self._terminated_at is None:
            self._terminated_at = now
            child.terminate()
        if self._terminated_at is not None and now > self._terminated_at + _END_S:
            self._kill(child, f"did not end within {_END_S:.0f} s")
        is_holder, age_s = training.holder == self._holder(), training.heartbeat_age_s or 0.0
        if not is_holder or age_s <= training.watchdog_s:
            self._stale_since = None
        elif self._stale_since is None:
            self._stale_since = now
        elif now > self._stale_since + _STALE_S:
            self._kill(child, f"hangs: no heartbeat for {age_s:.0f} s")
        if training.restarts and is_holder and now > self._started_at + _STEADY_S:
            await self._training.forget_failures()

    def _kill(self, child: asyncio.subprocess.Process, cause: str) -> None:
        if not self._cause:
            log.error("updater %d %s; killed", child.pid, cause)
            self._cause = cause
            with contextlib.suppress(ProcessLookupError):
                child.kill()

    async def _reap(self, child: asyncio.subprocess.Process) -> None:
        """Release the lease of an updater that has ended, and decide whether and when to restart it."""
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=2)
        code, wanted_end = child.returncode, self._terminated_at is not None
        is_failure = code not in (0, LEASE_LOST_STATUS) and not wanted_end
        cause = self._cause or (f"ended by signal {-code}" if code and code < 0 else f"ended with status {code}")
        reason = f"the updater {cause}" + (
            f": {self._last_line[:500]}" if is_failure and self._last_line and not self._cause else ""
        )
        await self._training.free(self._holder(), "failed" if is_failure else "stopped", reason)
        self._child = None
        if not is_failure:
            log.info("updater %d ended with status %s", child.pid, code)
            self._start_at = time.monotonic() + 1.0
            return
        training = await self._training.count_failure()
        if training.restarts > training.max_restarts:
            text = (
                f"{reason}; given up after {training.max_restarts} restarts: fix it, then POST /online/training/start"
            )
            await self._training.give_up(text)
            log.error("%s", text)
            return
        pause_s = min(training.backoff_s * 2 ** (training.restarts - 1), _MAX_PAUSE_S)
        log.error("%s; restart %d in %.1f s", reason, training.restarts, pause_s)
        self._start_at = time.monotonic() + pause_s

    async def _end(self) -> None:
        """Terminate the updater, wait for it and unregister."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), _END_S)
            except TimeoutError:
                self._child.kill()
                await self._child.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=2)
        with contextlib.suppress(LogAwayError):
            await self._training.leave(self.name)
            await self._flush()

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        """Copy the updater's output to our own standard error and to the log in Postgres."""
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        rest = b""
        while chunk := await child.stdout.read(65_536):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
            *lines, rest = (rest + chunk).split(b"\n")
            self._take(lines)
            rest = rest[-65_536:]
        self._take([rest])

    def _take(self, lines: list[bytes]) -> None:
        texts = [_text(line) for line in lines if line.strip()]
        self.lines.waiting.extend(("updater", text) for text in texts)
        if texts:
            self._last_line = texts[-1].strip()  # of a traceback: the error

    async def _flush(self) -> None:
        """Write the buffered lines to Postgres."""
        waiting = list(self.lines.waiting)
        if waiting:
            await self._training.write_log(waiting)
        for _ in waiting:
            self.lines.waiting.popleft()


def _text(line: bytes) -> str:
    return line.decode(errors="replace").replace("\0", " ")[:4000]


def supervise(settings: Settings) -> None:
    """Supervise an updater until SIGTERM or SIGINT."""

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        connections = Connections(database_url(settings), "recsys-supervisor")
        supervisor = Supervisor(connections)
        logging.getLogger("recsys").addHandler(supervisor.lines)
        try:
            await supervisor.work(stop)
        finally:
            logging.getLogger("recsys").removeHandler(supervisor.lines)
            await connections.close()

    asyncio.run(run())
