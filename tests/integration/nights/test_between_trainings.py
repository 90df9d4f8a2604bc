"""Nights on which no training is due: newer data, users and items, with the models that are there."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import Any

import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.errors import NotFoundError
from recsys.settings import Settings
from recsys.steps import (
    generate_shop,
    import_raw,
    prepare_dataset,
    publish,
    rank_users,
    run_all,
    train_als,
    train_ranker,
    training_due,
)
from recsys.steps.context import Context
from recsys.storage import publications
from recsys.tracking import Tracker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow's and its dependencies' warnings about themselves
]

NEW_USER, NEW_ITEM = "99000001", "98000001"
STEPS = dict(run_all.STEPS)


@pytest.fixture(scope="module")
def ctx(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A shop after its first night, with a training a week."""
    folder = tmp_path_factory.mktemp("between")
    generate_shop.run(folder / "shop", n_users=1_000, n_items=200, n_events=20_000, seed=11)
    import_raw.run("retailrocket", folder / "shop", engine=database, quarantine_dir=folder / "quarantine")
    settings = Settings(
        database_url=database_url,
        artifact_root=str(folder / "artifacts"),
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}",
        local_dir=folder,
        generators=["popular", "als", "covisitation"],
        ranker_params={"iterations": 20, "losses": ["Logloss"]},
        n_label_windows=2,
        gate_min_users=1_000_000,  # the first ranker is accepted, whatever it is worth
        training_schedule="@weekly",
    )
    ctx = Context(
        settings, database, ArtifactStore(settings.artifact_root), Tracker(settings.mlflow_tracking_uri, str(folder))
    )
    prepare_dataset.run(ctx=ctx)
    assert "skipped" not in training_due.run(ctx=ctx), "nothing has ever been trained"
    train_als.run(ctx=ctx)
    assert "skipped" not in training_due.run(ctx=ctx), "a training that did not come to its end stays due"
    train_ranker.run(ctx=ctx)
    write_and_publish(ctx)
    return ctx


def write_and_publish(ctx: Context) -> dict[str, Any]:
    steps = {name: STEPS[name](ctx=ctx) for name in publish.LIST_STEPS}
    return publish.run(ctx=ctx) | {"steps": steps}


def execute(ctx: Context, statement: str, **values: Any) -> None:
    with ctx.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def a_day_passes(ctx: Context) -> None:
    """Known and new users look at known and new items, a day after the last event."""
    copy = "insert into raw.item_properties select timestamp, :item, property, value from raw.item_properties"
    execute(ctx, f"{copy} where itemid = (select min(itemid) from raw.item_properties)", item=NEW_ITEM)
    execute(
        ctx,
        """
        insert into raw.events (timestamp, visitorid, event, itemid, file_id)
        select last.at + 86400000 + 1000 * n, case when n % 2 = 0 then :user else e.visitorid end, 'view',
               case when n % 5 = 0 then :item else e.itemid end, e.file_id
        from (select *, row_number() over (order by seq) as n from raw.events limit 60) e,
             (select max(timestamp) as at from raw.events) last
        """,
        user=NEW_USER,
        item=NEW_ITEM,
    )


def owners(ctx: Context, kind: str) -> set[str]:
    """The users who have a published list of a kind."""
    query = """
        select u.user_id from publication_pointer join publications p using (publication_id)
        join lists l on l.list_version_id = (p.manifest ->> :kind)::bigint join users u on u.user_key = l.owner_key
    """
    with ctx.engine.connect() as connection:
        return set(connection.scalars(sa.text(query), {"kind": kind}))


def test_the_models_of_before_make_the_lists_of_newer_data(ctx: Context) -> None:
    before = publications.current(ctx.engine)
    assert before is not None
    a_day_passes(ctx)
    newer = prepare_dataset.run(ctx=ctx)["dataset"]
    assert newer != before.dataset
    due = training_due.run(ctx=ctx)
    assert "is due again" in due["skipped"]
    assert "skipped" not in training_due.run(force=True, ctx=ctx)
    result = write_and_publish(ctx)
    assert [name for name, lists in result["steps"].items() if "skipped" in lists] == []
    after = publications.current(ctx.engine)
    assert after is not None
    assert after.dataset == newer
    assert after.models == before.models
    assert set(after.manifest) == set(before.manifest)
    assert set(result["age_days"].values()) == {0.0}
    publications.verify(ctx.engine)
    known = owners(ctx, "history") - {NEW_USER}
    assert owners(ctx, "personal") == known, "ALS does not know the new user"
    assert owners(ctx, "ranked") == known | {NEW_USER}, "others find something for them"
    assert after.manifest["default"] != before.manifest["default"]


def test_older_data_published_by_hand_are_told_and_change_nothing(ctx: Context) -> None:
    current = publications.current(ctx.engine)
    older = publications.newest(ctx.engine)[-1]
    assert current is not None
    result = publish.run(older.dataset, ctx=ctx)
    assert f"{current.dataset}) and stays" in result["skipped"]
    assert publications.current(ctx.engine) == current
    assert publish.run(older.dataset, force=True, ctx=ctx)["dataset"] == older.dataset
    assert publish.run(current.dataset, ctx=ctx)["dataset"] == current.dataset


def test_a_lost_mlflow_loses_no_champion(ctx: Context) -> None:
    champion = ctx.champion("ranker")
    assert champion is not None
    shutil.rmtree(ctx.settings.local_dir / "mlflow")
    assert ctx.champion("ranker") == champion
    assert rank_users.run(force=True, ctx=ctx)["n_rows"] > 0


def test_a_champion_whose_artifact_is_lost_gives_way_to_the_one_before(ctx: Context) -> None:
    als = ctx.champion("als")
    assert als is not None
    folder = ctx.settings.local_dir / "artifacts" / als
    folder.rename(folder.with_name("away"))
    try:
        assert ctx.champion("als") is None
        with pytest.raises(NotFoundError, match="no als model"):
            ctx.serving_model("als", "dataset/20300101T000000-aaaaaaaaaa")
    finally:
        folder.with_name("away").rename(folder)


def test_without_any_ranker_the_old_lists_leave_after_a_while(ctx: Context) -> None:
    """What used to go on for ever: no champion is found, every night is green, and ranked lists grow old."""
    execute(ctx, "delete from training_runs where step in ('train_ranker', 'rank_users')")
    week = dt.timedelta(days=8) // dt.timedelta(milliseconds=1)
    execute(
        ctx,
        "insert into raw.events (timestamp, visitorid, event, itemid, file_id) select max(timestamp) + :week,"
        " max(visitorid), 'view', max(itemid), max(file_id) from raw.events",
        week=week,
    )
    prepare_dataset.run(ctx=ctx)
    result = write_and_publish(ctx)
    assert "no ranker has been accepted" in result["steps"]["rank_users"]["skipped"]
    assert set(result["dropped"]) == {"ranked"}
    assert "ranked" not in result["lists"]
    assert owners(ctx, "ranked") == set()
    assert owners(ctx, "personal")
