"""Counters and histograms of what every request counts: plain additions, read at the scrape.

prometheus_client takes a lock for each increment, which costs a request as much as its validation. These are for the
event loop alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally(Collector):
    """A counter by labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, tuple(labels)
        self._counts: dict[tuple[str, ...], int] = {}
        registry.register(self)

    def add(self, *labels: str, n: int = 1) -> None:
        """Count `n` more; 0 makes the series."""
        self._counts[labels] = self._counts.get(labels, 0) + n

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
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
        """Make the series."""
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
