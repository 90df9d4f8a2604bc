"""Builds the application from its parts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from fast_api_service import errors, openapi
from fast_api_service.catalogue import bulk_endpoints as catalogue_bulk
from fast_api_service.catalogue import endpoints as catalogue
from fast_api_service.config import endpoints as config
from fast_api_service.dashboard import endpoints as dashboard
from fast_api_service.events import endpoints as events
from fast_api_service.events import streaming_endpoints as streaming
from fast_api_service.events.log_watch import watch_log
from fast_api_service.metrics import Metrics
from fast_api_service.middleware.concurrency import Admission
from fast_api_service.middleware.gate import Gate, Service
from fast_api_service.operations import endpoints as operations
from fast_api_service.operations import export
from fast_api_service.postgres import listener
from fast_api_service.postgres.away import DatabaseAwayError
from fast_api_service.postgres.write_pool import Writable
from fast_api_service.predict import endpoints as predict
from fast_api_service.recommend import batch_endpoints as batch
from fast_api_service.recommend import endpoints as recommend
from fast_api_service.runtime.database import Database
from fast_api_service.runtime.list_loader import ListLoader
from fast_api_service.runtime.model_loader import Models
from fast_api_service.runtime.siblings import Siblings
from fast_api_service.runtime.state import State
from fast_api_service.runtime.tasks import Tasks
from fast_api_service.settings import ApiSettings
from fast_api_service.training import endpoints as training
from recsys import __version__
from recsys import settings as recsys_settings
from recsys.dsn import postgres_url
from recsys.updater.store import UPDATES

_DESCRIPTION = """Serves the lists that the nightly pipeline publishes.

Each response has its sources in `provenance`. Ids are returned in the JSON type in which the catalogue was loaded;
`123` and `"123"` are both accepted. All errors have the form
`{"success": false, "status": "<error code>", "error": "<what is wrong and how to fix it>"}`.
"""
# After so many new containers (dicts, tuples …) the youngest are searched for cycles. Python's 700 are reached by every
# batch of 100 events, and cost a tenth of the worker's processor time.
_N_NEW_CONTAINERS: Final = 10_000
_REPLACEMENT_S: Final = 10.0


def create_app(
    database_url: str, settings: ApiSettings | None = None, artifact_root: str | None = None,
    siblings: Siblings | None = None,
) -> Service:  # fmt: skip
    """The service for the Postgres of `database_url`, which may be away at startup, with the models under
    `artifact_root` (ARTIFACT_ROOT when None). `siblings`: for one of several workers on a port.

    Raises InputError for a URL that is not a Postgres one.
    """
    settings = settings or ApiSettings()
    metrics = Metrics()
    dsn, root = postgres_url(database_url), artifact_root or recsys_settings.load().artifact_root
    models, lists = Models(root, metrics), ListLoader(dsn, root, metrics)
    state = State(Database(database_url, settings), Writable(dsn), models, lists, metrics, settings, siblings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as on_shutdown:  # in reverse order, each even if others fail
            on_shutdown.push_async_callback(state.database.close)
            on_shutdown.push_async_callback(state.lookups.close)
            on_shutdown.push_async_callback(state.writes.close)
            on_shutdown.push_async_callback(state.log.close)
            on_shutdown.push_async_callback(state.exposures.close)
            if siblings is not None:
                on_shutdown.push_async_callback(siblings.close)
                await siblings.open(lambda: state.own_metrics(siblings.number))
            gc.set_threshold(_N_NEW_CONTAINERS)
            await state.database.open()
            await state.writes.open()
            await state.lookups.open()
            with contextlib.suppress(DatabaseAwayError):  # the follower retries, and logs it
                await state.read_keys()  # so that the first requests are not refused without keys
            await state.database.reads.warm()
            on_shutdown.callback(state.models.close)
            tasks = Tasks(metrics)
            on_shutdown.push_async_callback(tasks.end)
            wakes = {listener.CHANNEL: state.wake, UPDATES: state.updates.wake}
            tasks.start("follower", state.keep_fresh)
            tasks.start("updates", state.updates.follow)
            tasks.start("exposures", state.exposures.write_on)
            tasks.start("updater_watch", state.updates.watch)
            tasks.start("log_watch", lambda: watch_log(state.database.dsn, state.log, metrics))
            tasks.start("listener", lambda: listener.listen(state.database.dsn, wakes))
            if siblings is not None and siblings.is_replacement:  # the others answer until this one can
                await state.wait_until_serving(_REPLACEMENT_S)
            yield

    app = Service(
        title="Recommendations",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        openapi_url=None,  # see openapi
        redoc_url=None,
        redirect_slashes=False,  # redirects would go to the client's Host header
    )
    app.state.service = state
    app.enter = Gate(app.enter, app, state.keys, metrics, Admission(metrics, settings.max_in_flight))
    if settings.cors_origins:  # around the gate, so that allowed pages can read its refusals
        app.enter = CORSMiddleware(
            app.enter,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "Idempotency-Key"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    errors.install(app)
    app.include_router(recommend.direct)
    app.include_router(batch.router)
    app.include_router(recommend.router)
    app.include_router(predict.router)
    app.include_router(events.router)
    app.include_router(streaming.router)
    app.include_router(catalogue_bulk.router)
    app.include_router(training.router)
    app.include_router(catalogue.router)
    app.include_router(config.router)
    app.include_router(operations.router)
    app.include_router(export.router)
    app.include_router(dashboard.router)
    dashboard.install(app)
    openapi.install(app, state)
    return app
