"""`python -m airflow_service.dag_table [--check]`: write the tables of DAGs in dags/README.md from the DAGs themselves.

With `--check` nothing is written, and the exit status says whether the tables are up to date.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.settings import ROOT

if TYPE_CHECKING:
    from airflow.sdk import DAG

DAGS = ROOT / "dags"
README = DAGS / "README.md"
BEGIN = "<!-- made by `python -m airflow_service.dag_table`; do not edit by hand -->"
END = "<!-- end -->"
_RUNS = {
    "all_success": "",
    "all_done": ", whatever became of them",
    "one_failed": ", when one has failed",
}


def load() -> list[DAG]:
    """The DAGs of the folder, by name. RuntimeError when a file cannot be imported."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS)
    if bag.import_errors:
        raise RuntimeError(f"DAGs that cannot be imported: {bag.import_errors}")
    return [bag.dags[dag_id] for dag_id in sorted(bag.dags)]


def table(dag: DAG) -> str:
    """A DAG and its tasks as Markdown."""
    rows = [
        f"### [`{dag.dag_id}`]({Path(dag.fileloc).name}), `{getattr(dag.timetable, 'expression', dag.timetable)}` UTC",
        "",
        (dag.doc_md or "").strip().splitlines()[0],
        "",
        "| task | runs after | what it does |",
        "|---|---|---|",
    ]
    for task in _in_order(dag):
        before = sorted(task.upstream_task_ids)
        after = "all others" if before and len(before) == len(dag.tasks) - 1 else ", ".join(f"`{t}`" for t in before)
        rows.append(f"| `{task.task_id}` | {after}{_RUNS[task.trigger_rule.value]} | {_what(task.task_id)} |")
    return "\n".join(rows)


def readme(dags: list[DAG]) -> str:
    """README.md as it should be: what people wrote, with the tables between the marks made anew."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(table(dag) for dag in dags)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _what(task_id: str) -> str:
    """The first line of the step's documentation, read without importing it; nothing of a task that is no step."""
    path = ROOT / "recsys" / "steps" / f"{task_id}.py"
    if not path.exists():
        return {
            "report_refusal": "Say that the gate refused the ranker; skipped otherwise.",
            "watcher": "Make the run red; skipped otherwise.",
        }[task_id]
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]


def _in_order(dag: DAG) -> list[Any]:
    """Tasks, upstream first."""
    done: dict[str, Any] = {}
    while len(done) < len(dag.tasks):
        done |= {t.task_id: t for t in dag.tasks if t.task_id not in done and t.upstream_task_ids <= set(done)}
    return list(done.values())


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["AIRFLOW_HOME"] = home  # Airflow writes its configuration there on import
        wanted = readme(load())
    if sys.argv[1:] == ["--check"]:
        if README.read_text() != wanted:
            sys.exit("dags/README.md is not up to date: python -m airflow_service.dag_table")
        return
    README.write_text(wanted)


if __name__ == "__main__":
    main()
