"""What grows comes to an end: a year of nights, and each rule alone."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.artifacts import MANIFEST, ArtifactStore
from recsys.errors import HousekeepingError
from recsys.settings import Settings
from recsys.steps import housekeeping
from recsys.steps.context import Context
from recsys.storage import months, pruning, tables
from recsys.tracking import Tracker
from tests import s3_server
from tests.integration.nights import lists_world

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

START = dt.datetime(2026, 1, 1, 2, tzinfo=dt.UTC)
NIGHTS, DAY = 365, dt.timedelta(days=1)
KINDS = ("dataset", "als", "deepfm", "deepfm_serving", "ranker")


@pytest.fixture
def ctx(clean_database_url: str, clean_database: sa.Engine, tmp_path: Path) -> Context:
    return context(clean_database_url, clean_database, tmp_path, str(tmp_path / "artifacts"))


def context(url: str, engine: sa.Engine, folder: Path, root: str) -> Context:
    settings = Settings(
        database_url=url,
        artifact_root=root,
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        local_dir=folder,
        publications_kept=3,
    )
    store = ArtifactStore(root, folder / "cache")
    return Context(settings, engine, store, Tracker(settings.mlflow_tracking_uri, str(folder / "mlflow")))


def put(ctx: Context, kind: str, version: str, at: dt.datetime) -> str:
    """An artifact of a kilobyte that was made at an instant."""
    with ctx.store.writing(kind, version, made_by="test") as (folder, _):
        (folder / "data.bin").write_bytes(b"x" * 1000)
    path = Path(ctx.settings.artifact_root) / kind / version / MANIFEST
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": at.isoformat()}))
    return f"{kind}/{version}"


def night(ctx: Context, at: dt.datetime, number: int) -> None:
    """Data set, models, lists and a publication; and what the day leaves: answers, guests, a log, a killed writer."""
    version = f"{at:%Y%m%dT%H%M%S}-{number:010x}"
    refs = {kind: put(ctx, kind, version, at) for kind in KINDS}
    manifest = {kind: lists_world.write(ctx.engine, kind, number, n_owners=2) for kind in lists_world.KINDS}
    with ctx.engine.begin() as connection:
        ids = {kind: one.list_version_id for kind, one in manifest.items()}
        models = {kind: refs[kind] for kind in ("als", "deepfm", "ranker")}
        row = {"status": "published", "dataset": refs["dataset"], "manifest": ids, "models": models, "fence": 0}
        publication = connection.execute(
            sa.insert(tables.publications).values(row).returning(tables.publications.c.publication_id)
        ).scalar_one()
        connection.execute(sa.update(tables.publication_pointer).values(publication_id=publication))
        for kind, ref in refs.items():
            run = {"step": "prepare_dataset" if kind == "dataset" else f"train_{kind}", "dataset": refs["dataset"]}
            connection.execute(
                sa.insert(tables.training_runs).values(run | {"artifact": ref, "as_of": at, "status": "succeeded"})
            )
        for answer in range(3):
            show(connection, at + answer * dt.timedelta(hours=6))
        connection.execute(
            sa.insert(tables.user_recent),
            [
                {"owner": owner, "item_keys": [1], "event_types": ["view"], "occurred_ms": [0], "updated_at": at}
                for owner in (f"session:{number}", f"user:{number}")
            ],
        )
    for name in (f"log/airflow/{number}.log", f"quarantine/table-{number}/events.csv"):
        path = ctx.settings.local_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (at.timestamp(), at.timestamp()))
    killed = Path(ctx.settings.artifact_root) / "als" / f".writing-{number}"
    killed.mkdir()
    (killed / "half.bin").write_bytes(b"x")
    os.utime(killed, (at.timestamp(), at.timestamp()))


def refused(ctx: Context, ref: str) -> None:
    """This database's note that a step has made a model, which the gate refused."""
    row = {"step": "train_als", "dataset": "dataset/v1", "artifact": ref, "as_of": START, "status": "refused"}
    with ctx.engine.begin() as connection:
        connection.execute(sa.insert(tables.training_runs).values(row))


def show(connection: sa.Connection, at: dt.datetime) -> None:
    row = {"shown_at": at, "request_id": "r", "route": "/recommend", "surface": "homepage", "tier": "ranked"}
    row |= {"publication_id": 1, "item_keys": [1], "sources": ["als"], "duration_ms": 1.0, "degraded": []}
    connection.execute(sa.insert(tables.predictions).values(row))


def size(ctx: Context) -> dict[str, int]:
    with ctx.engine.connect() as connection:
        rows = {
            name: connection.execute(sa.text(f"select count(*) from {name}")).scalar_one()
            for name in ("predictions", "user_recent", "list_versions")
        }
    files = [path for path in ctx.settings.local_dir.rglob("*") if path.is_file() and path.suffix != ".db"]
    return rows | {"files": len(files), "guests": rows["user_recent"]}


