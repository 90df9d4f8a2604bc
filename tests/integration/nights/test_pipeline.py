"""The nightly pipeline on a small generated shop, step by step, with real Postgres, artifacts and MLflow.

DeepFM is left to the end-to-end day: importing TensorFlow alone takes longer than all of this.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore, split_ref
from recsys.errors import ArtifactError, ModelError, NotFoundError, PublicationError
from recsys.session_index import SessionIndex, neighbours_scores
from recsys.settings import Settings
from recsys.steps import (
    default_recommendations,
    generate_shop,
    import_raw,
    personal_recommendations,
    prepare_dataset,
    publish,
    run_all,
)
from recsys.steps.context import HISTORY, SERVING, Context
from recsys.steps.train_generator import load_generator
from recsys.storage import publications
from recsys.tracking import Tracker
from tests.integration import serving_shop as shop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow's and its dependencies' warnings about themselves
]

ENVIRONMENT = {
    "RECSYS_GENERATORS": '["popular", "recent", "als", "covisitation", "ease"]',
    "RECSYS_RANKER_PARAMS": '{"iterations": 60, "losses": ["Logloss"]}',
    "RECSYS_N_LABEL_WINDOWS": "2",
    "RECSYS_GATE_MIN_USERS": "1000000",  # the first ranker is accepted, whatever it is worth
}


def settings_of(folder: Path, url: str) -> Settings:
    return Settings(
        database_url=url,
        artifact_root=str(folder / "artifacts"),
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        local_dir=folder,
        generators=["popular", "recent", "als", "covisitation", "ease"],
        ranker_params={"iterations": 60, "losses": ["Logloss"]},
        n_label_windows=2,
        gate_min_users=1_000_000,
    )


@pytest.fixture(scope="module")
def ctx(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A shop that is loaded and prepared; artifacts and MLflow in a folder of the module."""
    folder = tmp_path_factory.mktemp("pipeline")
    generate_shop.run(folder / "shop", n_users=1_500, n_items=300, n_events=30_000, seed=7)
    import_raw.run("retailrocket", folder / "shop", engine=database, quarantine_dir=folder / "quarantine")
    settings = settings_of(folder, database_url)
    return Context(
        settings,
        database,
        ArtifactStore(settings.artifact_root),
        Tracker(settings.mlflow_tracking_uri, f"{settings.artifact_root}/mlflow"),
    )


STEPS = {name.replace("_", "-"): step for name, step in run_all.STEPS if name != "train_deepfm"}


def night(ctx: Context) -> dict[str, Any]:
    results = {"prepare-dataset": prepare_dataset.run(ctx=ctx)}
    for name, run in STEPS.items():
        results[name] = run(ctx=ctx)
    results["publish"] = publish.run(ctx=ctx)
    results["prepare-dataset"].pop("made")  # whether it was found: the only thing that may differ
    return results


@pytest.fixture(scope="module")
def first_night(ctx: Context) -> dict[str, Any]:
    with pytest.raises(NotFoundError, match="no data set is prepared"):
        default_recommendations.run(ctx=ctx)
    return night(ctx)


def lists_of(ctx: Context, kind: str) -> dict[int, list[int]]:
    """What readers see: owner → items, through the pointer."""
    query = sa.text(
        "select l.owner_key, l.item_keys from publication_pointer"
        " join publications p using (publication_id)"
        " join lists l on l.list_version_id = (p.manifest ->> :kind)::bigint"
    )
    with ctx.engine.connect() as connection:
        return {row.owner_key: row.item_keys for row in connection.execute(query, {"kind": kind})}


