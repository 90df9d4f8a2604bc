"""The page says the verdict first, and in which table row what was not judged."""

from __future__ import annotations

import numpy as np

from recsys.evaluation import gate
from recsys.evaluation.gate_page import Setting, page
from tests.unit.evaluation.test_gate import GOOD, POPULARITY, SOUND, of_other_users

SETTING = Setting("ranker/new", "2026-01-01 00:00 to 2026-01-15 00:00", "400: all users")
MEANS = {name: float(np.mean(values)) for name, values in POPULARITY.items()}


def written(challenger, champion, overlap: float | None = None) -> str:
    bounds = gate.Bounds()
    decision = gate.decide(
        challenger, champion, POPULARITY, SOUND, bounds, champion_name="ranker/old", notes=["a note"]
    )
    return page(decision, SETTING, MEANS, SOUND, overlap)


def test_the_verdict_is_its_title_and_everything_compared_is_in_it() -> None:
    text = written(GOOD, GOOD, 0.87)
    title, *lines = text.splitlines()
    assert title.startswith("# accepted: not more than 10% worse than ranker/old over 400 users")
    assert "| compared with | ranker/old |" in lines
    assert "| label window | 2026-01-01 00:00 to 2026-01-15 00:00 |" in lines
    (new,) = [line for line in lines if line.startswith("| new users |")]
    assert new.endswith("| not judged, too few users |")
    (everybody,) = [line for line in lines if line.startswith("| all |")]
    assert everybody.split(" | ")[1:5] == [
        "400",
        *[f"{v:.4f}" for v in (GOOD["all"].mean(),) * 2],
        f"{MEANS['all']:.4f}",
    ]
    assert any("87%" in line for line in lines)
    assert "- a note" in lines


def test_what_would_be_needed_is_there_when_nobody_can_tell() -> None:
    text = written(*of_other_users(71, loss=0.2, seed=3))
    assert text.startswith("# cannot tell: 71 users")
    assert "RECSYS_LABEL_WINDOW_DAYS" in text
    assert "RECSYS_LABEL_WINDOW_DAYS" not in written(GOOD, GOOD)


def test_popularity_as_the_reference_stands_in_its_own_column_only() -> None:
    (row,) = [line for line in written(GOOD, None).splitlines() if line.startswith("| all |")]
    assert row.split(" | ")[3:5] == ["", f"{MEANS['all']:.4f}"]
