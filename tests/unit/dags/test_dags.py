"""The DAGs as Airflow parses them, in a fresh interpreter: what depends on what, and that they parse lightly."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_service import commands

ROOT = Path(__file__).resolve().parents[3]
DAGS = ROOT / "dags"
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != "__init__.py")
PARSE = """
import json, sys
HEAVY = ("tensorflow", "keras", "implicit", "catboost", "mlflow", "duckdb", "recsys.steps.train_generator")
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
def facts(dag):
    return {
        "timetable": type(dag.timetable).__name__,
        "expression": getattr(dag.timetable, "expression", None),
        "file": dag.fileloc.rsplit("/", 1)[-1],
        "doc": dag.doc_md,
        "params": sorted(dag.params),
        "tags": sorted(dag.tags),
        "paused": dag.is_paused_upon_creation,
        "max_active_runs": dag.max_active_runs,
        "max_active_tasks": dag.max_active_tasks,
        "catchup": dag.catchup,
        "notices": [dag.on_failure_callback is not None, dag.on_success_callback is not None],
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "rule": task.trigger_rule.value,
                "makes": [asset.name for asset in task.outlets],
                "retries": task.retries,
                "grows": task.retry_exponential_backoff,
                "policy": type(task.retry_policy).__name__,
                "notice": bool(task.on_failure_callback),
            }
            for task in dag.tasks
        },
    }
print("FACTS" + json.dumps({
    "errors": bag.import_errors,
    "dags": {dag_id: facts(dag) for dag_id, dag in bag.dags.items()},
    "heavy": [name for name in HEAVY if name in sys.modules],
}))
"""
# task → what it waits for; and whether it runs too when that was skipped or has failed
NIGHT = {
    "prepare_dataset": (set(), False),
    "training_due": ({"prepare_dataset"}, False),
    "train_als": ({"training_due"}, False),
    "train_deepfm": ({"training_due"}, False),
    "train_sequence": ({"training_due"}, False),
    "train_ranker": ({"train_als", "train_deepfm", "train_sequence"}, False),
    "report_refusal": ({"train_ranker"}, False),
    "default_recommendations": ({"prepare_dataset"}, False),
    "i2i_recommendations": ({"prepare_dataset"}, False),
    "index_sessions": ({"prepare_dataset"}, False),
    "personal_recommendations": ({"train_als"}, True),
    "similar_items": ({"train_als"}, True),
    "user_history": ({"prepare_dataset"}, False),
    "rank_users": ({"train_ranker", "user_history"}, True),
    "publish": (
        {
            "default_recommendations",
            "i2i_recommendations",
            "index_sessions",
            "personal_recommendations",
            "similar_items",
            "user_history",
            "rank_users",
        },
        True,
    ),
}


NO_STEPS = {"report_refusal", "watcher"}


def parse(home: Path, **variables: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(DAGS)],
        env=os.environ | commands.settings() | {"AIRFLOW_HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.split("FACTS", 1)[1])
    return facts


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parse(tmp_path_factory.mktemp("airflow"))


def test_dags_parse_without_errors_and_without_heavy_libraries(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert sorted(parsed["dags"]) == sorted(path.stem for path in FILES)
    assert parsed["heavy"] == []


def test_plain_dependencies_tie_the_steps_of_the_night(parsed: dict[str, Any]) -> None:
    tasks = dict(parsed["dags"]["nightly"]["tasks"])
    watcher = tasks.pop("watcher")
    found = {name: (set(task["upstream"]), task["rule"] == "all_done") for name, task in tasks.items()}
    assert found == NIGHT
    assert {task["rule"] for task in tasks.values()} == {"all_success", "all_done"}
    assert (set(watcher["upstream"]), watcher["rule"], watcher["retries"]) == (set(NIGHT), "one_failed", 0)
    makers = {name: task["makes"] for name, task in tasks.items() if task["makes"]}
    assert makers == {"publish": ["publication"]}


def test_every_step_is_found_by_its_name(parsed: dict[str, Any]) -> None:
    assert set(NIGHT) - NO_STEPS <= set(parsed["dags"]["nightly"]["tags"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_documented_dag_of_at_most_80_lines(path: Path, parsed: dict[str, Any]) -> None:
    facts = parsed["dags"][path.stem]
    text = path.read_text()
    assert facts["file"] == path.name
    assert facts["doc"] == ast.get_docstring(ast.parse(text), clean=False)
    assert len(text.splitlines()) <= 80


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runs_are_patient_single_noticed_and_not_paused(path: Path, parsed: dict[str, Any]) -> None:
    facts = parsed["dags"][path.stem]
    assert (facts["max_active_runs"], facts["catchup"], facts["notices"]) == (1, False, [True, True])
    assert facts["paused"] is False, "with the settings of the containers, nobody has to switch it on"
    assert facts["timetable"] == "CronTriggerTimetable"
    for name, task in facts["tasks"].items():
        assert task["notice"]
        assert task["policy"] == "Patience"
        if name != "watcher":
            assert task["retries"] >= 3
            assert task["grows"] > 1


def test_a_preparation_waits_for_an_import_for_an_hour(parsed: dict[str, Any]) -> None:
    pauses = [min(15 * 2**n, 600) for n in range(parsed["dags"]["nightly"]["tasks"]["prepare_dataset"]["retries"])]
    assert sum(pauses) >= 3600


def test_tasks_are_steps(parsed: dict[str, Any]) -> None:
    steps = {name for facts in parsed["dags"].values() for name in facts["tasks"]} - NO_STEPS
    assert steps <= {path.stem for path in (ROOT / "recsys" / "steps").glob("*.py")}


def test_schedule_parallelism_and_the_sequence_network_are_settings(tmp_path: Path) -> None:
    settings = {"RECSYS_NIGHTLY_SCHEDULE": "30 4 * * *", "RECSYS_TASKS_AT_ONCE": "1"}
    night = parse(tmp_path, **settings, RECSYS_GENERATORS='["popular", "als"]')["dags"]["nightly"]
    assert (night["expression"], night["max_active_tasks"]) == ("30 4 * * *", 1)
    assert "train_sequence" not in night["tasks"]
    assert set(night["tasks"]["train_ranker"]["upstream"]) == {"train_als", "train_deepfm"}


def test_housekeeping_is_a_step_that_can_be_tried(parsed: dict[str, Any]) -> None:
    facts = parsed["dags"]["housekeeping"]
    assert (facts["params"], list(facts["tasks"]), facts["expression"]) == (["dry_run"], ["housekeeping"], "0 6 * * *")


def test_tables_in_the_readme_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_service.dag_table", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
