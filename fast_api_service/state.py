"""What the process serves from, and the task that keeps it fresh."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import logging

from pydantic import ValidationError

from fast_api_service import item_rows
from fast_api_service.append_together import AppendTogether
from fast_api_service.database import Database, Pulse
from fast_api_service.exposures import Exposures
from fast_api_service.metrics import Metrics
from fast_api_service.models import Models
from fast_api_service.reads import DatabaseAwayError
from fast_api_service.security import Keyring
from fast_api_service.settings import ApiSettings
from fast_api_service.updates import Updates
from fast_api_service.writable import Writable
from recsys.errors import InputError
from recsys.online.log import EventLog
from recsys.online.opening import open_log
from recsys.serving.config import DEFAULT, ServingConfig
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.snapshot import Snapshot
from recsys.settings import load

log = logging.getLogger(__name__)
NOTHING_PUBLISHED = "nothing is published yet: run the pipeline (`make demo`, or the DAG nightly)"


class State:
    """The snapshot in service. It is swapped as a whole; a request takes it once and keeps it to its end."""

    def __init__(
        self, database: Database, writes: Writable, models: Models, metrics: Metrics, settings: ApiSettings
    ) -> None:
        self.database = database
        self.models = models
        self.writes = writes
        self.log: EventLog = open_log(load(), writes, "recsys-monitor")
        self.appends = AppendTogether(self.log)
        self.updates = Updates(database.dsn, self.log, models, metrics)
        self.metrics = metrics
        self.settings = settings
        self.exposures = Exposures(writes.dsn, metrics)
        self.keys = Keyring(settings, metrics)
        self.config, self.config_id = DEFAULT, 0
        self._config_seen = 0  # the newest version that was looked at, readable or not
        self.snapshot: Snapshot | None = None
        self.problem = "starting: nothing is loaded yet"  # why there is no snapshot, or why it may be old
        self._pointer: tuple[int | None, dt.datetime | None] | None = None
        self._seen: str | None = None  # changes of the catalogue by other transactions than these are news
        self._wake = asyncio.Event()
        metrics.show(None)

    def wake(self) -> None:
        """Have pointer and catalogue looked at now: somebody has heard of a change."""
        self._wake.set()

    def put_factors(self, factors: ItemFactors, fold_in: FoldIn | None) -> None:
        """Have the item factors of the publication in service at hand."""
        if self.snapshot is not None and self.snapshot.factors is not factors:
            self.snapshot = dataclasses.replace(self.snapshot, factors=factors, fold_in=fold_in)

    async def keep_fresh(self) -> None:
        """Follow API keys, configuration, publication pointer and catalogue until cancelled."""
        while True:
            try:
                await self.read_keys()  # first: nothing is served before keys are known
                await self.read_config()
                await self.refresh()
            except (DatabaseAwayError, InputError) as error:
                self._tell(str(error))
            except Exception:  # whatever it is, the next look may go better, and the old snapshot serves on
                log.exception("the publication could not be loaded")
                self.problem = "the publication could not be loaded; the log of the service has the reason"
            try:
                await asyncio.wait_for(self._wake.wait(), self.settings.poll_s)
            except TimeoutError:
                continue
            self._wake.clear()
            await asyncio.sleep(0.05)  # many requests may see the same move

    async def read_keys(self) -> None:
        """Work with the API keys that are in Postgres now; DatabaseAwayError."""
        self.keys.take(await self.database.api_keys())

    async def read_config(self) -> None:
        """Answer by the newest configuration; one that cannot be read is told, and the former one stays."""
        newer = await self.database.config_after(self._config_seen)
        if newer is None:
            return
        self._config_seen, text = newer
        try:
            self.config, self.config_id = ServingConfig.model_validate_json(text), self._config_seen
        except ValidationError as error:
            log.error("configuration %d cannot be used, %d stays: %s", self._config_seen, self.config_id, error)
            self.metrics.config_refused.inc()
            return
        log.info("configuration %d is in force", self.config_id)
        self.metrics.config_id.set(self.config_id)

    async def refresh(self) -> None:
        """Take into service what is new of the publication and the catalogue; DatabaseAwayError, InputError."""
        pulse = await self.database.pulse(self._seen)
        if self.snapshot is None or self._seen is None:
            await self._load(pulse)
            return
        if pulse.items_changed or pulse.categories_changed:
            await self._follow(self.snapshot, self._seen, pulse)
        else:
            self._seen = pulse.seen
        if pulse[:2] != self._pointer:
            await self._switch(self.snapshot, pulse)
        self._tell("" if pulse.publication_id else NOTHING_PUBLISHED)

    async def _load(self, pulse: Pulse) -> None:
        loaded = await self.database.load(None, with_example_user=not self.keys.needed)
        snapshot, self._seen = loaded or (None, None)
        self._serve(snapshot)
        self._pointer = pulse[:2]
        self._tell("" if pulse.publication_id else NOTHING_PUBLISHED)

    async def _switch(self, former: Snapshot, pulse: Pulse) -> None:
        """Take another publication into service when all that its first requests need is there."""
        loaded = await self.database.load(former, with_example_user=not self.keys.needed)
        if loaded is not None:
            await self.database.reads.warm(loaded[0].publication)
            if loaded[0].items is not former.items:
                self._seen = loaded[1]  # else the items are as new as they were
        self._serve(loaded[0] if loaded else None)
        self._pointer = pulse[:2]

    async def _follow(self, snapshot: Snapshot, seen: str, pulse: Pulse) -> None:
        """Bring the catalogue in service up to `pulse`; what changes meanwhile is read now and again next time."""
        if pulse.items_changed:
            async for change in self.database.changed_items(seen):
                item_rows.apply(change, snapshot.items)
        if pulse.categories_changed:
            tree = await self.database.categories(snapshot.categories.json_type)
            snapshot = dataclasses.replace(snapshot, categories=tree)
        self._serve(snapshot)
        self._seen = pulse.seen

    def _serve(self, snapshot: Snapshot | None) -> None:
        former = self.snapshot.publication.publication_id if self.snapshot else None
        self.snapshot = snapshot
        self.metrics.show(snapshot)
        if snapshot is None:
            return
        if snapshot.publication.publication_id != former:
            self.metrics.switches.inc()
            log.info(
                "serving publication %d of %s: %d items, %d default lists",
                snapshot.publication.publication_id, snapshot.publication.dataset,
                len(snapshot.items), len(snapshot.default_lists),
            )  # fmt: skip

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
