"""A shop whose customers buy the same things again: with `task` all, lists, labels and rules let them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.settings import Settings
from recsys.steps import default_recommendations, import_raw, prepare_dataset, publish, rank_users, train_ranker
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


def context(database: sa.Engine, url: str, folder: Path, **changed: object) -> Context:
    settings = Settings(
        database_url=url,
        artifact_root=str(folder / "artifacts"),
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        local_dir=folder,
        generators=["popular", "covisitation"],
        ranker_params={"iterations": 40, "losses": ["Logloss"]},
        n_label_windows=2,
        **changed,
    )
    tracker = Tracker(settings.mlflow_tracking_uri, str(folder / "m"))
    return Context(settings, database, ArtifactStore(settings.artifact_root), tracker)


def ranked(database: sa.Engine, url: str, folder: Path, **changed: object) -> tuple[Task, float]:
    """The task of the data set, and how much of the top 3 of the ranked lists their users have bought before."""
    ctx = context(database, url, folder, **changed)
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


def test_a_champion_of_another_task_ranks_nothing_and_the_lists_of_that_task_leave(
    database: sa.Engine, database_url: str, imported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The night after the task was changed, and before a ranker of the new one is accepted."""
    before = context(database, database_url, imported, bought_event_types=[])
    prepare_dataset.run(ctx=before)
    default_recommendations.run(ctx=before)
    rank_users.run(ctx=before)
    assert "ranked" in publish.run(ctx=before)["lists"]

    ctx = context(database, database_url, imported, task="discovery")
    ref = prepare_dataset.run(ctx=ctx)["dataset"]
    with database.begin() as connection:  # what the ranker of an earlier test made
        connection.execute(sa.delete(tables.training_runs).where(tables.training_runs.c.dataset == ref))
    default_recommendations.run(ref, ctx=ctx)
    caplog.clear()
    skipped = rank_users.run(ref, ctx=ctx)["skipped"]
    assert "was trained for the task all, and the data set is for discovery" in skipped
    assert f"rank_users is skipped: {skipped}" in caplog.text
    assert ctx.refusal("rank_users", ref) == skipped
    published = publish.run(ref, ctx=ctx)
    assert "ranked" not in published["lists"]
    assert "made for the task all" in published["dropped"]["ranked"]
    client = ctx.tracker._client
    (experiment,) = [one for one in client.search_experiments() if one.name == "skipped"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.step = 'rank_users'")
    assert (run.info.status, run.data.tags["skipped"]) == ("FINISHED", skipped)
    assert run.data.tags["dataset"] == ref
