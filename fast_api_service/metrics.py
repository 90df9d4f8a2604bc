"""What Prometheus reads at /metrics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from fast_api_service.runtime.watched import Watched
from fast_api_service.schemas import UserStatus
from fast_api_service.traffic import Traffic
from recsys.instants import data_ends_at
from recsys.serving.snapshot import Snapshot

EXPOSURE_OUTCOMES = ("written", "dropped")
EVENT_OUTCOMES = ("accepted", "duplicate", "rejected")
SHED_REASONS = ("rate_limit", "queue")
_MAX_KEYS = 100_000
MODELS = ("deepfm", "als")
LIST_KINDS = ("ranked", "personal", "default", "i2i", "similar", "history")
OF_ALL_WORKERS = ("recsys_workers", "recsys_workers_up")
AUTH_FAILURES = ("missing", "wrong", "expired", "scope", "page")


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.traffic = Traffic(registry)
        self.cold_starts = counter("recsys_cold_starts", "Answers without a list of the user's own", ["user"])
        self.events = counter("recsys_events", "Events posted to the log", ["outcome"])
        self.exposures = counter("recsys_exposures", "Answers for the exposure log by what became of them", ["outcome"])
        self.exposures_waiting = gauge("recsys_exposures_waiting", "Answers that are not in the exposure log yet")
        self.task_restarts = counter(
            "recsys_task_restarts", "Background tasks that failed and were begun again", ["task"]
        )
        self.auth_failures = counter(
            "recsys_auth_failures", "Requests refused for want of a key or a scope", ["reason"]
        )
        self.shed = counter("recsys_shed", "Requests turned away under pressure", ["reason"])
        self.config_id = gauge("recsys_config_id", "Serving configuration in force, 0: the defaults")
        self.switches = counter("recsys_publication_switches", "Publications taken into service")
        self.database_up = gauge("recsys_database_up", "1 while Postgres answers")
        self.config_refused = counter("recsys_config_refused", "Stored configurations that this service cannot read")
        self.config_passed_over = gauge(
            "recsys_config_passed_over", "Configurations newer than the one in force that this service cannot read"
        )
        self.breaker_open = gauge("recsys_breaker_open", "1 while requests do not try to read from Postgres")
        self.pool = gauge("recsys_pool_connections", "Connections to Postgres", ["state"])
        self.publication_id = gauge("recsys_publication_id", "Publication in service, 0: none")
        self.publication_age = gauge("recsys_publication_age_seconds", "Time since the publication in service was made")
        self.data_age = gauge("recsys_data_age_seconds", "Since the last event of the data set behind the publication")
        self.list_data_age = gauge(
            "recsys_list_data_age_seconds", "Since the last event of the data set behind the lists of a kind", ["kind"]
        )
        self.model_info = gauge(
            "recsys_model_info", "1 for each model behind the publication in service", ["model", "artifact"]
        )
        self.model_loaded = gauge("recsys_model_loaded", "1 while a model can score")
        self.list_file_failures = counter(
            "recsys_list_file_failures", "Files of lists that could not be read, so that Postgres was", ["kind"]
        )
        self.model_failures = counter("recsys_model_load_failures", "Models that could not be loaded", ["model"])
        self.updates_applied = counter("recsys_model_updates", "Updates of the model that were taken over")
        self.update_failures = counter(
            "recsys_model_update_failures", "Updates that could not be read or were not what was committed"
        )
        self.update_reloads = counter(
            "recsys_model_update_reloads", "Gaps in the updates, after which a base was loaded again"
        )
        self.update_rollbacks = counter("recsys_model_update_rollbacks", "Times the model was set back to a base")
        self.update_number = gauge("recsys_model_update_number", "Update in service, 0: none")
        self.update_delay = gauge(
            "recsys_model_update_delay_seconds", "From the last update's commit until it was in service"
        )
        self.progressive_auc = gauge(
            "recsys_progressive_auc", "How well the last events were predicted before they were learned", ["model"]
        )
        self.updater_lag = gauge("recsys_updater_lag_events", "Events that were not learned yet")
        self.updater_heartbeat_age = gauge(
            "recsys_updater_heartbeat_age_seconds", "Since the updater gave a sign of life"
        )
        self.updater_wanted = gauge("recsys_updater_wanted", "1 while the updater is asked to learn")
        self.updater_given_up = gauge("recsys_updater_given_up", "1 while nobody tries to start the updater again")
        self.quarantined = gauge("recsys_quarantined_events", "Posted events in quarantine, as they contradict others")
        self.connections = gauge("recsys_postgres_connections", "Connections that Postgres has from anybody")
        self.max_connections = gauge("recsys_postgres_max_connections", "Connections that Postgres allows")
        self.outbox_events = gauge("recsys_outbox_events", "Events in the outbox that Kafka does not have yet")
        self.outbox_age = gauge("recsys_outbox_oldest_seconds", "Since the oldest event in the outbox came")
        self.sink_lag = gauge("recsys_sink_lag_messages", "Messages that the sink has not passed")
        self.dead_letters = gauge("recsys_dead_letters", "Messages in the topic for dead letters")
        self.log_worker_up = gauge(
            "recsys_log_worker_up", "1 while such a process is at work, wherever it runs", ["worker"]
        )
        self.predictions = counter("recsys_predictions", "Pairs scored for clients")
        self.unreadable_rows = gauge(
            "recsys_unreadable_rows", "Rows of the catalogue that are left out, as their ids are none", ["entity"]
        )
        self._unreadable_users: set[int] = set()  # keys; users are not in memory, so these are the ones that were met
        self.catalogue_items = gauge("recsys_catalogue_items", "Items known", ["state"])
        self.workers = gauge("recsys_workers", "Workers that there shall be on this port")
        self.workers_up = gauge("recsys_workers_up", "Workers on this port that told their metrics in time")
        ProcessCollector(registry=registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Make the series whose absence would leave ratios empty, or hide the first increment from rate()."""
        self.show_progress(0, {})
        self.show_workers(1, 1)
        for entity in ("item", "user", "category"):
            self.unreadable_rows.labels(entity)
        for gauge in (self.quarantined, self.connections, self.max_connections):
            gauge.set(float("nan"))  # not known yet: 0 would be a leap to the first number
        for user in set(get_args(UserStatus)) - {"known"}:
            self.cold_starts.labels(user)
        for counter, values in (
            (self.events, EVENT_OUTCOMES),
            (self.exposures, EXPOSURE_OUTCOMES),
            (self.shed, SHED_REASONS),
            (self.auth_failures, AUTH_FAILURES),
            (self.model_failures, MODELS),
            (self.list_file_failures, LIST_KINDS),
        ):
            for value in values:
                counter.labels(value)

    def show(self, snapshot: Snapshot | None) -> None:
        """Set what depends on the snapshot in service."""
        self.model_info.clear()
        self.list_data_age.clear()
        if snapshot is None:
            self.publication_id.set(0)
            self.publication_age.set_function(_age_s(None))
            self.data_age.set_function(_age_s(None))
            self.catalogue_items.clear()
            return
        for model, artifact in snapshot.publication.models.items():
            self.model_info.labels(model, str(artifact)).set(1)
        created_at = snapshot.publication.created_at if snapshot.is_published else None
        self.publication_id.set(snapshot.publication.publication_id)
        self.publication_age.set_function(_age_s(created_at))
        self.data_age.set_function(_age_s(data_ends_at(snapshot.publication.dataset)))
        for kind, version in snapshot.publication.lists.items():
            self.list_data_age.labels(kind).set_function(_age_s(data_ends_at(version.dataset)))
        self.catalogue_items.labels("available").set(snapshot.items.n_available)
        self.catalogue_items.labels("unavailable").set(len(snapshot.items) - snapshot.items.n_available)
        self.unreadable_rows.labels("item").set(len(snapshot.items.unreadable))
        self.unreadable_rows.labels("category").set(len(snapshot.categories.unreadable))

    def count_unreadable_users(self, keys: Collection[int]) -> None:
        """Users who were passed over in a page, by key; each counts once."""
        if len(self._unreadable_users) < _MAX_KEYS:
            self._unreadable_users.update(keys)
        self.unreadable_rows.labels("user").set(len(self._unreadable_users))

    def show_progress(self, number: int, window: Mapping[str, float]) -> None:
        """Set what the update in service says of how well the updater predicts."""
        self.update_number.set(number)
        for model, name in (("updated", "auc"), ("frozen", "frozen_auc")):
            self.progressive_auc.labels(model).set(window.get(name, float("nan")))

    def show_watched(self, watched: Watched) -> None:
        """Set what Postgres says of the updater, of the quarantine and of its connections."""
        self.updater_wanted.set(watched.is_wanted)
        self.updater_given_up.set(watched.has_given_up)
        self.quarantined.set(watched.n_quarantined)
        self.connections.set(watched.n_connections)
        self.max_connections.set(watched.max_connections)
        self.updater_heartbeat_age.set_function(_age_s(watched.heartbeat_at))

    def show_database(self, *, up: bool, n_in_use: int, n_idle: int, is_open: bool) -> None:
        """Set what is known of Postgres at the moment of a scrape; `is_open`: the circuit breaker."""
        self.breaker_open.set(is_open)
        self.database_up.set(up)
        self.pool.labels("in_use").set(n_in_use)
        self.pool.labels("idle").set(n_idle)

    def show_workers(self, n: int, n_up: int) -> None:
        """Set how many workers there shall be, and how many answered at a scrape."""
        self.workers.set(n)
        self.workers_up.set(n_up)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def text_of_all(self) -> bytes:
        """Those that tell of all workers together."""
        return generate_latest(self.registry.restricted_registry(OF_ALL_WORKERS))

    def text_of_worker(self, number: int) -> bytes:
        """All others, each sample with the number of its worker."""
        return generate_latest(_OfWorker(self.registry, number))


class _OfWorker(Collector):
    """The metrics of one of several workers. (The label is not `worker`, which recsys_log_worker_up has already.)"""

    def __init__(self, registry: CollectorRegistry, number: int) -> None:
        self._registry, self._label = registry, {"api_worker": str(number)}

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name not in OF_ALL_WORKERS:
                of_worker = Metric(family.name, family.documentation, family.type)
                of_worker.samples = [
                    sample._replace(labels={**sample.labels, **self._label}) for sample in family.samples
                ]
                yield of_worker


def _age_s(since: dt.datetime | None) -> Callable[[], float]:
    """Gives the seconds since an instant, NaN where there is none."""
    return lambda: (dt.datetime.now(dt.UTC) - since).total_seconds() if since else float("nan")
