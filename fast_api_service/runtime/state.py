"""The state that a worker serves from, and the tasks that keep it up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request

from fast_api_service.auth.keys import Keyring
from fast_api_service.config import repository
from fast_api_service.events.appends import AppendTogether
from fast_api_service.metrics import Metrics
from fast_api_service.postgres.write_pool import Writable
from fast_api_service.recommend.exposures import Exposures
from fast_api_service.runtime.catalogue_loader import Catalogue, Epoch
from fast_api_service.runtime.database import Database
from fast_api_service.runtime.follower import Follower
from fast_api_service.runtime.in_service import InService
from fast_api_service.runtime.list_loader import ListLoader
from fast_api_service.runtime.model_loader import Models, Served
from fast_api_service.runtime.model_updates import Updates
from fast_api_service.runtime.publication_loader import Published
from fast_api_service.runtime.siblings import Siblings, merged
from fast_api_service.settings import ApiSettings
from recsys.events.log import EventLog
from recsys.events.names import EventNames, names_of
from recsys.events.opening import open_log
from recsys.serving.config import ServingConfig
from recsys.serving.list_file import ListFile
from recsys.serving.recent import EventMeaning
from recsys.serving.snapshot import NOT_PUBLISHED, Snapshot
from recsys.settings import load

log = logging.getLogger(__name__)
NOTHING_PUBLISHED = "nothing is published yet: run the pipeline (`make demo`, or the DAG nightly)"


class State:
    """The state in service and its followers. `now` is replaced atomically; a request reads it once."""

    def __init__(
        self, database: Database, writes: Writable, models: Models, lists: ListLoader, metrics: Metrics,
        settings: ApiSettings, siblings: Siblings | None = None,
    ) -> None:  # fmt: skip
        self.database = database
        self.lists = lists
        self.models = models
        self.writes = writes
        self.lookups = Writable.for_lookups(writes.dsn)
        pipeline = load()
        self.event_synonyms = pipeline.event_synonyms
        self.log: EventLog = open_log(pipeline, writes, "recsys-monitor")
        self.appends = AppendTogether(self.log)
        self.updates = Updates(database.dsn, self.log, models, metrics)
        self.metrics = metrics
        self.settings = settings
        self.exposures = Exposures(writes.dsn, metrics)
        self.siblings = siblings
        self.keys = Keyring(settings, metrics, number_of_key=siblings.number_of_key if siblings else None)
        self.in_force = repository.DEFAULTS
        self.now: InService | None = None
        self._catalogue: Catalogue | None = None  # as last read
        self._published: Published | None = None  # in service once the catalogue is of the same epoch
        self._coming: Published | None = None  # waits for its models
        self._wait_until = 0.0  # when it is switched to without them; time.monotonic()
        self._epoch: Epoch | None = None  # of the snapshot
        self._settings_follower = Follower("API keys and configurations", self._look_at_settings, settings.poll_s)
        self._catalogue_follower = Follower("catalogue", self._look_at_catalogue, settings.poll_s)
        self._publication_follower = Follower("publication", self._look_at_publication, settings.poll_s)
        models.changed = self._models_changed
        metrics.show(None)

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot in service."""
        return self.now.snapshot if self.now else None

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot | None) -> None:
        """Put a snapshot into service with the current model and configuration."""
        self.now = None
        if snapshot is not None:
            names = self._names(snapshot.meaning)
            self.now = InService(snapshot, self.models.loaded, self.config, self.config_id, names, {})

    @property
    def names(self) -> EventNames:
        """The names of event types; without a snapshot, those of data that declare none."""
        return self.now.names if self.now else self._names(EventMeaning())

    def _names(self, meaning: EventMeaning) -> EventNames:
        return names_of(meaning, self.config, self.event_synonyms)

    @property
    def config(self) -> ServingConfig:
        """The configuration in force."""
        return self.in_force.config

    @property
    def config_id(self) -> int:
        """The version of the configuration in force; 0: the defaults."""
        return self.in_force.config_id

    @property
    def problem(self) -> str:
        """Why there is no snapshot, or why it may be stale; empty without a problem."""
        problems = (follower.problem for follower in (self._catalogue_follower, self._publication_follower))
        return next(filter(None, problems), "" if self.now else "catalogue and publication are being read")

    def own_metrics(self, worker: int | None = None) -> bytes:
        """Those of this process now, in the Prometheus text format; with `worker`, labelled by this number."""
        n_in_use, n_idle = self.database.reads.pool_use
        is_open = self.database.reads.breaker.is_open
        self.metrics.show_database(up=self.database.up, n_in_use=n_in_use, n_idle=n_idle, is_open=is_open)
        return self.metrics.text() if worker is None else self.metrics.text_of_worker(worker)

    async def all_metrics(self) -> bytes:
        """Those of all workers of the port that answer in time."""
        if self.siblings is None:
            return self.own_metrics()
        others = await self.siblings.metrics()
        self.metrics.show_workers(self.siblings.n, 1 + len(others))
        return merged([self.metrics.text_of_all(), self.own_metrics(self.siblings.number), *others])

    def wake(self) -> None:
        """Poll everything now, after a notification or a change of one's own."""
        for follower in self._followers:
            follower.wake()

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Wait for a catalogue with its publication, for `timeout_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.now is None:
                    await asyncio.sleep(0.02)

    async def keep_fresh(self) -> None:
        """Follow API keys, configuration, catalogue and publication until cancelled, independently."""
        async with asyncio.TaskGroup() as group:
            for follower in self._followers:
                group.create_task(follower.run())

    @property
    def _followers(self) -> tuple[Follower, ...]:
        return self._settings_follower, self._catalogue_follower, self._publication_follower

    async def read_keys(self) -> None:
        """Read the API keys from Postgres; DatabaseAwayError."""
        self.keys.take(await self.database.api_keys())

    async def _look_at_settings(self) -> str:
        await self.read_keys()
        await self.read_config()
        return ""

    async def read_config(self) -> None:
        """Use the newest configuration that can be parsed; invalid ones are logged. DatabaseAwayError."""
        former = self.in_force
        self.in_force = found = await self.database.config(former)
        for config_id in set(found.passed_over) - set(former.passed_over):
            log.error("configuration %d cannot be used: %s", config_id, found.problem)
            self.metrics.config_refused.inc()
        self.metrics.config_passed_over.set(len(found.passed_over))
        if found.config_id != former.config_id:
            log.info("configuration %d is in force", found.config_id)
        self.metrics.config_id.set(found.config_id)
        if self.now is not None and self.now.config is not found.config:
            names = self._names(self.now.snapshot.meaning)
            self.now = self.now._replace(config=found.config, config_id=found.config_id, names=names)

    async def _look_at_catalogue(self) -> str:
        former = self._catalogue
        self._catalogue = found = await self.database.follow(former)
        is_same = former is not None and found.items is former.items and found.categories is former.categories
        if not is_same or self.snapshot is None:  # there may be a first item
            self._serve()
        elif former is not None and found.seen != former.seen:
            self.metrics.show(self.snapshot)  # items change in place
        if self._published is not None and self._published.pointer.epoch != found.epoch:
            self._publication_follower.wake()
        return ""

    async def _look_at_publication(self) -> str:
        newest = self._coming or self._published
        pointer = await self.database.pointer()
        if newest is None or newest.pointer != pointer:
            coming = await self.database.publication()
            self.models.want(coming.publication)
            coming = replace(coming, lists=await self._lists_of(coming, newest))
            self._coming, self._wait_until = coming, time.monotonic() + self.settings.model_wait_s
            in_use = [one.publication for one in (self._published, coming) if one is not None]
            await asyncio.to_thread(self.lists.forget, *in_use)
        self._switch()
        if self._catalogue is not None and self._catalogue.epoch != pointer.epoch:
            self._catalogue_follower.wake()
        return "" if pointer.publication_id else NOTHING_PUBLISHED

    async def _lists_of(self, coming: Published, newest: Published | None) -> dict[str, ListFile]:
        if newest is None or newest.pointer.epoch != coming.pointer.epoch:
            return await self.lists.load(coming.publication, None, {})  # ids may be of other lists
        return await self.lists.load(coming.publication, newest.publication, newest.lists)

    def _models_changed(self) -> None:
        """A model was loaded, or cannot be."""
        self._switch()
        self._serve()

    def _switch(self) -> None:
        """Switch to the next publication when its models are loaded or the wait is over; at once where nothing of its
        epoch is in service."""
        if self._coming is None:
            return
        is_first = self.snapshot is None or not self.snapshot.is_published or self._epoch != self._coming.pointer.epoch
        if is_first or not self.models.are_loading or time.monotonic() >= self._wait_until:
            self._published, self._coming = self._coming, None
            self._serve()

    def _serve(self) -> None:
        """Put the state into service when catalogue and publication are of the same epoch."""
        catalogue, published = self._catalogue, self._published
        if catalogue is None or published is None or catalogue.epoch != published.pointer.epoch:
            return
        former = self.snapshot.publication if self.snapshot else None
        served = self.models.serve(published.publication, keep_former=self._epoch == catalogue.epoch)
        self._epoch = catalogue.epoch
        is_something = published.publication is not NOT_PUBLISHED or len(catalogue.items) > 0
        self.snapshot = _snapshot(catalogue, published, served) if is_something else None
        self.metrics.show(self.snapshot)
        if self.now is not None and published.publication is not former:
            self.metrics.switches.inc()
            log.info(
                "serving publication %d of %s: %d items, %d default lists",
                published.publication.publication_id, published.publication.dataset,
                len(catalogue.items), len(published.lists.get("default", ())),
            )  # fmt: skip


async def state_of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.service
    return state


ServiceState = Annotated[State, Depends(state_of)]  # as a parameter of an endpoint; tests override `state_of`


def _snapshot(catalogue: Catalogue, published: Published, served: Served) -> Snapshot:
    factors = served.factors
    return Snapshot(
        publication=published.publication,
        items=catalogue.items,
        categories=catalogue.categories,
        lists=published.lists,
        user_id_type=catalogue.epoch.user_type,
        neighbours={kind: of.neighbours for kind, of in published.lists.items() if of.neighbours is not None},
        meaning=published.meaning,
        factors=factors.of_items if factors else None,
        fold_in=factors.fold_in if factors else None,
        sessions=served.sessions,
    )
