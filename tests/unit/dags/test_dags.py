"""The DAGs as Airflow parses them, in a fresh interpreter: there are nine, they parse lightly, assets tie them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DAGS = ROOT / "dags"
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != "__init__.py")
PARSE = """
import json, sys
HEAVY = ("tensorflow", "keras", "implicit", "catboost", "mlflow", "duckdb", "recsys")
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
def facts(dag):
    condition = getattr(dag.timetable, "asset_condition", None)
    return {
        "after": sorted(asset.name for asset in condition.objects) if condition else None,
        "timetable": type(dag.timetable).__name__,
        "file": dag.fileloc.rsplit("/", 1)[-1],
        "doc": dag.doc_md,
        "params": sorted(dag.params),
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "notices": [dag.on_failure_callback is not None, dag.on_success_callback is not None],
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "makes": [asset.name for asset in task.outlets],
                "retries": task.retries,
                "grows": task.retry_exponential_backoff,
                "policy": [rule.exception_path for rule in task.retry_policy.rules],
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
AFTER = {
    "train_als": ["dataset"],
    "train_deepfm": ["dataset"],
    "default_recommendations": ["dataset"],
    "i2i_recommendations": ["dataset"],
    "personal_recommendations": ["als"],
    "similar_items": ["als"],
    "train_ranker": ["als", "deepfm"],
    "rank_and_publish": ["default_lists", "i2i_lists", "personal_lists", "ranker", "similar_lists"],
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(DAGS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.split("FACTS", 1)[1])
    return facts


def test_nine_dags_parse_without_errors_and_without_heavy_libraries(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert sorted(parsed["dags"]) == sorted([*AFTER, "prepare_dataset"])
    # recsys itself is among them: `recsys.errors` and `recsys.steps` are named, and imported only when a task runs.
    assert set(parsed["heavy"]) <= {"recsys"}


def test_assets_tie_the_dags(parsed: dict[str, Any]) -> None:
    dags = parsed["dags"]
    assert {dag_id: facts["after"] for dag_id, facts in dags.items() if facts["after"]} == AFTER
    # The key of an event is its data set: several assets start a DAG only when they agree on it.
    assert {dags[dag_id]["timetable"] for dag_id in AFTER} == {"PartitionedAssetTimetable"}
    makers = [asset for facts in dags.values() for task in facts["tasks"].values() for asset in task["makes"]]
    assert len(makers) == len(set(makers)), "an asset with two makers would run what follows twice"
    assert {asset for after in AFTER.values() for asset in after} == set(makers) - {"publication"}


def test_only_the_first_dag_has_a_clock(parsed: dict[str, Any]) -> None:
    assert parsed["dags"]["prepare_dataset"]["timetable"] == "CronTriggerTimetable"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_documented_dag_of_at_most_80_lines(path: Path, parsed: dict[str, Any]) -> None:
    facts = parsed["dags"][path.stem]
    text = path.read_text()
    assert facts["file"] == path.name
    assert facts["doc"] == ast.get_docstring(ast.parse(text), clean=False)
    assert len(text.splitlines()) <= 80
    assert facts["params"] == ["as_of" if path.stem == "prepare_dataset" else "dataset", "force"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runs_are_patient_single_and_announced(path: Path, parsed: dict[str, Any]) -> None:
    facts = parsed["dags"][path.stem]
    assert (facts["max_active_runs"], facts["catchup"], facts["notices"]) == (1, False, [True, True])
    for task in facts["tasks"].values():
        assert task["retries"] >= 3
        assert task["grows"] > 1
        assert "recsys.errors.RecsysError" in task["policy"][0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_steps_exist_and_are_imported_inside_of_tasks(path: Path, parsed: dict[str, Any]) -> None:
    tree = ast.parse(path.read_text())
    at_parse_time = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not any(module and module.startswith("recsys") for module in at_parse_time)
    tasks = parsed["dags"][path.stem]["tasks"]
    steps = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "recsys.steps"
        for alias in node.names
    ]
    assert steps, "a DAG runs a step"
    for step in steps:
        assert step in tasks, "a step's module is its task's name"
        assert (ROOT / "recsys" / "steps" / f"{step}.py").exists()


def test_a_refused_ranker_is_reported_and_holds_nothing_up(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["train_ranker"]["tasks"]
    assert tasks["report_refusal"]["upstream"] == ["train_ranker"]
    assert tasks["train_ranker"]["makes"] == ["ranker"], "announced before the verdict is reported"


def test_table_in_the_readme_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_service.dag_table", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
