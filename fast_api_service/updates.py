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

from fast_api_service.metrics import Metrics
from fast_api_service.models import LoadedModel, Models
from recsys.errors import ArtifactError, RecsysError
from recsys.online import training_state
from recsys.online.connections import Connections
from recsys.online.log import LogAwayError
from recsys.online.training_state import UpdateRow
from recsys.serving.update import WEIGHTS, Update, chained, checksum_of

log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0  # when nothing is heard
_RETRY_S: Final = 5.0  # after updates that could not be taken over
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

    def __init__(self, connections: Connections, models: Models, metrics: Metrics) -> None:
        self._connections, self._models, self._metrics = connections, models, metrics
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
        if not _follows(rows[0], applied):
            log.warning("update %d does not follow %d: loading a base again", rows[0].number, applied.number)
            self._metrics.update_reloads.inc()
            return self._begin_again(model)
        try:
            updates = await asyncio.to_thread(self._read, rows, applied)
            if self._models.loaded is not model:
                return True
            self._apply(applied, rows, updates)
        except RecsysError as error:
            return self._refuse(model, error)
        return len(rows) == _AT_ONCE

    def _refuse(self, model: LoadedModel, error: RecsysError) -> bool:
        """An update cannot be read or is not what its row says: once from the base again, then patience."""
        self._metrics.update_failures.inc()
        self._tell(f"updates cannot be taken over: {error}")
        if not self._began_again:
            self._began_again = True
            return self._begin_again(model)
        self._retry_at = time.monotonic() + _RETRY_S
        return False

    def _begin_again(self, model: LoadedModel) -> bool:
        model.scorer.reset()
        self.applied = Applied(model)
        return True

    def _read(self, rows: Sequence[UpdateRow], applied: Applied) -> list[Update | None]:
        """The updates, each checked against the chain; None for a base that says what we have. In a thread."""
        chain, number = applied.chain, applied.number
        updates: list[Update | None] = []
        for row in rows:
            if number and row.number != number + 1 and not row.is_base:
                raise ArtifactError(f"update {row.number} comes after {number}: those between are missing")
            folder, manifest = self._models.store.open(row.artifact)
            if chained(row.parent, row.base, checksum_of(manifest)) != row.chain:
                raise ArtifactError(f"{row.artifact} is not what was committed as update {row.number}")
            if not row.is_base and row.parent != chain:
                raise ArtifactError(f"update {row.number} was not made on update {number}")
            known = row.is_base and row.parent is not None and row.parent == chain
            updates.append(None if known else Update.read(folder / WEIGHTS))
            chain, number = row.chain, row.number
        return updates

    def _apply(self, applied: Applied, rows: Sequence[UpdateRow], updates: Sequence[Update | None]) -> None:
        """On the event loop, between two requests; those that score in a thread may see some weights before others."""
        scorer = applied.model.scorer
        for row, update in zip(rows, updates, strict=True):
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
        self.problem, self._began_again = "", False
        self._metrics.updates_applied.inc(len(rows))
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


def _follows(row: UpdateRow, applied: Applied) -> bool:
    """Whether an update can be applied: it is the next one, or holds all that was changed since the night."""
    return row.is_base or (row.number == applied.number + 1 and row.parent == applied.chain)
