"""What the updater has made of the model since the night, taken over in place within seconds of its commit."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from fast_api_service.errors import ApiError
from fast_api_service.metrics import Metrics
from fast_api_service.models import LoadedModel, Models
from recsys.errors import ArtifactError, InputError, RecsysError
from recsys.online import training_state
from recsys.online.connections import Connections
from recsys.online.log import START, EventLog, LogAwayError
from recsys.online.training_state import UpdateRow
from recsys.serving.update import KIND, WEIGHTS, Update, chained, checksum_of, number_of

log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0  # when nothing is heard
_RETRY_S: Final = 5.0  # after updates that could not be taken over
_WATCH_S: Final = 10.0
_AT_ONCE: Final = 64  # updates that are read before they are applied


@dataclass
class Applied:
    """How far a loaded model is."""

    model: LoadedModel
    number: int = 0  # 0: as the night left it
    chain: str = ""
    committed_at: dt.datetime | None = None
    n: int = 0
    metrics: dict[str, Any] | None = None


class Updates:
    """Follows `model_updates` for the model in service."""

    def __init__(self, dsn: str, event_log: EventLog, models: Models, metrics: Metrics) -> None:
        self._connections, self._for_watching = (Connections(dsn, "recsys-api-updates") for _ in range(2))
        self._log, self._models, self._metrics = event_log, models, metrics
        self._wake = asyncio.Event()
        self._retry_at = float("-inf")
        self._began_again = False  # since updates were last taken over
        self.applied: Applied | None = None
        self.problem = ""

    def wake(self) -> None:
        """Look now: somebody has heard of a commit."""
        self._wake.set()

    async def follow(self) -> None:
        """Take over updates until cancelled. Whatever goes wrong, the model serves on as it is."""
        try:
            while True:
                try:
                    while await self._look():
                        pass
                except (LogAwayError, RecsysError, OSError) as error:
                    self._tell(str(error))
                except Exception:
                    log.exception("updates of the model cannot be followed")
                    self._tell("updates of the model cannot be followed; the log of the service has the reason")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_S)
                self._wake.clear()
        finally:
            await self._connections.close()
            await self._for_watching.close()

    async def watch(self) -> None:
        """Tell the metrics how the updater is, wherever it runs, until cancelled."""
        while True:
            try:
                heartbeat_at, last = await self._for_watching.transaction(_how_it_is)
                self._metrics.show_updater(heartbeat_at)
                is_ours = last is None or last.log == self._log.name
                after = last.after if last else START
                lag = await asyncio.wait_for(self._log.lag(after), _WATCH_S) if is_ours else float("nan")
            except (LogAwayError, ApiError, TimeoutError, asyncpg.PostgresError):
                lag = float("nan")  # not known
            self._metrics.updater_lag.set(lag)
            await asyncio.sleep(_WATCH_S)

    async def _look(self) -> bool:
        """Take over what is new; whether there may be more."""
        model = self._models.loaded
        if model is None:
            self.applied = None
            return False
        if self.applied is None or self.applied.model is not model:
            self.applied = Applied(model)
        if time.monotonic() < self._retry_at:
            return False
        applied = self.applied
        rows = await self._connections.transaction(
            lambda connection: training_state.chain_of(connection, model.artifact, applied.number, _AT_ONCE)
        )
        if not rows:
            return False
        updates, problem = await asyncio.to_thread(self._read, rows, applied)
        if self._models.loaded is not model:
            return True
        try:
            self._apply(applied, rows, updates)
        except InputError as error:
            problem = str(error)
        bases = [row.number for row in rows[: len(updates)] if row.is_base]
        if bases:  # nobody needs what came before it any more
            await asyncio.to_thread(self._models.store.forget, KIND, lambda version: number_of(version) >= bases[-1])
        if problem:
            return self._refuse(model, problem)
        self.problem, self._began_again = "", False
        return len(rows) == _AT_ONCE

    def _refuse(self, model: LoadedModel, problem: str) -> bool:
        """An update is missing, cannot be read, or is not what its row says: from the base again, if that was not
        tried yet, and then patience with what there is."""
        self._metrics.update_failures.inc()
        self._tell(f"updates cannot be taken over: {problem}")
        if self._began_again:
            self._retry_at = time.monotonic() + _RETRY_S
            return False
        self._began_again = True
        self._metrics.update_reloads.inc()
        model.scorer.reset()
        self.applied = Applied(model)
        return True

    def _read(self, rows: Sequence[UpdateRow], applied: Applied) -> tuple[list[Update | None], str]:
        """The updates up to the first that is not as it should be, None for a base that says what we have; and what
        is wrong with that one. In a thread."""
        chain, number = applied.chain, applied.number
        updates: list[Update | None] = []
        for row in rows:
            try:
                updates.append(self._checked(row, number, chain))
            except RecsysError as error:
                return updates, str(error)
            chain, number = row.chain, row.number
        return updates, ""

    def _checked(self, row: UpdateRow, number: int, chain: str) -> Update | None:
        if not row.is_base and row.number != number + 1:
            raise ArtifactError(f"update {row.number} comes after {number}: those between are missing")
        if not row.is_base and row.parent != chain:
            raise ArtifactError(f"update {row.number} was not made on update {number}")
        folder, manifest = self._models.store.open(row.artifact)
        if chained(row.parent, row.base, checksum_of(manifest)) != row.chain:
            raise ArtifactError(f"{row.artifact} is not what was committed as update {row.number}")
        known = row.is_base and row.parent is not None and row.parent == chain
        return None if known else Update.read(folder / WEIGHTS)

    def _apply(self, applied: Applied, rows: Sequence[UpdateRow], updates: Sequence[Update | None]) -> None:
        """On the event loop, between two requests; those that score in a thread may see some weights before others."""
        scorer = applied.model.scorer
        for row, update in zip(rows, updates, strict=False):
            if update is not None:
                if row.is_base:
                    scorer.reset()
                    if applied.number and row.parent is None:
                        self._metrics.update_rollbacks.inc()
                        log.warning("the model is set back by update %d: %s", row.number, row.reason)
                update.apply(scorer)
            applied.number, applied.chain, applied.committed_at = row.number, row.chain, row.created_at
            applied.metrics = dict(row.metrics.get("window") or {}) or applied.metrics
            applied.n += 1
        self._metrics.updates_applied.inc(len(updates))
        if applied.committed_at is not None:
            self._metrics.update_delay.set((dt.datetime.now(dt.UTC) - applied.committed_at).total_seconds())
        self._metrics.show_progress(applied.number, applied.metrics or {})

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem

    def info(self) -> dict[str, Any]:
        """What /model/info says of it."""
        applied = self.applied
        return {
            "update": applied.number if applied else 0,
            "chain": (applied.chain or None) if applied else None,
            "committed_at": applied.committed_at if applied else None,
            "n_applied": applied.n if applied else 0,
            "n_later_users": len(applied.model.scorer.state.rows_of_users.later) if applied else 0,
            "n_later_items": len(applied.model.scorer.state.rows_of_items.later) if applied else 0,
            "problem": self.problem or None,
        }


async def _how_it_is(connection: asyncpg.Connection) -> tuple[dt.datetime | None, UpdateRow | None]:
    heartbeat_at = await connection.fetchval("select heartbeat_at from training_state")
    return heartbeat_at, await training_state.newest(connection)
