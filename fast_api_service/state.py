"""What the process serves from, and the task that keeps it fresh."""

from __future__ import annotations

import asyncio
import logging
import time

from fast_api_service.database import Database, DatabaseAwayError, Pulse
from fast_api_service.metrics import Metrics
from fast_api_service.security import Keyring
from fast_api_service.settings import ApiSettings
from fast_api_service.writer import Writer
from recsys.errors import InputError
from recsys.serving.snapshot import Snapshot

log = logging.getLogger(__name__)
_CATALOGUE_REST_S = 5.0  # a catalogue that changes all the time is read again this often at most


class State:
    """The snapshot in service. It is swapped as a whole; a request takes it once and keeps it to its end."""

    def __init__(self, database: Database, writer: Writer, metrics: Metrics, settings: ApiSettings) -> None:
        self.database = database
        self.writer = writer
        self.metrics = metrics
        self.settings = settings
        self.keys = Keyring(settings, metrics)
        self.snapshot: Snapshot | None = None
        self.problem = "starting: nothing is loaded yet"  # why there is no snapshot, or why it may be old
        self._pulse: Pulse | None = None
        self._loaded_at = 0.0
        self._wake = asyncio.Event()
        metrics.show(None)

    def look_now(self, seen_publication_id: int | None) -> None:
        """Have the pointer looked at now, when a request saw it elsewhere than at the publication in service."""
        if self.snapshot is not None and seen_publication_id != self.snapshot.publication.publication_id:
            self._wake.set()

    async def keep_fresh(self) -> None:
        """Follow the API keys, the publication pointer and the catalogue until cancelled."""
        while True:
            try:
                await self.read_keys()  # first: nothing is served before keys are known
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

    async def refresh(self) -> None:
        """Take the current publication into service if it is not the one there; DatabaseAwayError, InputError."""
        pulse = await self.database.pulse()
        if pulse is None:
            self._serve(None)
            self._tell("nothing is published yet: run the pipeline (`make demo`, or the DAG rank_and_publish)")
        elif self._is_news(pulse):
            snapshot = await self.database.load(with_example_user=not self.keys.needed)
            self._serve(snapshot)
            self._loaded_at = time.monotonic()
        else:
            self.problem = ""
            return
        self._pulse = pulse

    def _is_news(self, pulse: Pulse) -> bool:
        if self._pulse is None or self.snapshot is None or pulse[:2] != self._pulse[:2]:
            return True
        return pulse != self._pulse and time.monotonic() - self._loaded_at > _CATALOGUE_REST_S

    def _serve(self, snapshot: Snapshot | None) -> None:
        former = self.snapshot.publication.publication_id if self.snapshot else None
        self.snapshot = snapshot
        self.metrics.show(snapshot)
        if snapshot is None:
            return
        self.problem = ""
        if snapshot.publication.publication_id != former:
            self.metrics.switches.inc()
            log.info(
                "serving publication %d of %s: %d items, %d default lists",
                snapshot.publication.publication_id, snapshot.publication.dataset,
                len(snapshot.items), len(snapshot.default_lists),
            )  # fmt: skip

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
