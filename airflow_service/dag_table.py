"""`python -m airflow_service.dag_table [--check]`: write the table of DAGs in dags/README.md from the DAGs themselves.

With `--check` nothing is written, and the exit status says whether the table is up to date.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from recsys.settings import ROOT

if TYPE_CHECKING:
    from airflow.sdk import DAG

DAGS = ROOT / "dags"
README = DAGS / "README.md"
BEGIN = "<!-- made by `python -m airflow_service.dag_table`; do not edit by hand -->"
END = "<!-- end -->"


def load() -> list[DAG]:
    """The DAGs of the folder, by name. RuntimeError when a file cannot be imported."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS)
    if bag.import_errors:
        raise RuntimeError(f"DAGs that cannot be imported: {bag.import_errors}")
    return [bag.dags[dag_id] for dag_id in sorted(bag.dags)]


def table(dags: list[DAG]) -> str:
    """The table as Markdown."""
    rows = ["| DAG | starts | steps | announces | what it does |", "|---|---|---|---|---|"]
    for dag in dags:
        steps = " → ".join(f"`{task_id}`" for task_id in _in_order(dag))
        outlets = [f"`{asset.name}`" for task in dag.tasks for asset in task.outlets]
        what = (dag.doc_md or "").strip().splitlines()[0]
        rows.append(f"| [`{dag.dag_id}`]({dag.dag_id}.py) | {_starts(dag)} | {steps} | {', '.join(outlets)} | {what} |")
    return "\n".join(rows)


def readme(dags: list[DAG]) -> str:
    """README.md as it should be: what people wrote, with the table between the marks made anew."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(dags)}\n{END}{after}"


def _starts(dag: DAG) -> str:
    condition = getattr(dag.timetable, "asset_condition", None)
    if condition is None:
        return f"every night (`{getattr(dag.timetable, 'expression', dag.timetable)}` UTC)"
    return "after " + ", ".join(f"`{asset.name}`" for asset in condition.objects)


def _in_order(dag: DAG) -> list[str]:
    """Task ids, upstream first."""
    done: list[str] = []
    while len(done) < len(dag.tasks):
        done += [t.task_id for t in dag.tasks if t.task_id not in done and t.upstream_task_ids <= set(done)]
    return done


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
