"""The metrics by themselves: which series there are before anything has happened, and that each is documented."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fast_api_service.metrics import Metrics
from fast_api_service.traffic import LISTING_ROUTES
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.snapshot import ListVersion, Publication, Snapshot

README = Path(__file__).resolve().parents[3] / "monitoring" / "README.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def snapshot(**models: str) -> Snapshot:
    publication = Publication(3, 3, dt.datetime.now(dt.UTC), "published", "dataset/1", models, {}, {})
    return Snapshot(publication, ItemDictionary("integer"), CategoryTree("integer", {}, {}), {}, "integer")


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("recsys_degraded_answers_total", "part", ["personal_lists", "recent_events", "publication"]),
        ("recsys_events_total", "outcome", ["accepted", "duplicate", "rejected"]),
        ("recsys_shed_total", "reason", ["rate_limit", "queue"]),
        ("recsys_cold_starts_total", "user", ["light", "unknown", "anonymous", "unread"]),
    ],
)
def test_counters_begin_at_zero(name: str, label: str, values: list[str]) -> None:
    metrics = Metrics()
    assert [value(metrics, name, **{label: word}) for word in values] == [0.0] * len(values)
    assert value(metrics, name, **{label: "another"}) is None


def test_every_degraded_answer_is_an_answer() -> None:
    """The share of degraded answers is at most 1, whichever routes are asked."""
    metrics = Metrics()
    for _ in range(3):
        metrics.traffic.count_prediction(["users", "recent_events"])
    metrics.traffic.count_prediction([])
    assert value(metrics, "recsys_degraded_answers_total", part="users") == 3.0
    assert value(metrics, "recsys_answers_total", surface="predict", tier="model") == 4.0


def test_short_answers_begin_at_zero_for_every_route_that_lists() -> None:
    for route in LISTING_ROUTES:
        assert value(Metrics(), "recsys_short_answers_total", route=route) == 0.0
        assert value(Metrics(), "recsys_list_length_count", route=route) == 0.0


def test_the_age_of_the_data_is_what_the_name_of_the_data_set_says() -> None:
    metrics = Metrics()
    day = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    named = replace(snapshot().publication, dataset=f"dataset/{day:%Y%m%dT%H%M%S}-1a2b3c4d5e")
    metrics.show(replace(snapshot(), publication=named))
    assert value(metrics, "recsys_data_age_seconds") == pytest.approx(2 * 86400, abs=60)
    for unnamed in (snapshot(), None):  # dataset/1
        metrics.show(unnamed)
        assert math.isnan(value(metrics, "recsys_data_age_seconds") or 0)


def test_each_kind_of_list_has_the_age_of_its_own_data() -> None:
    metrics = Metrics()
    now = dt.datetime.now(dt.UTC)
    versions = {
        kind: ListVersion(1, kind, "v", f"dataset/{now - dt.timedelta(days=days):%Y%m%dT%H%M%S}-1a", "t", now, 1, 1, ())
        for kind, days in {"ranked": 1, "i2i": 9}.items()
    }
    metrics.show(replace(snapshot(), publication=replace(snapshot().publication, lists=versions)))
    for kind, days in {"ranked": 1, "i2i": 9}.items():
        assert value(metrics, "recsys_list_data_age_seconds", kind=kind) == pytest.approx(days * 86400, abs=60)
    metrics.show(snapshot())  # a publication without these kinds
    assert value(metrics, "recsys_list_data_age_seconds", kind="i2i") is None


def test_answers_begin_at_zero_for_every_surface_and_list() -> None:
    for tier in ("ranked", "personal", "i2i", "popular", "nothing"):
        for surface in ("homepage", "product_detail", "category_list", "cart", "similar"):
            assert value(Metrics(), "recsys_answers_total", surface=surface, tier=tier) == 0.0


def test_the_models_are_those_of_the_publication_in_service() -> None:
    metrics = Metrics()
    metrics.show(snapshot(als="als/v1", ranker="ranker/v1"))
    assert value(metrics, "recsys_model_info", model="als", artifact="als/v1") == 1.0
    assert value(metrics, "recsys_model_info", model="ranker", artifact="ranker/v1") == 1.0
    metrics.show(snapshot(als="als/v2"))
    assert value(metrics, "recsys_model_info", model="als", artifact="als/v2") == 1.0
    assert value(metrics, "recsys_model_info", model="als", artifact="als/v1") is None
    metrics.show(None)
    assert value(metrics, "recsys_model_info", model="als", artifact="als/v2") is None


def test_the_pool_is_told_at_the_scrape() -> None:
    metrics = Metrics()
    metrics.show_database(up=True, n_in_use=3, n_idle=1, is_open=True)
    assert value(metrics, "recsys_breaker_open") == 1
    assert value(metrics, "recsys_pool_connections", state="in_use") == 3.0
    assert value(metrics, "recsys_pool_connections", state="idle") == 1.0
    assert value(metrics, "recsys_database_up") == 1.0


def test_every_metric_is_documented_and_no_other() -> None:
    named = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if family.name.startswith("recsys_")
    }
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `recsys_")]
    assert {name for row in rows for name in re.findall(r"`(recsys_\w+)`", row.split("|")[1])} == named