def test_a_year_of_nights_stays_within_bounds(ctx: Context) -> None:
    lists_world.add_items(ctx.engine)
    seen = []
    for number in range(NIGHTS):
        at = START + number * DAY
        night(ctx, at, number)
        housekeeping.run(ctx=ctx, now=at + dt.timedelta(hours=2))
        if number % 30 == 0 and number >= 150:
            seen.append(size(ctx))
    for name in ("files", "list_versions"):
        sizes = [one[name] for one in seen]
        assert max(sizes) <= 1.25 * min(sizes), f"{name} grows: {sizes}"
    assert max(one["predictions"] for one in seen) <= 3 * (ctx.settings.exposure_days + 31), "by whole months"
    assert len(ctx.store.versions("als")) <= 3 + ctx.settings.publications_kept + 1
    with ctx.engine.connect() as connection:
        of = (
            sa.select(sa.func.count())
            .select_from(tables.user_recent)
            .where(tables.user_recent.c.owner.like("session:%"))
        )
        assert connection.execute(of).scalar_one() <= ctx.settings.guest_days + 1
        names = [month.name for month in months.months_of(connection, tables.predictions)]
        assert connection.execute(sa.text("select count(*) from predictions_rest")).scalar_one() == 0
    assert 5 <= len(names) <= 8, "three months kept, this one, two ahead"
    assert not list(Path(ctx.settings.artifact_root).rglob(".writing-*"))[2:], "those of the last day may be at work"


def test_a_dry_run_says_what_would_go_and_leaves_it(ctx: Context) -> None:
    lists_world.add_items(ctx.engine)
    for number in range(8):
        night(ctx, START + number * DAY, number)
    pruning.prune(ctx.engine, ctx.settings.publications_kept)  # as each publication does
    before = size(ctx)
    later = START + 400 * DAY
    report = housekeeping.run(dry_run=True, ctx=ctx, now=later)
    assert size(ctx) == before
    done = housekeeping.run(ctx=ctx, now=later)
    assert {k: v for k, v in report.items() if k != "dry_run"} == {k: v for k, v in done.items() if k != "dry_run"}
    assert report["artifacts unused for 3 days"]["n"] == 4 * len(KINDS), "of 8 nights 4 are kept"
    assert report["artifacts unused for 3 days"]["n_bytes"] == 4 * len(KINDS) * 1000
    assert size(ctx)["predictions"] == 0
    assert housekeeping.run(ctx=ctx, now=later)["artifacts unused for 3 days"]["n"] == 0


def test_what_the_live_publication_depends_on_stays_however_old(ctx: Context) -> None:
    lists_world.add_items(ctx.engine)
    night(ctx, START, 0)
    housekeeping.run(ctx=ctx, now=START + 1000 * DAY)
    assert all(len(ctx.store.versions(kind)) == 1 for kind in KINDS)
    export = put(ctx, "deepfm_export", "v1", START)
    housekeeping.run(ctx=ctx, now=START + 80 * DAY)
    assert ctx.store.exists(export), "people asked for it"
    housekeeping.run(ctx=ctx, now=START + 100 * DAY)
    assert not ctx.store.exists(export)


def test_what_a_new_model_is_compared_with_stays(ctx: Context) -> None:
    """The last three accepted rankers, and the model by which the serving ALS was measured."""
    row = {"dataset": "dataset/v1", "status": "succeeded", "step": "train_ranker", "purpose": "serving"}
    versions = [f"2026010{day}T020000-000000000{day}" for day in range(1, 6)]
    with ctx.engine.begin() as connection:
        for day, version in enumerate(versions):
            ref = put(ctx, "ranker", version, START)
            connection.execute(
                sa.insert(tables.training_runs).values(row | {"artifact": ref, "as_of": START + day * DAY})
            )
        for day, purpose in enumerate(("history", "history", "serving")):
            ref = put(ctx, "als", versions[day], START)
            made = row | {"step": "train_als", "artifact": ref, "purpose": purpose, "as_of": START + day * DAY}
            connection.execute(sa.insert(tables.training_runs).values(made))
    housekeeping.run(ctx=ctx, now=START + 400 * DAY)
    assert sorted(ctx.store.versions("ranker")) == versions[-3:]
    assert sorted(ctx.store.versions("als")) == versions[1:3]


