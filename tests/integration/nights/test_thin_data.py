"""Of every shop, however thin its data, what can be published is, and what is missing is said with its cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.settings import Settings
from recsys.steps import import_raw, run_all
from recsys.steps.context import Context
from recsys.storage import publications
from recsys.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OPTIONS = {"user": "user", "item": "item", "timestamp": "at", "event": "event"}
DAY_S = 86_400
START = 1_714_521_600  # 2024-05-01
Rows = list[tuple[str, str, float, str]]  # user, item, days since the start, type


def shop(days: float, types: tuple[str, ...], n_users: int = 60, n_items: int = 40, n: int = 1_200) -> Rows:
    random = np.random.default_rng(3)
    return [
        (f"u{random.integers(n_users)}", f"i{random.integers(n_items)}", float(day), types[random.integers(len(types))])
        for day in np.sort(random.random(n)) * days
    ]


ALL = ("view", "view", "view", "addtocart", "transaction")
WORLDS: dict[str, Rows] = {
    "only views": shop(90, ("view",)),
    "one event each": [(f"g{i}", item, day, event) for i, (_, item, day, event) in enumerate(shop(90, ALL))],
    "five by five": [(f"u{i % 5}", f"i{(i * i) % 5}", i * 0.9, "transaction") for i in range(12)],
    "a single item": [(user, "only", day, event) for user, _, day, event in shop(90, ALL)],
    "one day": shop(1, ALL),
    "one user": [("u", item, day, event) for _, item, day, event in shop(90, ALL)],
    "one user and one item": [("u", "i", float(day), "view") for day in range(30)],
    "one event": [("u", "i", 0.0, "view")],
    "all at one instant": [(user, item, 5.0, event) for user, item, _, event in shop(90, ALL)],
    "everything bought by everybody": [
        (f"u{u}", f"i{i}", u + i * 0.1, "transaction") for u in range(40) for i in range(3)
    ],
}


@pytest.fixture
def night(clean_database: sa.Engine, clean_database_url: str, tmp_path: Path) -> Callable[[Rows], dict[str, Any]]:
    """Import and publish a shop."""
    settings = Settings(
        database_url=clean_database_url,
        artifact_root=str(tmp_path / "artifacts"),
        mlflow_tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        local_dir=tmp_path,
        generators=["popular", "als", "covisitation", "ease"],
        ranker_params={"iterations": 30, "losses": ["Logloss"]},
        n_label_windows=2,
    )
    tracker = Tracker(settings.mlflow_tracking_uri, str(tmp_path / "m"))
    ctx = Context(settings, clean_database, ArtifactStore(settings.artifact_root), tracker)

    def run(rows: Rows) -> dict[str, Any]:
        lines = [f"{user},{item},{START + day * DAY_S:.3f},{event}" for user, item, day, event in rows]
        (tmp_path / "events.csv").write_text("\n".join(["user,item,at,event", *lines, ""]))
        import_raw.run(
            "table", tmp_path / "events.csv", options=OPTIONS, engine=clean_database, quarantine_dir=tmp_path / "bad"
        )
        return run_all.run(ctx=ctx)

    return run


@pytest.mark.parametrize("world", WORLDS)
def test_what_can_be_published_is(night, clean_database: sa.Engine, monkeypatch, world: str) -> None:
    steps = tuple((name, step) for name, step in run_all.STEPS if name != "train_deepfm")  # it takes minutes
    monkeypatch.setattr(run_all, "STEPS", steps)
    result = night(WORLDS[world])
    assert "train_sequence" not in result, "the settings name no generator that needs it"
    lists = result["publish"]["lists"]
    assert lists["default"] >= 1
    assert lists["history"] >= 1
    publications.verify(clean_database)
    made = {"default_recommendations": "default", "i2i_recommendations": "i2i", "similar_items": "similar"}
    made |= {"personal_recommendations": "personal", "rank_users": "ranked", "user_history": "history"}
    for step, kind in made.items():
        assert (kind in lists) != (step in result["left_out"]), f"{kind}: there, or why it is not"
    for why in result["left_out"].values():
        assert "microseconds" not in why
        assert len(why) > 20


def test_the_cause_is_named_with_what_removes_it(night, monkeypatch) -> None:
    steps = tuple((name, step) for name, step in run_all.STEPS if name != "train_deepfm")
    monkeypatch.setattr(run_all, "STEPS", steps)
    left_out = night(WORLDS["only views"])["left_out"]
    assert "addtocart, transaction" in left_out["train_als"]
    assert "--option labels=view" in left_out["train_als"]
    assert "addtocart, transaction" in left_out["personal_recommendations"], "the cause, and not only its effect"
    assert "i2i_recommendations" not in left_out


def test_a_short_span_is_said_in_dates(night, monkeypatch) -> None:
    steps = tuple((name, step) for name, step in run_all.STEPS if name != "train_deepfm")
    monkeypatch.setattr(run_all, "STEPS", steps)
    left_out = night(WORLDS["one day"])["left_out"]
    assert "1.0 days, from 2024-05-01" in left_out["train_ranker"]
    assert "RECSYS_LABEL_WINDOW_DAYS" in left_out["train_ranker"]
