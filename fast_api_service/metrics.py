"""The metrics of /metrics, for Prometheus."""

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
    """The metrics of one application, with its own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.traffic = Traffic(registry)
        self.cold_starts = counter("recsys_cold_starts", "Answers for users without a list of their own", ["user"])
        self.events = counter("recsys_events", "Events posted to the log", ["outcome"])
        self.exposures = counter("recsys_exposures", "Responses for the exposure log by outcome", ["outcome"])
        self.exposures_waiting = gauge("recsys_exposures_waiting", "Responses that are not in the exposure log yet")
        self.task_restarts = counter(
            "recsys_task_restarts", "Background tasks that failed and were restarted", ["task"]
        )
        self.auth_failures = counter(
            "recsys_auth_failures", "Requests refused without a valid key or scope", ["reason"]
        )
        self.shed = counter("recsys_shed", "Requests refused under overload", ["reason"])
        self.config_id = gauge("recsys_config_id", "Serving configuration in force, 0: the defaults")
        self.switches = counter("recsys_publication_switches", "Publications taken into service")
        self.database_up = gauge("recsys_database_up", "1 while Postgres answers")
        self.config_refused = counter("recsys_config_refused", "Stored configurations that this service cannot read")
        self.config_passed_over = gauge(
            "recsys_config_passed_over", "Configurations newer than the one in force that this service cannot read"
        )
        self.breaker_open = gauge("recsys_breaker_open", "1 while requests do not read from Postgres, after failures")
        self.pool = gauge("recsys_pool_connections", "Connections to Postgres", ["state"])
        self.publication_id = gauge("recsys_publication_id", "Publication in service, 0: none")
        self.publication_age = gauge("recsys_publication_age_seconds", "Age of the publication in service")
        self.data_age = gauge("recsys_data_age_seconds", "Time since the last event of the publication's data set")
        self.list_data_age = gauge(
            "recsys_list_data_age_seconds", "Time since the last event of the data set of a kind's lists", ["kind"]
        )
        self.model_info = gauge(
            "recsys_model_info", "1 for each model of the publication in service", ["model", "artifact"]
        )
        self.model_loaded = gauge("recsys_model_loaded", "1 while a model can score")
        self.list_file_failures = counter(
            "recsys_list_file_failures",
            "Files of lists that could not be read, with lists read from Postgres instead",
            ["kind"],
        )
        self.model_failures = counter("recsys_model_load_failures", "Models that could not be loaded", ["model"])
        self.updates_applied = counter("recsys_model_updates", "Updates of the model that were applied")
        self.update_failures = counter(
            "recsys_model_update_failures", "Updates that could not be read or differ from what was committed"
        )
        self.update_reloads = counter(
            "recsys_model_update_reloads", "Gaps in the updates, after which a base was reloaded"
        )
        self.update_rollbacks = counter("recsys_model_update_rollbacks", "Times the model was rolled back to a base")
        self.update_number = gauge("recsys_model_update_number", "Update in service, 0: none")
        self.update_delay = gauge(
            "recsys_model_update_delay_seconds", "Time from the last update's commit until it was in service"
        )
        self.progressive_auc = gauge(
            "recsys_progressive_auc", "AUC of the last events, predicted before they were trained on", ["model"]
        )
        self.updater_lag = gauge("recsys_updater_lag_events", "Events that were not trained on yet")
        self.updater_heartbeat_age = gauge(
            "recsys_updater_heartbeat_age_seconds", "Time since the updater's last heartbeat"
        )
        self.updater_wanted = gauge("recsys_updater_wanted", "1 while the updater is supposed to run")
        self.updater_given_up = gauge("recsys_updater_given_up", "1 while the updater is down and no longer restarted")
        self.quarantined = gauge("recsys_quarantined_events", "Posted events in quarantine, as they contradict others")
        self.connections = gauge("recsys_postgres_connections", "Connections of all clients to Postgres")
        self.max_connections = gauge("recsys_postgres_max_connections", "Maximum number of connections to Postgres")
        self.outbox_events = gauge("recsys_outbox_events", "Events in the outbox that Kafka does not have yet")
        self.outbox_age = gauge("recsys_outbox_oldest_seconds", "Time since the oldest event in the outbox arrived")
        self.sink_lag = gauge("recsys_sink_lag_messages", "Messages that the sink has not consumed yet")
        self.dead_letters = gauge("recsys_dead_letters", "Messages in the dead-letter topic")
        self.log_worker_up = gauge("recsys_log_worker_up", "1 while such a process runs, on any machine", ["worker"])
        self.predictions = counter("recsys_predictions", "Pairs scored for clients")
        self.unreadable_rows = gauge(
            "recsys_unreadable_rows", "Rows of the catalogue left out for invalid ids", ["entity"]
        )
        self.badly_weighted = gauge(
            "recsys_badly_weighted_items", "Items whose recommendation_weight is no number from 0 to 1e255"
        )
        self._unreadable_users: set[int] = set()  # keys of those read so far; users are not in memory
        self.catalogue_items = gauge("recsys_catalogue_items", "Items in the catalogue", ["state"])
        self.workers = gauge("recsys_workers", "Configured workers on this port")
        self.workers_up = gauge("recsys_workers_up", "Workers on this port that reported their metrics in time")
        ProcessCollector(registry=registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the series whose absence would leave ratios empty, or hide the first increment from rate()."""
        self.show_progress(0, {})
        self.show_workers(1, 1)
        for entity in ("item", "user", "category"):
            self.unreadable_rows.labels(entity)
        for gauge in (self.quarantined, self.connections, self.max_connections):
            gauge.set(float("nan"))  # not known yet; from 0, the first value would be a jump
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
        """Update the metrics of the snapshot in service."""
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
        self.badly_weighted.set(len(snapshot.items.badly_weighted))
        self.unreadable_rows.labels("category").set(len(snapshot.categories.unreadable))

    def count_unreadable_users(self, keys: Collection[int]) -> None:
        """Count users that a page left out, by key; each counts once."""
        if len(self._unreadable_users) < _MAX_KEYS:
            self._unreadable_users.update(keys)
        self.unreadable_rows.labels("user").set(len(self._unreadable_users))

    def show_progress(self, number: int, window: Mapping[str, float]) -> None:
        """Update the metrics of the update in service."""
        self.update_number.set(number)
        for model, name in (("updated", "auc"), ("frozen", "frozen_auc")):
            self.progressive_auc.labels(model).set(window.get(name, float("nan")))

    def show_watched(self, watched: Watched) -> None:
        """Update the metrics of updater, quarantine and connections, as read from Postgres."""
        self.updater_wanted.set(watched.is_wanted)
        self.updater_given_up.set(watched.has_given_up)
        self.quarantined.set(watched.n_quarantined)
        self.connections.set(watched.n_connections)
        self.max_connections.set(watched.max_connections)
        self.updater_heartbeat_age.set_function(_age_s(watched.heartbeat_at))

    def show_database(self, *, up: bool, n_in_use: int, n_idle: int, is_open: bool) -> None:
        """Update the metrics of Postgres at a scrape; `is_open`: the circuit breaker."""
        self.breaker_open.set(is_open)
        self.database_up.set(up)
        self.pool.labels("in_use").set(n_in_use)
        self.pool.labels("idle").set(n_idle)

    def show_workers(self, n: int, n_up: int) -> None:
        """Update the number of configured workers, and of those that responded at a scrape."""
        self.workers.set(n)
        self.workers_up.set(n_up)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def text_of_all(self) -> bytes:
        """The metrics of all workers together."""
        return generate_latest(self.registry.restricted_registry(OF_ALL_WORKERS))

    def text_of_worker(self, number: int) -> bytes:
        """All other metrics, each sample with the number of its worker."""
        return generate_latest(_OfWorker(self.registry, number))


class _OfWorker(Collector):
    """The metrics of one of several workers. (The label cannot be `worker`, which recsys_log_worker_up has.)"""

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
    """A function: the seconds since an instant, NaN without one."""
    return lambda: (dt.datetime.now(dt.UTC) - since).total_seconds() if since else float("nan")
