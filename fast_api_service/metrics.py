"""What Prometheus reads at /metrics."""

from __future__ import annotations

import datetime as dt

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from recsys.serving.snapshot import Snapshot

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


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
            "recsys_answers", "Recommendation answers by the source that came first", ["surface", "tier"],
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
        self.auth_failures = Counter(
            "recsys_auth_failures", "Requests refused for want of a key or a scope", ["reason"], registry=registry
        )
        self.shed = Counter("recsys_shed", "Requests refused as too many", ["reason"], registry=registry)
        self.switches = Counter("recsys_publication_switches", "Publications taken into service", registry=registry)
        self.database_up = Gauge("recsys_database_up", "1 while Postgres answers", registry=registry)
        self.publication_id = Gauge("recsys_publication_id", "Publication in service, 0: none", registry=registry)
        self.publication_age = Gauge(
            "recsys_publication_age_seconds", "Time since the publication in service was made", registry=registry
        )
        self.catalogue_items = Gauge("recsys_catalogue_items", "Items known", ["state"], registry=registry)
        ProcessCollector(registry=registry)

    def show(self, snapshot: Snapshot | None) -> None:
        """Set what depends on the snapshot in service."""
        if snapshot is None:
            self.publication_id.set(0)
            self.publication_age.set_function(lambda: float("nan"))
            self.catalogue_items.clear()
            return
        created_at = snapshot.publication.created_at
        self.publication_id.set(snapshot.publication.publication_id)
        self.publication_age.set_function(lambda: (dt.datetime.now(dt.UTC) - created_at).total_seconds())
        self.catalogue_items.labels("available").set(snapshot.items.n_available)
        self.catalogue_items.labels("unavailable").set(len(snapshot.items) - snapshot.items.n_available)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
