"""Metrics that are counted for every request, by plain additions.

prometheus_client takes a lock for each increment, which takes as long as validating a request. These counters may be
incremented on the event loop only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, product
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fast_api_service.schemas import ItemSource, Tier
from recsys.serving.config import Surface

SIMILAR, PREDICT = "similar", "predict"  # label `surface` of these routes
LISTING_ROUTES = ("/recommend", "/recommend/batch", "/similar/{item_id}")
DEGRADED_PARTS = ("personal_lists", "recent_events", "publication", "users", "model", "fold_in", "session")
MODEL_TIER = "model"  # label `tier` of /predict
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_ITEMS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Traffic:
    """Requests and responses of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tally, distribution = partial(Tally, registry=registry), partial(Distribution, registry=registry)
        self._requests = tally("recsys_requests", "Requests answered", ["route", "method", "status"])
        self._duration = distribution("recsys_request_duration_seconds", "Time to answer", "route", buckets=_SECONDS)
        self._answers = tally("recsys_answers", "Answers by the source of their first item", ["surface", "tier"])
        self._items = tally("recsys_items_served", "Items in answers by their source", ["source"])
        self._short = tally("recsys_short_answers", "Answers with fewer items than requested", ["route"])
        self._degraded = tally("recsys_degraded_answers", "Answers that lacked a part", ["part"])
        self._list_length = distribution("recsys_list_length", "Items in an answer", "route", buckets=_ITEMS)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the series whose absence would leave ratios empty, or hide the first increment from rate()."""
        for surface, tier in product((*get_args(Surface), SIMILAR), {*get_args(Tier), *get_args(ItemSource)}):
            self._answers.counts[surface, tier] = 0
        self._answers.counts[PREDICT, MODEL_TIER] = 0
        for route in LISTING_ROUTES:
            self._list_length.begin(route)
            self._short.counts[route,] = 0
        for source in get_args(ItemSource):
            self._items.counts[source,] = 0
        for part in DEGRADED_PARTS:
            self._degraded.counts[part,] = 0

    def count_request(self, route: str, method: str, status: int, duration_s: float) -> None:
        """Count a request."""
        self._requests.counts[route, method, status] += 1
        self._duration.observe(route, duration_s)

    def count_prediction(self, degraded: list[str]) -> None:
        """Count a response of /predict or /predict/product_positions, with its missing parts."""
        self._answers.counts[PREDICT, MODEL_TIER] += 1
        for part in degraded:
            self._degraded.counts[part,] += 1

    def count_answer(
        self, route: str, surface: str, tier: str, sources: Sequence[str], n_requested: int, degraded: list[str]
    ) -> None:
        """Count a response with items: their sources, whether they are fewer than requested, and missing parts."""
        self._answers.counts[surface, tier] += 1
        for source in set(sources):
            self._items.counts[source,] += sources.count(source)
        self._list_length.observe(route, len(sources))
        if len(sources) < n_requested:
            self._short.counts[route,] += 1
        for part in degraded:
            self._degraded.counts[part,] += 1


class Tally(Collector):
    """A counter by labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, tuple(labels)
        self.counts: Counter[tuple[str | int, ...]] = Counter()
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for labels, count in self.counts.items():
            family.add_metric([str(label) for label in labels], count)
        yield family


class Distribution(Collector):
    """A histogram by one label."""

    def __init__(
        self, name: str, documentation: str, label: str, registry: CollectorRegistry, buckets: Sequence[float]
    ) -> None:
        """`buckets`: upper bounds, ascending; one of +Inf is added."""
        self._name, self._documentation, self._labelnames = name, documentation, (label,)
        self._bounds = list(buckets)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def begin(self, label: str) -> None:
        """Create the series of a label."""
        self._counts.setdefault(label, [0] * (len(self._bounds) + 1))
        self._sums.setdefault(label, 0.0)

    def observe(self, label: str, value: float) -> None:
        """Count a value."""
        if label not in self._counts:
            self.begin(label)
        self._counts[label][bisect_left(self._bounds, value)] += 1
        self._sums[label] += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        names = [*map(str, self._bounds), "+Inf"]
        for label, counts in self._counts.items():
            family.add_metric([label], list(zip(names, accumulate(counts), strict=True)), self._sums[label])
        yield family
