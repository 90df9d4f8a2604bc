"""The night's wiring, decided by Airflow's own scheduler on its own tables in a real Postgres."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_service import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
TRAINING = {"train_als", "train_deepfm", "train_sequence", "train_ranker"}
LISTS = {
    "default_recommendations",
    "i2i_recommendations",
    "index_sessions",
    "personal_recommendations",
    "similar_items",
    "user_history",
    "rank_users",
}
ALL = {"prepare_dataset", "training_due", "report_refusal", "publish"} | TRAINING | LISTS


@pytest.fixture(scope="module")
def environment(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of an Airflow with its tables in a database of its own."""
    name = f"airflow_{os.getpid()}"
    url = sa.make_url(postgres_server)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg2"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f'create database "{name}"'))
    environment = os.environ | {
        **commands.settings(),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "of a test" * 8,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.set(
            drivername="postgresql+psycopg2", database=name
        ).render_as_string(hide_password=False),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        subprocess.run(commands.MIGRATE["airflow-migrate"], env=environment, check=True, capture_output=True)
        yield environment
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f'drop database "{name}" with (force)'))
        engine.dispose()


def output_of(script: str, environment: dict[str, str]) -> dict[str, Any]:
    """What a script beside this one prints."""
    call = [sys.executable, str(Path(__file__).with_name(script))]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found: dict[str, Any] = json.loads(done.stdout.split("NIGHTS", 1)[1].splitlines()[0])
    return found


@pytest.fixture(scope="module")
def nights(environment: dict[str, str]) -> dict[str, Any]:
    return output_of("airflow_nights.py", environment)


@pytest.fixture(scope="module")
def steps(environment: dict[str, str]) -> dict[str, Any]:
    return output_of("airflow_steps.py", environment)


def states(night: dict[str, Any], state: str) -> set[str]:
    return {name for name, found in night["tasks"].items() if found == state}


def test_a_good_night_runs_everything_and_is_green(nights: dict[str, Any]) -> None:
    night = nights["good"]
    assert night["run"] == "success"
    assert (states(night, "success"), states(night, "skipped")) == (ALL, {"watcher"})


def test_a_failed_training_still_publishes_and_the_run_is_red(nights: dict[str, Any]) -> None:
    night = nights["failed"]
    assert night["run"] == "failed"
    assert states(night, "failed") == {"train_als", "watcher"}
    assert states(night, "upstream_failed") == {"train_ranker", "report_refusal"}
    assert states(night, "success") >= LISTS | {"publish"}


def test_a_night_waits_for_the_one_before_and_a_failed_one_leaves_nothing(nights: dict[str, Any]) -> None:
    assert nights["order"] == ["good", "failed", "after"]
    assert nights["after"]["run"] == "success"
    assert states(nights["after"], "success") == ALL


def test_a_night_without_training_writes_all_lists(nights: dict[str, Any]) -> None:
    night = nights["not_due"]
    assert night["run"] == "success"
    assert states(night, "skipped") == {"training_due", "report_refusal", "watcher"} | TRAINING
    assert set(night["ran"]) >= LISTS | {"publish"}


def test_what_there_is_too_little_data_for_holds_nothing_up(nights: dict[str, Any]) -> None:
    night = nights["thin"]
    assert night["run"] == "success"
    assert night["tasks"]["publish"] == "success"
    assert states(night, "failed") | states(night, "upstream_failed") == set()


def test_a_list_that_failed_does_not_hold_up_the_others(nights: dict[str, Any]) -> None:
    night = nights["no_list"]
    assert night["run"] == "failed"
    assert night["tasks"]["publish"] == "success"


def test_without_a_data_set_nothing_is_published(nights: dict[str, Any]) -> None:
    night = nights["no_data"]
    assert night["run"] == "failed"
    assert states(night, "success") == set()
    assert night["tasks"]["publish"] == "skipped"


def test_a_task_cleared_by_hand_goes_on_to_a_publication(nights: dict[str, Any]) -> None:
    night = nights["cleared"]
    assert night["run"] == "success"
    again = {"train_als", "train_ranker", "report_refusal", "personal_recommendations", "similar_items", "rank_users"}
    assert set(night["ran"]) == again | {"publish"}
    assert night["ran"][-1] == "publish"
    assert nights["one_step_again"]["run"] == "success"
    assert set(nights["one_step_again"]["ran"]) == {"default_recommendations", "publish"}


def test_tasks_do_not_all_run_at_once(nights: dict[str, Any]) -> None:
    assert 1 <= nights["at_once"] <= 2


DATASET = "dataset/20260301T020000-aaaaaaaaaa"


def test_every_step_is_asked_for_the_data_set_of_its_run(steps: dict[str, Any]) -> None:
    by_step = dict(steps["arguments"])
    assert by_step.pop("prepare_dataset") == {"as_of": None, "force": False}
    assert {arguments["dataset"] for arguments in by_step.values()} == {DATASET}
    assert set(by_step) == ALL - {"prepare_dataset", "report_refusal", "train_ranker"}


def test_force_goes_to_what_follows_the_named_step(steps: dict[str, Any]) -> None:
    forced = {name for name, arguments in steps["arguments"].items() if arguments["force"]}
    assert forced == {"training_due", "train_als", "personal_recommendations", "similar_items", "rank_users"}


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(steps: dict[str, Any]) -> None:
    assert steps["tries"]["publish"] == 2, "somebody else was faster"
    assert steps["tries"]["train_deepfm"] == 1
    assert steps["states"]["train_deepfm"] == "failed"
    assert steps["states"]["publish"] == "success"
    assert steps["run"] == "failed"


def test_a_step_with_nothing_to_do_is_skipped_with_its_reason(steps: dict[str, Any]) -> None:
    assert steps["states"]["similar_items"] == "skipped"
    assert "similar_items" in steps["results"]


def test_a_publication_is_an_event_with_what_was_published(steps: dict[str, Any]) -> None:
    assert [event["made_by"] for event in steps["events"]] == ["publish"]