def test_a_night_publishes_sound_lists_of_every_kind(ctx: Context, first_night: dict[str, Any]) -> None:
    assert first_night["train-ranker"]["accepted"], first_night["train-ranker"]["reason"]
    assert set(first_night["publish"]["lists"]) == {"default", "personal", "ranked", "i2i", "similar", "history"}
    publications.verify(ctx.engine)
    _, data = ctx.dataset()
    interactions, catalogue = data.interactions(), data.catalogue()
    active = set(interactions.user_key.tolist())
    bought = interactions.of_types(data.meta.bought_event_types)
    bought_pairs = set(zip(bought.user_key.tolist(), bought.item_key.tolist(), strict=True))
    offered = set(catalogue.item_key[catalogue.available].tolist())
    for kind in ("personal", "ranked"):
        lists = lists_of(ctx, kind)
        assert set(lists) == active
        for user, items in lists.items():
            assert len(items) >= 10
            assert offered.issuperset(items)
            assert not any((user, item) in bought_pairs for item in items)
    assert {(user, item) for user, items in lists_of(ctx, "history").items() for item in items} >= bought_pairs
    default = lists_of(ctx, "default")
    assert len(default) > 1
    assert 0 in default
    assert all(item not in neighbours for item, neighbours in lists_of(ctx, "i2i").items())
    similar = lists_of(ctx, "similar")
    assert set(catalogue.item_key.tolist()) == set(similar), "items without events, too"
    assert all(item not in neighbours and offered.issuperset(neighbours) for item, neighbours in similar.items())


def test_the_index_of_sessions_is_published_with_the_lists(ctx: Context, first_night: dict[str, Any]) -> None:
    made = first_night["index-sessions"]
    current = publications.current(ctx.engine)
    assert current is not None
    assert current.models["session_index"] == made["serving"]
    assert ctx.store.manifest(made["serving"]).meta["purpose"] == SERVING
    index = SessionIndex.mapped(artifact_folder(ctx, made["serving"]))
    _, data = ctx.dataset()
    assert set(index.item_keys.tolist()) == set(data.interactions().item_key.tolist())
    newest = data.interactions().item_key[-1:]
    keys, scores = neighbours_scores(index, newest)
    assert len(keys) > 1
    assert (scores > 0).all()
    assert data.catalogue().offers(keys).all()


