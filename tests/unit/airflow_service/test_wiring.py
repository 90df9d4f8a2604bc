"""How a task learns which data set it is about, and how it tells the next one."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_service import wiring

D1, D2 = "dataset/20111209T125000-1a2b3c4d5e", "dataset/20111208T125000-aaaaaaaaaa"
MIDNIGHT = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)


class OutletEvent:
    extra: dict[str, Any] = {}  # noqa: RUF012 - assigned, never changed in place

    def __init__(self) -> None:
        self.partitions: list[str] = []

    def add_partitions(self, key: str) -> None:
        self.partitions.append(key)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the running task sees of its DAG run."""

    def set_context(
        params: dict[str, Any], partition_key: str | None = None, run_type: str = "manual"
    ) -> dict[str, Any]:
        dag_run = SimpleNamespace(partition_key=partition_key, run_type=run_type, data_interval_end=MIDNIGHT)
        context = {"params": params, "dag_run": dag_run, "outlet_events": {wiring.ALS: OutletEvent()}}
        monkeypatch.setattr(wiring, "get_current_context", lambda: context)
        return context

    return set_context


@pytest.mark.parametrize(
    ("by_hand", "by_event", "expected"),
    [(None, D1, D1), (D2, None, D2), (D2, D1, D2), (None, None, None)],
    ids=["event", "hand", "hand wins", "newest"],
)
def test_dataset_of_a_run(run: Any, by_hand: str | None, by_event: str | None, expected: str | None) -> None:
    run({"dataset": by_hand, "force": True}, by_event)
    assert wiring.asked() == {"dataset": expected, "force": True}


@pytest.mark.parametrize(
    ("run_type", "by_hand", "expected"),
    [
        ("scheduled", None, MIDNIGHT.isoformat()),
        ("backfill", None, MIDNIGHT.isoformat()),
        ("manual", None, None),
        ("manual", "2011-12-01T00:00:00Z", "2011-12-01T00:00:00Z"),
        ("backfill", "2011-12-01T00:00:00Z", "2011-12-01T00:00:00Z"),
    ],
)
def test_instant_of_a_run(run: Any, run_type: str, by_hand: str | None, expected: str | None) -> None:
    run({"as_of": by_hand, "force": False}, run_type=run_type)
    assert wiring.asked_of_time() == {"as_of": expected, "force": False}


def test_an_event_carries_the_references_and_its_data_set(run: Any) -> None:
    context = run({"dataset": None, "force": False}, D1)
    result = {"dataset": D1, "serving": "als/x", "history": ["als/y"]}
    assert wiring.announce(wiring.ALS, result) is result
    event = context["outlet_events"][wiring.ALS]
    assert (event.extra, event.partitions) == (result, [D1])
