"""The metrics by themselves: which series there are before anything has happened, and that each is documented."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from fast_api_service.metrics import Metrics
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.snapshot import Publication, Snapshot

README = Path(__file__).resolve().parents[3] / "monitoring" / "README.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def snapshot(**models: str) -> Snapshot:
    publication = Publication(3, 3, dt.datetime.now(dt.UTC), "published", "dataset/1", models, {}, {})
    return Snapshot(publication, ItemDictionary("integer"), CategoryTree("integer", {}, {}), {}, "integer")


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("recsys_degraded_answers_total", "part", ["personal_lists", "neighbours", "recent_events"]),
        ("recsys_events_total", "outcome", ["accepted", "duplicate", "rejected"]),
        ("recsys_shed_total", "reason", ["rate_limit", "queue"]),
        ("recsys_cold_starts_total", "user", ["light", "unknown", "anonymous", "unread"]),
    ],
)
def test_counters_begin_at_zero(name: str, label: str, values: list[str]) -> None:
    metrics = Metrics()
    assert [value(metrics, name, **{label: word}) for word in values] == [0.0] * len(values)
    assert value(metrics, name, **{label: "another"}) is None


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
    metrics.show_database(up=True, n_in_use=3, n_idle=1, is_open={"user_lists": True})
    assert metrics.registry.get_sample_value("recsys_breaker_open", {"source": "user_lists"}) == 1
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
