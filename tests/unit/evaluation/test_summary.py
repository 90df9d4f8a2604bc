"""The summary says who is best, by how much, where the two stages lose, and what bounds them."""

from __future__ import annotations

from typing import Any

from recsys.evaluation.report import ALL, AS_LEARNED, MEAN
from recsys.evaluation.summary import summary


def row(segment: str, system: str, value: float, difference: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    low, high = value - 0.01, value + 0.01
    found = {"task": "discovery", "cut": MEAN, "segment": segment, "system": system, "best_stage": "ease"}
    found |= {"ndcg@10": value, "ndcg@10_low": low, "ndcg@10_high": high}
    return found | dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)) | more


POOL = {"pool_recall": 0.6, "missed": 0.5, "missed_new_items": 0.9, "missed_tail_items": None, "unknown_items": 0.03}
ROWS = [
    row(ALL, "ease", 0.10, (0, 0, 0)),
    row(ALL, "two-stage", 0.12, (0.02, 0.01, 0.03), **POOL),
    row("light", "ease", 0.10, (0, 0, 0)),
    row("light", "two-stage", 0.09, (-0.01, -0.03, 0.01)),
    row("heavy", "ease", 0.10, (0, 0, 0)),
    row("heavy", "two-stage", 0.15, (0.05, 0.04, 0.06)),
]


def test_the_best_system_where_it_loses_and_the_ceiling() -> None:
    best, segments, ceiling = summary(ROWS)
    assert best == (
        "discovery: two-stage is best, NDCG@10 0.1200 (95 % interval 0.1100 to 0.1300), above ease, the best single"
        " stage, by +0.0200 (+0.0100 to +0.0300), +20%: shown."
    )
    assert "loses to its best stage in: light (to ease by -0.0100" in segments
    assert "not shown" in segments
    assert "heavy" not in segments
    assert "60% of what a user goes for" in ceiling
    assert "50% of all labels, 90% of those on new items; 3% are on items" in ceiling


def test_a_single_stage_may_be_best() -> None:
    lost = [row(ALL, "ease", 0.10, (0, 0, 0)), row(ALL, "two-stage", 0.08, (-0.02, -0.03, -0.01))]
    best, segments = summary(lost)
    assert "ease is best" in best
    assert "two-stage differs by -0.0200 (-0.0300 to -0.0100): shown" in best
    assert "loses to its best stage in: all" in segments


def test_probabilities_have_a_sentence() -> None:
    found = {
        "task": "discovery",
        "segment": ALL,
        "system": "two-stage",
        "predicted": 0.011,
        "observed": 0.01,
        "ece": 0.002,
    }
    assert len(summary(ROWS, [found | {"system": AS_LEARNED}])) == len(summary(ROWS))
    assert summary(ROWS, [found])[-1] == (
        "discovery: two-stage says 1.10% on average where 1.00% came true; expected calibration error 0.20%."
    )