def test_the_service_shows_nobody_again_what_they_bought(
    ctx: Context, first_night: dict[str, Any], database_url: str
) -> None:
    _, data = ctx.dataset()
    with ctx.engine.connect() as connection:
        id_of_user = dict(tuple(row) for row in connection.execute(sa.text("select user_key, user_id from users")))
    id_of_item = dict(
        zip(*(column.to_pylist() for column in data.table("items", ["item_key", "item_id"])), strict=True)
    )
    bought = data.interactions().of_types(data.meta.bought_event_types)
    users, n_bought = np.unique(bought.user_key, return_counts=True)
    catalogue = data.catalogue()
    offered = {id_of_item[key] for key in catalogue.item_key[catalogue.available].tolist()}
    with shop.running_service(database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        for user in users[np.argsort(n_bought)[-20:]].tolist():
            theirs = {id_of_item[key] for key in bought.item_key[bought.user_key == user].tolist()}
            assert theirs & offered
            body = {"user_id": id_of_user[user], "top_k": 1000}
            shown = client.post("/recommend", json=body).json()["recommendations"]
            assert {str(entry["item_id"]) for entry in shown} == offered - theirs
            body["candidate_items"] = list(theirs)
            assert client.post("/recommend", json=body).json()["recommendations"] == []


def test_everything_twice_changes_nothing(ctx: Context, first_night: dict[str, Any]) -> None:
    assert night(ctx) == first_night


def test_the_runs_are_in_mlflow_with_their_data_version_and_verdict(ctx: Context, first_night: dict[str, Any]) -> None:
    assert ctx.tracker.champion("als") == first_night["train-als"]["serving"]
    assert ctx.tracker.champion("ranker") == first_night["train-ranker"]["ranker"]
    client = ctx.tracker._client
    version = client.get_model_version_by_alias("ranker", "champion")
    run = client.get_run(version.run_id)
    assert run.data.params["dataset"] == first_night["prepare-dataset"]["dataset"]
    n_users = int(run.data.metrics["users"])
    assert run.data.tags["gate"].startswith(f"unjudged: {n_users} users are too few (fewer than 1000000)")
    assert first_night["train-ranker"]["reason"] == run.data.tags["gate"]
    assert run.data.metrics["judged_users"] == 0
    assert {"ndcg_at_10", "popular.ndcg_at_10.all", "ranker.ndcg_at_10.tail items"} <= set(run.data.metrics)
    plots = {artifact.path for artifact in client.list_artifacts(version.run_id, "plots")}
    assert {"plots/feature_importance.png", "plots/popularity.png", "plots/coverage.png"} <= plots


def test_a_model_of_the_past_must_not_serve(ctx: Context, first_night: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="must not serve"):
        load_generator(ctx, first_night["train-als"]["history"][0], SERVING)
    with pytest.raises(ModelError, match="would leak"):
        load_generator(ctx, first_night["train-als"]["serving"], HISTORY)


def artifact_folder(ctx: Context, ref: str) -> Path:
    return Path(ctx.store.root).joinpath(*split_ref(ref))


@pytest.fixture
def live(ctx: Context, first_night: dict[str, Any]) -> Iterator[int]:
    """The publication that readers see; whatever a test breaks, it must still be there at the end."""
    before = publications.current(ctx.engine)
    assert before is not None
    yield before.publication_id
    after = publications.current(ctx.engine)
    assert after is not None
    assert after.publication_id == before.publication_id


def test_one_changed_byte_in_a_model_is_refused(ctx: Context, first_night: dict[str, Any], live: int) -> None:
    path = artifact_folder(ctx, first_night["train-als"]["serving"]) / "model.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    try:
        with pytest.raises(ArtifactError, match=r"model\.npz is damaged"):
            personal_recommendations.run(ctx=ctx, force=True)
    finally:
        path.write_bytes(whole)


def test_a_model_with_nan_is_refused(ctx: Context, first_night: dict[str, Any], live: int) -> None:
    folder = artifact_folder(ctx, first_night["train-als"]["serving"])
    with np.load(folder / "model.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays["user_factors"][3, 0] = np.nan
    with ctx.store.writing("als", "broken", made_by="test", meta={"purpose": SERVING}) as (work, _):
        np.savez(work / "model.npz", **arrays)
        shutil.copy(folder / "model.json", work)
    with pytest.raises(ModelError, match="not finite"):
        load_generator(ctx, "als/broken", SERVING)


def test_a_list_with_an_item_that_went_off_sale_is_refused(ctx: Context, live: int) -> None:
    item = lists_of(ctx, "default")[0][0]
    written = personal_recommendations.run(ctx=ctx, force=True)  # new lists, made while the item was on sale
    off = sa.text("update items set available = :on where item_key = :item")
    with ctx.engine.begin() as connection:
        connection.execute(off, {"on": False, "item": item})
    try:
        with pytest.raises(PublicationError, match="not available"):
            publish.run(ctx=ctx)
    finally:
        with ctx.engine.begin() as connection:
            connection.execute(off, {"on": True, "item": item})
            connection.execute(
                sa.text("delete from training_runs where step = 'personal_recommendations' and artifact like :a"),
                {"a": f"personal/{_version(ctx, written['list_version'])}"},
            )


def _version(ctx: Context, list_version_id: int) -> str:
    with ctx.engine.connect() as connection:
        return connection.execute(
            sa.text("select version from list_versions where list_version_id = :i"), {"i": list_version_id}
        ).scalar_one()


@pytest.mark.parametrize("name", ["prepare-dataset", *STEPS, "publish"])
def test_a_step_killed_at_any_moment_and_run_again_ends_as_if_undisturbed(
    ctx: Context, first_night: dict[str, Any], live: int, name: str
) -> None:
    """Each step is killed at several moments of a forced run; the night after it is the first night again."""
    env = os.environ | ENVIRONMENT
    env |= {
        "DATABASE_URL": str(ctx.settings.database_url),
        "ARTIFACT_ROOT": ctx.settings.artifact_root,
        "MLFLOW_TRACKING_URI": ctx.settings.mlflow_tracking_uri,
        "RECSYS_LOCAL_DIR": str(ctx.settings.local_dir),
    }
    command = [sys.executable, "-m", "recsys.cli", name, "--force"]
    for seconds in (1.5, 4.0):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, output = process.communicate(timeout=seconds)
            assert process.returncode == 0, output
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        publications.verify(ctx.engine)  # readers see a whole publication all the time
    _forget_forced(ctx, first_night)
    assert night(ctx) == first_night


def _forget_forced(ctx: Context, first_night: dict[str, Any]) -> None:
    """Drop the record of forced list versions, so that `publish` looks at the first night's again."""
    kept = [first_night[name]["list_version"] for name in STEPS if "list_version" in first_night[name]]
    time.sleep(0.3)  # the killed process' connection ends
    with ctx.engine.begin() as connection:
        connection.execute(
            sa.text(
                "delete from training_runs using list_versions where artifact = kind || '/' || version"
                " and not (list_version_id = any(:kept))"
            ),
            {"kept": kept},
        )
