"""What Prometheus reads at /metrics."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from fast_api_service.schemas import ItemSource, Tier, UserStatus
from fast_api_service.watched import Watched
from recsys.serving.cascade import tier
from recsys.serving.config import Surface
from recsys.serving.snapshot import Snapshot
from recsys.serving.sources import Pick

_DATASET = re.compile(r"dataset/([0-9]{8}T[0-9]{6})-")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
SIMILAR, PREDICT = "similar", "predict"  # what these routes count answers under, where /recommend has the surface
LISTING_ROUTES = ("/recommend", "/recommend/batch", "/similar/{item_id}")
_ITEMS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
DEGRADED_PARTS = ("personal_lists", "neighbours", "recent_events", "publication", "users", "model", "fold_in")
EXPOSURE_OUTCOMES = ("written", "dropped")
EVENT_OUTCOMES = ("accepted", "duplicate", "rejected")
MODEL_TIER = "model"  # of an answer of /predict, which comes from no list
SHED_REASONS = ("rate_limit", "queue")
_MAX_KEYS = 100_000
MODELS = ("deepfm", "als")
AUTH_FAILURES = ("missing", "wrong", "expired", "scope", "page")


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "recsys_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.duration = Histogram(
            "recsys_request_duration_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.answers = Counter(
            "recsys_answers", "Answers by the source that came first", ["surface", "tier"],
            registry=registry,
        )  # fmt: skip
        self.items = Counter("recsys_items_served", "Items in answers by their source", ["source"], registry=registry)
        self.cold_starts = Counter(
            "recsys_cold_starts", "Answers without a list of the user's own", ["user"], registry=registry
        )
        self.short = Counter(
            "recsys_short_answers", "Answers with fewer items than asked for", ["route"], registry=registry
        )
        self.degraded = Counter(
            "recsys_degraded_answers", "Answers that went out without a part", ["part"], registry=registry
        )
        self.list_length = Histogram(
            "recsys_list_length", "Items in an answer", ["route"], buckets=_ITEMS, registry=registry
        )
        self.events = Counter("recsys_events", "Events posted to the log", ["outcome"], registry=registry)
        self.exposures = Counter(
            "recsys_exposures", "Answers for the exposure log by what became of them", ["outcome"], registry=registry
        )
        self.exposures_waiting = Gauge(
            "recsys_exposures_waiting", "Answers that are not in the exposure log yet", registry=registry
        )
        self.task_restarts = Counter(
            "recsys_task_restarts", "Background tasks that failed and were begun again", ["task"], registry=registry
        )
        self.auth_failures = Counter(
            "recsys_auth_failures", "Requests refused for want of a key or a scope", ["reason"], registry=registry
        )
        self.shed = Counter("recsys_shed", "Requests turned away under pressure", ["reason"], registry=registry)
        self.config_id = Gauge("recsys_config_id", "Serving configuration in force, 0: the defaults", registry=registry)
        self.switches = Counter("recsys_publication_switches", "Publications taken into service", registry=registry)
        self.database_up = Gauge("recsys_database_up", "1 while Postgres answers", registry=registry)
        self.config_refused = Counter(
            "recsys_config_refused", "Stored configurations that this service cannot read", registry=registry
        )
        self.config_passed_over = Gauge(
            "recsys_config_passed_over", "Configurations newer than the one in force that this service cannot read",
            registry=registry,
        )  # fmt: skip
        self.breaker_open = Gauge(
            "recsys_breaker_open", "1 while requests do not try a source", ["source"], registry=registry
        )
        self.pool = Gauge("recsys_pool_connections", "Connections to Postgres", ["state"], registry=registry)
        self.publication_id = Gauge("recsys_publication_id", "Publication in service, 0: none", registry=registry)
        self.publication_age = Gauge(
            "recsys_publication_age_seconds", "Time since the publication in service was made", registry=registry
        )
        self.data_age = Gauge(
            "recsys_data_age_seconds", "Since the last event of the data set behind the publication", registry=registry
        )
        self.list_data_age = Gauge(
            "recsys_list_data_age_seconds", "Since the last event of the data set behind the lists of a kind", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.model_info = Gauge(
            "recsys_model_info", "1 for each model behind the publication in service", ["model", "artifact"],
            registry=registry,
        )  # fmt: skip
        self.model_loaded = Gauge("recsys_model_loaded", "1 while a model can score", registry=registry)
        self.model_failures = Counter(
            "recsys_model_load_failures", "Models that could not be loaded", ["model"], registry=registry
        )
        self.updates_applied = Counter(
            "recsys_model_updates", "Updates of the model that were taken over", registry=registry
        )
        self.update_failures = Counter(
            "recsys_model_update_failures", "Updates that could not be read or were not what was committed",
            registry=registry,
        )  # fmt: skip
        self.update_reloads = Counter(
            "recsys_model_update_reloads", "Gaps in the updates, after which a base was loaded again", registry=registry
        )
        self.update_rollbacks = Counter(
            "recsys_model_update_rollbacks", "Times the model was set back to a base", registry=registry
        )
        self.update_number = Gauge("recsys_model_update_number", "Update in service, 0: none", registry=registry)
        self.update_delay = Gauge(
            "recsys_model_update_delay_seconds", "From the last update's commit until it was in service",
            registry=registry,
        )  # fmt: skip
        self.progressive_auc = Gauge(
            "recsys_progressive_auc", "How well the last events were predicted before they were learned", ["model"],
            registry=registry,
        )  # fmt: skip
        self.updater_lag = Gauge("recsys_updater_lag_events", "Events that were not learned yet", registry=registry)
        self.updater_heartbeat_age = Gauge(
            "recsys_updater_heartbeat_age_seconds", "Since the updater gave a sign of life", registry=registry
        )
        self.updater_wanted = Gauge("recsys_updater_wanted", "1 while the updater is asked to learn", registry=registry)
        self.updater_given_up = Gauge(
            "recsys_updater_given_up", "1 while nobody tries to start the updater again", registry=registry
        )
        self.quarantined = Gauge(
            "recsys_quarantined_events", "Posted events in quarantine, as they contradict others", registry=registry
        )
        self.connections = Gauge(
            "recsys_postgres_connections", "Connections that Postgres has from anybody", registry=registry
        )
        self.max_connections = Gauge(
            "recsys_postgres_max_connections", "Connections that Postgres allows", registry=registry
        )
        self.outbox_events = Gauge(
            "recsys_outbox_events", "Events in the outbox that Kafka does not have yet", registry=registry
        )
        self.outbox_age = Gauge(
            "recsys_outbox_oldest_seconds", "Since the oldest event in the outbox came", registry=registry
        )
        self.sink_lag = Gauge("recsys_sink_lag_messages", "Messages that the sink has not passed", registry=registry)
        self.dead_letters = Gauge("recsys_dead_letters", "Messages in the topic for dead letters", registry=registry)
        self.log_worker_up = Gauge(
            "recsys_log_worker_up", "1 while such a process is at work, wherever it runs", ["worker"],
            registry=registry,
        )  # fmt: skip
        self.predictions = Counter("recsys_predictions", "Pairs scored for clients", registry=registry)
        self.unreadable_rows = Gauge(
            "recsys_unreadable_rows", "Rows of the catalogue that are left out, as their ids are none", ["entity"],
            registry=registry,
        )  # fmt: skip
        self._unreadable_users: set[int] = set()  # keys; users are not in memory, so these are the ones that were met
        self.catalogue_items = Gauge("recsys_catalogue_items", "Items known", ["state"], registry=registry)
        ProcessCollector(registry=registry)
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._series = lru_cache(maxsize=1000)(_series)  # prometheus_client takes a lock to find one
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Make the series whose absence would leave ratios empty, or hide the first increment from rate()."""
        self.show_progress(0, {})
        for entity in ("item", "user", "category"):
            self.unreadable_rows.labels(entity)
        for gauge in (self.quarantined, self.connections, self.max_connections):
            gauge.set(float("nan"))  # not known yet: 0 would be a leap to the first number
        for surface, of in product((*get_args(Surface), SIMILAR), {*get_args(Tier), *get_args(ItemSource)}):
            self.answers.labels(surface, of)
        self.answers.labels(PREDICT, MODEL_TIER)
        for route in LISTING_ROUTES:
            self.list_length.labels(route)
        for source in get_args(ItemSource):
            self.items.labels(source)
        for user in set(get_args(UserStatus)) - {"known"}:
            self.cold_starts.labels(user)
        for counter, values in (
            (self.degraded, DEGRADED_PARTS),
            (self.events, EVENT_OUTCOMES),
            (self.exposures, EXPOSURE_OUTCOMES),
            (self.shed, SHED_REASONS),
            (self.auth_failures, AUTH_FAILURES),
            (self.model_failures, MODELS),
            (self.short, LISTING_ROUTES),
        ):
            for value in values:
                counter.labels(value)

    def count_request(self, route: str, method: str, status: int, duration_s: float) -> None:
        """One request answered."""
        key = (route, method, status)
        found = self._by_request.get(key)
        if found is None:
            counter = self.requests.labels(route, method, str(status))
            found = self._by_request[key] = (counter, self.duration.labels(route))
        found[0].inc()
        found[1].observe(duration_s)

    def count_prediction(self, degraded: list[str]) -> None:
        """One answer of /predict or /predict/product_positions, and what was missing."""
        self._series(self.answers, PREDICT, MODEL_TIER).inc()
        for part in degraded:
            self._series(self.degraded, part).inc()

    def count_answer(self, route: str, surface: str, picks: Sequence[Pick], n_asked: int, degraded: list[str]) -> None:
        """One answer with items: where they came from, how many they are of those asked for, what was missing."""
        series = self._series
        series(self.answers, surface, tier(picks)).inc()
        sources = [pick[2] for pick in picks]
        for source in set(sources):
            series(self.items, source).inc(sources.count(source))
        series(self.list_length, route).observe(len(picks))
        if len(picks) < n_asked:
            series(self.short, route).inc()
        for part in degraded:
            series(self.degraded, part).inc()

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
        self.data_age.set_function(_age_s(data_until_of(snapshot.publication.dataset)))
        for kind, version in snapshot.publication.lists.items():
            self.list_data_age.labels(kind).set_function(_age_s(data_until_of(version.dataset)))
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

    def show_database(self, *, up: bool, n_in_use: int, n_idle: int, is_open: Mapping[str, bool]) -> None:
        """Set what is known of Postgres at the moment of a scrape; `is_open`: the circuit breakers."""
        for source, one in is_open.items():
            self.breaker_open.labels(source).set(one)
        self.database_up.set(up)
        self.pool.labels("in_use").set(n_in_use)
        self.pool.labels("idle").set(n_idle)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)


def data_until_of(dataset: str) -> dt.datetime | None:
    """When the last event of a data set occurred, as its name says; None where it does not."""
    found = _DATASET.match(dataset)
    return dt.datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC) if found else None


def _age_s(since: dt.datetime | None) -> Callable[[], float]:
    """Gives the seconds since an instant, NaN where there is none."""
    return lambda: (dt.datetime.now(dt.UTC) - since).total_seconds() if since else float("nan")


def _series(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)