def test_artifacts_of_another_database_in_the_same_folder_stay(ctx: Context) -> None:
    lists_world.add_items(ctx.engine)
    for number in range(8):
        night(ctx, START + number * DAY, number)
    pruning.prune(ctx.engine, ctx.settings.publications_kept)
    theirs = [put(ctx, kind, "20260101T020000-ffffffffff", START) for kind in KINDS]
    base = ctx.store.versions("deepfm")[0]
    updates = {}
    for version, model in (("u1", f"deepfm/{base}"), ("u2", "deepfm/20260101T020000-ffffffffff")):
        with ctx.store.writing("deepfm_update", version, made_by="test", inputs={"model": model}) as (folder, _):
            (folder / "data.bin").write_bytes(b"x")
        updates[version] = f"deepfm_update/{version}"
    report = housekeeping.run(ctx=ctx, now=dt.datetime.now(dt.UTC) + 400 * DAY)
    unused = report["artifacts unused for 3 days"]
    assert (unused["n"], unused["n_foreign"]) == (4 * len(KINDS) + 1, len(KINDS) + 1)
    assert all(ctx.store.exists(ref) for ref in theirs)
    assert (ctx.store.exists(updates["u1"]), ctx.store.exists(updates["u2"])) == (False, True)


def test_rows_move_into_the_month_that_is_made_for_them(ctx: Context) -> None:
    with ctx.engine.begin() as connection:
        for day in (0, 20, 40, 75, 200):
            show(connection, START + day * DAY)
    housekeeping.run(ctx=ctx, now=START + 2 * DAY)
    with ctx.engine.begin() as connection:
        counted = {
            month.name: connection.execute(sa.text(f"select count(*) from {month.name}")).scalar_one()
            for month in months.months_of(connection, tables.predictions)
        }
        assert counted == {"predictions_2026_01": 2, "predictions_2026_02": 1, "predictions_2026_03": 1}
        assert connection.execute(sa.text("select count(*) from predictions")).scalar_one() == 5
        show(connection, START + 41 * DAY)
        assert connection.execute(sa.text("select count(*) from predictions_2026_02")).scalar_one() == 2


def test_an_artifact_whose_replacement_was_killed_half_way_comes_back(ctx: Context) -> None:
    ref = put(ctx, "als", "v1", START)
    folder = Path(ctx.settings.artifact_root) / "als"
    aside = folder / ".replaced-x"
    aside.mkdir()
    (folder / "v1").rename(aside / "old")
    os.utime(aside, (START.timestamp(), START.timestamp()))
    assert not ctx.store.exists(ref)
    for leftover in ctx.store.leftovers(START + 2 * DAY):
        ctx.store.remove(leftover)
    assert ctx.store.open(ref)[1].version == "v1"
    assert not aside.exists()


def test_old_runs_go_and_the_champions_stays(ctx: Context) -> None:
    client, ids = ctx.tracker._client, {}
    for name in ("champion", "old", "new"):
        with ctx.tracker.run("als", name) as run:
            version = ctx.tracker.register("als", f"als/{name}", run.run_id)
            if name == "champion":
                ctx.tracker.promote("als", version)
            ids[name] = run.run_id
        ended = START + (300 * DAY if name == "new" else 0 * DAY)
        client.set_terminated(run.run_id, end_time=round(ended.timestamp() * 1000))
    client.delete_registered_model_alias("als", "challenger")
    report = housekeeping.run(ctx=ctx, now=START + 310 * DAY)
    assert report["MLflow runs older than 180 days"]["n"] == 1
    left = {run.info.run_id for run in client.search_runs([client.get_experiment_by_name("als").experiment_id])}
    assert left == {ids["champion"], ids["new"]}
    assert [v.tags["artifact"] for v in client.search_model_versions("name = 'als'")] == ["als/new", "als/champion"]


def test_a_rule_that_fails_keeps_no_other_from_being_applied(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with ctx.engine.begin() as connection:
        show(connection, START)
    monkeypatch.setattr(ctx.tracker, "old_runs", lambda before_ms: (_ for _ in ()).throw(ConnectionError("away")))
    with pytest.raises(HousekeepingError, match=r"MLflow runs.*away"):
        housekeeping.run(ctx=ctx, now=START + 400 * DAY)
    assert size(ctx)["predictions"] == 0


@pytest.fixture
def on_s3(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    with s3_server.bucket(monkeypatch) as url:
        yield context(clean_database_url, clean_database, tmp_path, f"{url}/prefix")


def test_unused_artifacts_downloads_and_orphans_of_s3_go(on_s3: Context) -> None:
    ref = put(on_s3, "als", "v1", START)
    refused(on_s3, ref)
    on_s3.store.open(ref)
    s3, bucket = on_s3.store._s3, on_s3.store._bucket
    s3.put_object(Bucket=bucket, Key="prefix/als/killed/data.bin", Body=b"half")
    s3.put_object(Bucket=bucket, Key="prefix/mlflow/1/plot.png", Body=b"plot")
    now = dt.datetime.now(dt.UTC) + 10 * DAY
    report = housekeeping.run(ctx=on_s3, now=now)
    assert report["artifacts unused for 3 days"]["n"] == 1
    assert report["half-written files older than a day"]["n"] == 1
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["prefix/mlflow/1/plot.png"]
    assert not (on_s3.settings.local_dir / "cache" / "als" / "v1").exists()
