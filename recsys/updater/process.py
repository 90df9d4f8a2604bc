"""The loop of the updater: reads the event log in order, trains the model on it, commits the result.

A commit is one artifact and one row: the row has the artifact's name and the offset in the log, so that weights,
optimizer state and offset change atomically.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec

from recsys.artifacts import DEEPFM_SERVING, ArtifactStore, split_ref
from recsys.data.dataset import instant
from recsys.errors import ArtifactError, ModelError, NotFoundError, RecsysError
from recsys.events import meaning
from recsys.events.connections import Connections
from recsys.events.event import Event
from recsys.events.log import START, Answer, EventLog, LogAwayError, LogGapError, Offset
from recsys.instants import CLOCKS_AHEAD
from recsys.serving.update import KIND, chained, checksum_of, number_of
from recsys.settings import Settings
from recsys.updater.examples import Known
from recsys.updater.known import known
from recsys.updater.new_users import give_keys
from recsys.updater.order import in_order
from recsys.updater.store import TrainingStore, UpdateRow
from recsys.updater.trainer import Trainer
from recsys.updater.worker import BEAT_S, Worker

log = logging.getLogger(__name__)
P = ParamSpec("P")

_IDLE_S, _AWAY_S = 0.05, 1.0
# A data set may lack events received this long before its end: clocks differ, and transactions take time.
_BEFORE_CUT: Final = CLOCKS_AHEAD + dt.timedelta(minutes=5)
_BASES_KEPT: Final = 3  # of any nightly model; artifacts of older updates are deleted


class Updater:
    """The loop; `work` is the only entry point."""

    def __init__(self, settings: Settings, connections: Connections, event_log: EventLog, holder: str) -> None:
        self.options, self.holder = settings.updater, holder
        self._connections, self._training, self._log = connections, TrainingStore(connections), event_log
        self._store = ArtifactStore(settings.artifact_root, settings.local_dir / "cache")
        self._fence = 0
        self._base = ""  # the nightly model
        self._trainer: Trainer
        self._last: UpdateRow
        self._n_since_base = 0
        self._pending: list[Event] = []
        self._read_up_to: Offset = START
        self._oldest_pending_at = 0.0
        self._beaten_at = self._looked_at = float("-inf")
        self._wanted = True
        self._worker = Worker(self._beat)
        self._status = "starting", ""
        self._parent_pid = os.getppid()

    async def work(self, stop: asyncio.Event) -> None:
        """Learn until stopped, by the signal or through the API; LeaseLostError where another has taken over."""
        if not await self._lease(stop):
            return
        try:
            while not stop.is_set():
                try:
                    if not await self._round():
                        break
                except LogAwayError as error:
                    log.warning("%s; retrying", error)
                    await asyncio.sleep(_AWAY_S)
            if self._pending:
                try:
                    await self._learn()
                except LogAwayError as error:
                    log.warning("%s; events read and not learned yet are read again at the next start", error)
        except RecsysError as error:
            await self._release("failed", str(error))
            raise
        await self._release("stopped", "")

    async def _release(self, state: str, reason: str) -> None:
        with contextlib.suppress(LogAwayError):
            await self._training.release(self._fence, state, reason)

    async def _lease(self, stop: asyncio.Event) -> bool:
        has_logged = False
        while not stop.is_set() and self._has_parent():
            with contextlib.suppress(LogAwayError):
                fence = await self._training.take_lease(self.holder)
                if fence is not None:
                    self._fence = fence
                    log.info("%s has the lease, with fence %d", self.holder, fence)
                    return True
            if not has_logged:
                log.info("%s waits: another updater has the lease, or none is wanted", self.holder)
                has_logged = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BEAT_S)
        return False

    async def _round(self) -> bool:
        """Read the log once, and learn if it is due; False where the updater should stop."""
        if not await self._follow_model():
            return await self._alive("waiting", "no publication with a deepfm model") and await self._pause()
        room = self.options.batch_events - len(self._pending)
        batch = await self._log.read(self._read_up_to, room)
        if batch.events and not self._pending:
            self._oldest_pending_at = time.monotonic()
        self._pending += batch.events
        self._read_up_to = batch.after
        if self._is_due(batch.events):
            await self._learn()
        elif not batch.events:
            await self._pause()
        return await self._alive("running")

    def _is_due(self, new: Sequence[Event]) -> bool:
        if not self._pending:
            return False
        priority = self.options.priority_event_types
        return (
            len(self._pending) >= self.options.batch_events
            or any(event.event_type in priority for event in new)
            or time.monotonic() >= self._oldest_pending_at + self.options.batch_s
        )

    async def _pause(self) -> bool:
        await asyncio.sleep(_IDLE_S)
        return True

    async def _alive(self, state: str, reason: str = "") -> bool:
        """Set the status and send a heartbeat if one is due; whether to continue."""
        self._status = state, reason
        if time.monotonic() >= self._beaten_at + BEAT_S:
            self._wanted = await self._beat()
            self._beaten_at = time.monotonic()
        return self._wanted and self._has_parent()

    async def _beat(self) -> bool:
        return await self._training.beat(self._fence, *self._status)

    def _has_parent(self) -> bool:
        return os.getppid() == self._parent_pid

    # --- on which model

    async def _follow_model(self) -> bool:
        """Switch to the model of the publication in service; False where there is none."""
        if time.monotonic() < self._looked_at + BEAT_S and self._base:
            return True
        self._looked_at = time.monotonic()
        wanted = await self._training.wanted_model()
        if wanted is None:
            self._base = ""
            return False
        if wanted != self._base:
            try:
                await self._switch_to(wanted)
            except LogAwayError:
                self._base = ""  # half-switched
                raise
        return True

    async def _switch_to(self, model: str) -> None:
        """Resume a model from its last update, or start from the nightly one."""
        self._beaten_at = float("-inf")
        await self._alive("starting", f"loading {model}")
        try:
            folder = (await self._worker.do(self._store.open, f"{DEEPFM_SERVING}/{split_ref(model)[1]}"))[0]
        except NotFoundError as error:
            raise NotFoundError(f"{error}; run train_deepfm for its data, or set ARTIFACT_ROOT") from None
        weights = await self._connections.transaction(meaning.weights)
        self._trainer = await self._worker.do(Trainer, folder, weights, self.options)
        self._base, self._pending = model, []
        last = await self._training.newest()
        try:
            if last is not None and last.base == model and last.log == self._log.name:
                await self._resume(last)
                return
            reason = "the nightly model"
        except (ArtifactError, NotFoundError) as error:
            log.error("the updates cannot be resumed, restarting from the nightly model: %s", error)
            reason = f"the nightly model; the earlier updates cannot be resumed: {error}"
            await self._worker.do(self._trainer.begin)
        await self._begin(last, reason)

    async def _resume(self, last: UpdateRow) -> None:
        """Restore the newest base and apply the updates after it."""
        rows = await self._training.chain_of(self._base)
        await self._worker.do(self._trainer.restore, await self._worker.do(self._folder_of, rows[0], None))
        skipped, gap = await self._training.skipped_to(), ""
        for before, row in itertools.pairwise(rows):
            try:
                events = await self._between(self._log.later(before.after, skipped), row)
            except LogGapError as error:  # the weights have them; only their users' state is lost
                gap, events = str(error), []
            folder = await self._worker.do(self._folder_of, row, before)
            await self._worker.do(self._trainer.follow, folder, await self._known(events))
            await self._alive("starting", f"at update {row.number} of {last.number}")
        self._trainer.committed()
        self._last, self._n_since_base, self._read_up_to = last, len(rows) - 1, self._log.later(last.after, skipped)
        log.info("resumed %s after update %d", self._base, last.number)
        if gap:
            log.warning("events that updates have learned are gone from the log: %s", gap)
            await self._regular_base("events that were learned are gone from the log")
        await self._base_if_due()

    async def _between(self, after: Offset, row: UpdateRow) -> list[Event]:
        """The events of an update, in the order it learned them; fewer if users were erased since."""
        events: list[Event] = []
        while after != row.after:
            batch = await self._log.read(after, self.options.batch_events, until=row.after)
            if batch.after == after:
                break
            events, after = events + batch.events, batch.after
        return in_order(events)

    def _folder_of(self, row: UpdateRow, before: UpdateRow | None) -> Path:
        """The files of an update, verified against the chain; ArtifactError, NotFoundError."""
        folder, manifest = self._store.open(row.artifact)
        parent = row.parent if before is None else before.chain
        number = row.number if before is None else before.number + 1
        if row.number != number or chained(parent, row.base, checksum_of(manifest)) != row.chain:
            raise ArtifactError(f"update {row.number} does not follow the one before, or {row.artifact} was changed")
        return folder

    async def _begin(self, last: UpdateRow | None, reason: str) -> None:
        """Start a new chain from the nightly model, at the first event that it may not have seen."""
        cut_at = instant(self._trainer.spec.cut_at)
        skipped = await self._training.skipped_to()
        self._read_up_to = self._log.later(await self._log.at(cut_at - _BEFORE_CUT), skipped)
        await self._commit(last, [], is_base=True, reason=reason, newest_at=None, begins=True)
        log.info("started from %s, its data ends at %s", self._base, cut_at.isoformat())
        await self._prune()

    # --- learning

    async def _learn(self) -> None:
        """Learn the pending events and commit, or roll back."""
        events, number = in_order(self._pending), self._last.number + 1
        known = await self._with_keys(await self._known(events))
        waited_s = (dt.datetime.now(dt.UTC) - min(event.occurred_at for event in events)).total_seconds()
        try:
            metrics: dict[str, Any] = await self._worker.do(
                self._trainer.learn, known, number, alive=self._worker.progress
            )
            problem = self._trainer.problem()
        except ModelError as error:
            metrics, problem = {}, str(error)
        newest_at = max(
            [event.occurred_at for event in events] + ([self._last.newest_at] if self._last.newest_at else [])
        )
        metrics |= {"unknown_items": len(events) - len(known), "oldest_event_age_s": round(waited_s, 3)}
        metrics["window"] = self._trainer.window.metrics()
        if problem is None:
            try:
                await self._commit(self._last, events, newest_at=newest_at, metrics=metrics)
            except ModelError as error:
                problem = str(error)
        if problem is not None:
            await self._roll_back(problem, events, newest_at, metrics)
        self._pending = []
        if problem is None:
            self._n_since_base += 1
        await self._base_if_due()

    async def _base_if_due(self) -> None:
        """Commit a base after `updates_per_base` updates; after any base, prune old artifacts."""
        if self._n_since_base >= self.options.updates_per_base:
            await self._regular_base("regular")
        if self._last.is_base:
            await self._prune()

    async def _regular_base(self, reason: str) -> None:
        metrics = {"window": self._trainer.window.metrics()}
        await self._commit(self._last, [], is_base=True, reason=reason, newest_at=self._last.newest_at, metrics=metrics)

    async def _roll_back(self, problem: str, events: list[Event], newest_at: dt.datetime, metrics: Any) -> None:
        """Return to the newest good base, here and in the service; the pending events are skipped."""
        log.error("guard: %s; rolling back", problem)
        rows = await self._retrying(self._training.bases_of, self._base, _BASES_KEPT)
        folders: dict[Path, int] = {}
        for row in rows:
            with contextlib.suppress(ArtifactError, NotFoundError):
                folders[(await self._worker.do(self._store.open, row.artifact))[0]] = row.number
        chosen = await self._worker.do(self._trainer.roll_back, list(folders))
        to = f"the base of update {folders[chosen]}" if chosen else f"the nightly model {self._base}"
        reason = f"guard: {problem}; back to {to}"
        await self._commit(
            self._last, events, is_base=True, reason=reason, newest_at=newest_at, metrics=metrics, rollback=reason,
            begins=True,
        )  # fmt: skip
        log.error("rolled back to %s, as update %d", to, self._last.number)

    async def _commit(
        self,
        last: UpdateRow | None,
        events: Sequence[Event],
        *,
        newest_at: dt.datetime | None,
        is_base: bool = False,
        begins: bool = False,
        reason: str = "",
        metrics: dict[str, Any] | None = None,
        rollback: str | None = None,
    ) -> None:
        """Write the artifact and insert the row, retrying while Postgres is away. ModelError for weights not finite."""
        number = last.number + 1 if last else 1
        ref = await self._worker.do(self._write, number, is_base)
        parent = None if begins or last is None else last.chain
        row = UpdateRow(
            number=number,
            base=self._base,
            is_base=is_base,
            artifact=ref,
            parent=parent,
            chain=chained(parent, self._base, checksum_of(self._store.manifest(ref))),
            log=self._log.name,
            after=self._read_up_to,
            n_events=len(events),
            newest_at=newest_at,
            fence=self._fence,
            reason=reason,
            metrics=metrics or {},
        )
        await self._retrying(self._training.commit, row, rollback)  # idempotent
        self._trainer.committed()
        self._last = row
        if is_base:
            self._n_since_base = 0

    def _write(self, number: int, is_base: bool) -> str:
        version = f"{number:012}-f{self._fence}"  # an updater that lost its lease cannot write over another's
        with self._store.writing(KIND, version, made_by="updater", inputs={"model": self._base}) as (folder, _):
            self._trainer.write(folder, is_base=is_base)
        return f"{KIND}/{version}"

    async def _prune(self) -> None:
        """Delete the artifacts before the oldest base that is kept."""
        rows = await self._training.latest_bases(_BASES_KEPT)
        oldest = min(row.number for row in rows)
        for version in self._store.versions(KIND):
            if number_of(version) < oldest:
                self._store.delete(f"{KIND}/{version}")

    async def _known(self, events: Sequence[Event]) -> list[Known]:
        """The events of items in the catalogue, with keys."""
        return await known(self._connections, events) if events else []

    async def _with_keys(self, known: list[Known]) -> list[Known]:
        """The same events, with keys for the users who are to get a row."""
        without_key = self._trainer.without_key(known)
        if not without_key:
            return known
        keys = await give_keys(self._connections, self._fence, without_key)
        if len(keys) < len(without_key):
            log.info("%d users get no row yet: erased, or another process assigns keys", len(without_key) - len(keys))
        return [one._replace(user_key=keys.get(one.event.user_id or "", one.user_key)) for one in known]

    async def _retrying(self, work: Callable[P, Awaitable[Answer]], *arguments: P.args, **named: P.kwargs) -> Answer:
        """Retry while Postgres is away: what was learned must not be learned twice."""
        while True:
            try:
                return await work(*arguments, **named)
            except LogAwayError as error:
                log.warning("%s; retrying", error)
                await asyncio.sleep(_AWAY_S)
