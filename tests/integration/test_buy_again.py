"""A shop whose customers buy the same things again: with `task` all, lists, labels and rules let them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.settings import Settings
from recsys.steps import import_raw, prepare_dataset, rank_users, train_ranker
from recsys.steps.context import Context
from recsys.storage import tables
from recsys.tracking import Tracker
from recsys.types import Task

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DAY_S = 86_400
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()
N_USERS, N_ITEMS, N_DAYS = 240, 60, 90


def groceries(path: Path) -> None:
    """Everybody buys three things of their own every week, and something else now and then."""
    random = np.random.default_rng(5)
    lines = ["user,item,at"]
    for user in range(N_USERS):
        own = random.choice(N_ITEMS, 3, replace=False)
        for day in range(user % 7, N_DAYS, 7):
            items = [*own, *random.choice(N_ITEMS, int(random.random() < 0.5))]
            lines += [f"u{user},i{item},{START + day * DAY_S + user:.0f}" for item in items]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def imported(database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groceries")
    groceries(folder / "events.csv")
    options = {"user": "user", "item": "item", "timestamp": "at"}
    import_raw.run("table", folder / "events.csv", options=options, engine=database, quarantine_dir=folder / "bad")
    return folder


def ranked(database: sa.Engine, url: str, folder: Path, **changed: object) -> tuple[Task, float]:
    """The task of the data set, and how much of the top 3 of the ranked lists their users have bought before."""
    settings = Settings(
        database_url=url,
        artifact_root=str(folder / "artifacts"),
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        local_dir=folder,
        generators=["popular", "covisitation"],
        ranker_params={"iterations": 40, "losses": ["Logloss"]},
        n_label_windows=2,
        gate_min_users=1_000_000,
        **changed,
    )
    ctx = Context(
        settings,
        database,
        ArtifactStore(settings.artifact_root),
        Tracker(settings.mlflow_tracking_uri, str(folder / "m")),
    )
    ref = prepare_dataset.run(ctx=ctx)["dataset"]
    _, data = ctx.dataset(ref)
    assert train_ranker.run(ctx=ctx)["accepted"]
    version = rank_users.run(ctx=ctx)["list_version"]
    events = data.interactions()
    own = set(zip(events.user_key.tolist(), events.item_key.tolist(), strict=True))
    query = sa.select(tables.lists.c.owner_key, tables.lists.c.item_keys).where(
        tables.lists.c.list_version_id == version
    )
    with database.connect() as connection:
        meaning = connection.execute(sa.text("select * from event_meaning")).one()
        assert meaning.hides_bought is (data.meta.task is Task.DISCOVERY), "the service does as the night does"
        assert meaning.bought_event_types == list(data.meta.bought_event_types)
        assert meaning.event_weights == {"interaction": 1.0}
        top = [(user, item) for user, items in connection.execute(query) for item in items[:3]]
    assert len(top) > 3 * N_USERS * 0.9
    return data.meta.task, sum(pair in own for pair in top) / len(top)


def test_bought_items_are_hidden_by_default_and_lead_the_lists_where_the_task_is_all(
    database: sa.Engine, database_url: str, imported: Path
) -> None:
    task, share = ranked(database, database_url, imported, task="discovery")
    assert (task, share) == (Task.DISCOVERY, 0.0)
    task, share = ranked(database, database_url, imported, task="all")
    assert task is Task.ALL
    assert share > 0.9
    task, share = ranked(database, database_url, imported, bought_event_types=[])
    assert task is Task.ALL, "where nothing counts as bought, nothing is hidden"
    assert share > 0.9
