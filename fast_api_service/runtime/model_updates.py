"""Applies the updater's updates to the model in service, in place, within seconds of their commit."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import asyncpg

from fast_api_service.errors import ApiError
from fast_api_service.metrics import Metrics
from fast_api_service.runtime import watched
from fast_api_service.runtime.model_loader import LoadedModel, Models
from recsys.errors import ArtifactError, InputError, RecsysError
from recsys.events.connections import Connections
from recsys.events.log import START, EventLog, LogAwayError
from recsys.serving.scorer import Scorer
from recsys.serving.update import KIND, WEIGHTS, Update, chained, checksum_of, number_of
from recsys.updater.store import TrainingStore, UpdateRow

log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0  # polling interval without notifications
_RETRY_S: Final = 5.0  # after an update that could not be applied
_WATCH_S: Final = 10.0
_AT_ONCE: Final = 64  # updates read per batch


@dataclass
class Applied:
    """The updates applied to a loaded model."""

    model: LoadedModel
    number: int = 0  # of the last one; 0: the nightly model
    chain: str = ""
    committed_at: dt.datetime | None = None
    n: int = 0
    metrics: dict[str, Any] | None = None


class Problem(NamedTuple):
    """Why an update cannot be applied."""

    text: str
    is_of_the_chain: bool = False  # it does not follow the applied one


class ChainError(ArtifactError):
    """An update does not follow the last applied one."""


class Updates:
    """Follows `model_updates` for the model in service."""

    def __init__(self, dsn: str, event_log: EventLog, models: Models, metrics: Metrics) -> None:
        self._connections, self._for_watching = (Connections(dsn, "recsys-api-updates") for _ in range(2))
        self._training = TrainingStore(self._connections)
        self._log, self._models, self._metrics = event_log, models, metrics
        self._wake = asyncio.Event()
        self._stuck_at: tuple[int, str] | None = None  # the update that could not be applied
        self._retry_at = float("-inf")  # when it is retried
        self.applied: Applied | None = None
        self.problem = ""

    def wake(self) -> None:
        """Poll now, after a notification."""
        self._wake.set()

    async def follow(self) -> None:
        """Apply updates until cancelled. After any error the model stays in service unchanged."""
        try:
            while True:
                try:
                    while await self._look():
                        pass
                except (LogAwayError, RecsysError, OSError) as error:
                    self._report(str(error))
                except Exception:
                    log.exception("updates of the model cannot be followed")
                    self._report("updates of the model cannot be followed; the log of the service has the reason")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_S)
                self._wake.clear()
        finally:
            await self._connections.close()
            await self._for_watching.close()

    async def watch(self) -> None:
        """Set the metrics of the updater, wherever it runs, until cancelled."""
        while True:
            try:
                now = await self._for_watching.transaction(watched.look)
                last = await TrainingStore(self._for_watching).newest()
                self._metrics.show_watched(now)
                is_ours = last is None or last.log == self._log.name
                after = last.after if last else START
                lag = await asyncio.wait_for(self._log.lag(after), _WATCH_S) if is_ours else float("nan")
            except (LogAwayError, ApiError, TimeoutError, asyncpg.PostgresError):
                lag = float("nan")  # unknown
            self._metrics.updater_lag.set(lag)
            await asyncio.sleep(_WATCH_S)

    async def _look(self) -> bool:
        """Apply new updates; whether there may be more."""
        model = self._models.loaded
        if model is None:
            self.applied = None
            return False
        if self.applied is None or self.applied.model is not model:
            self.applied, self._stuck_at = Applied(model), None
        applied = self.applied
        rows = await self._training.chain_of(model.artifact, applied.number, _AT_ONCE)
        if not rows:
            self._clear_problem()
            return False
        if self._stuck_at == _id_of(rows[0]) and time.monotonic() < self._retry_at:
            return False
        updates, problem = await asyncio.to_thread(self._read, rows, applied)
        if self._models.loaded is not model:
            return True
        n, unfit = self._apply(applied, rows, updates)
        self._show(applied, n)
        bases = [row.number for row in rows[:n] if row.is_base]
        if bases:  # earlier downloads are not needed any more
            await asyncio.to_thread(self._models.store.forget, KIND, lambda version: number_of(version) >= bases[-1])
        problem = unfit or problem
        if problem is not None:
            await self._stay(applied, rows[n], problem)
            return False
        self._clear_problem()
        return len(rows) == _AT_ONCE

    async def _stay(self, applied: Applied, failed: UpdateRow, problem: Problem) -> None:
        """An update cannot be applied: keep the model until it can be, or there is a later base. If our own chain may
        be wrong, replay once all updates since the base beside the model in service."""
        self._report(f"updates cannot be applied: {problem.text}")
        is_new = self._stuck_at != _id_of(failed)
        self._stuck_at = _id_of(failed)
        self._retry_at = time.monotonic() + _RETRY_S
        if is_new:
            self._metrics.update_failures.inc()
            if problem.is_of_the_chain:
                self._metrics.update_reloads.inc()
                await self._replay(applied, failed)

    async def _replay(self, former: Applied, failed: UpdateRow) -> None:
        """Build another scorer from the nightly model and the updates since the newest base, and swap it in atomically
        if it gets past the failed update."""
        model = former.model
        scorer = await asyncio.to_thread(Scorer, model.folder)
        applied = Applied(replace(model, scorer=scorer))
        while True:
            rows = await self._training.chain_of(model.artifact, applied.number, _AT_ONCE)
            updates, problem = await asyncio.to_thread(self._read, rows, applied)
            _, unfit = self._apply(applied, rows, updates)
            if problem or unfit or len(rows) < _AT_ONCE:
                break
        if applied.number >= failed.number and self.applied is former and self._models.loaded is model:
            model.scorer, applied.model = scorer, model
            self.applied, self._stuck_at = applied, None
            self._show(applied, applied.n)
            self._wake.set()

    def _clear_problem(self) -> None:
        self.problem, self._stuck_at = "", None

    def _read(self, rows: Sequence[UpdateRow], applied: Applied) -> tuple[list[Update | None], Problem | None]:
        """The updates up to the first invalid one, None for a base equal to our state; and the problem of the invalid
        one. In a thread."""
        chain, number = applied.chain, applied.number
        updates: list[Update | None] = []
        for row in rows:
            try:
                updates.append(self._checked(row, number, chain))
            except Exception as error:  # any error: the model in service stays
                text = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
                return updates, Problem(text, isinstance(error, ChainError))
            chain, number = row.chain, row.number
        return updates, None

    def _checked(self, row: UpdateRow, number: int, chain: str) -> Update | None:
        if not row.is_base and row.number != number + 1:
            raise ChainError(f"update {row.number} comes after {number}: those between are missing")
        if not row.is_base and row.parent != chain:
            raise ChainError(f"update {row.number} was not made on update {number}")
        folder, manifest = self._models.store.open(row.artifact)
        if chained(row.parent, row.base, checksum_of(manifest)) != row.chain:
            raise ArtifactError(f"{row.artifact} is not what was committed as update {row.number}")
        known = row.is_base and row.parent is not None and row.parent == chain
        return None if known else Update.read(folder / WEIGHTS)

    def _apply(
        self, applied: Applied, rows: Sequence[UpdateRow], updates: Sequence[Update | None]
    ) -> tuple[int, Problem | None]:
        """The number of updates applied to the scorer, and why not the next one. On the event loop, between requests;
        those that score in a thread may see part of an update."""
        for n, (row, update) in enumerate(zip(rows, updates, strict=False)):
            if update is not None:
                try:
                    update.apply(applied.model.scorer, anew=row.is_base)
                except InputError as error:
                    return n, Problem(f"update {row.number} does not fit: {error}")
            if update is not None and row.is_base and row.parent is None and applied.number:
                self._metrics.update_rollbacks.inc()
                log.warning("the model is rolled back by update %d: %s", row.number, row.reason)
            applied.number, applied.chain, applied.committed_at = row.number, row.chain, row.created_at
            applied.metrics = dict(row.metrics.get("window") or {}) or applied.metrics
            applied.n += 1
        return len(updates), None

    def _show(self, applied: Applied, n: int) -> None:
        """Update the metrics after `n` more updates."""
        self._metrics.updates_applied.inc(n)
        if n and applied.committed_at is not None:
            self._metrics.update_delay.set((dt.datetime.now(dt.UTC) - applied.committed_at).total_seconds())
        self._metrics.show_progress(applied.number, applied.metrics or {})

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem

    def info(self) -> dict[str, Any]:
        """The updates part of /model/info."""
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


def _id_of(row: UpdateRow) -> tuple[int, str]:
    return row.number, row.chain
