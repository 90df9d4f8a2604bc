"""The commands of a deployment, the same for `make demo` and for compose.yaml (a test compares them).

They take no arguments that differ from place to place: addresses and ports come from the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dotenv import dotenv_values

MIGRATE: Final = {"airflow-migrate": ("airflow", "db", "migrate"), "recsys-migrate": ("recsys", "migrate")}
AIRFLOW: Final = {
    "airflow-api-server": ("airflow", "api-server"),
    # Task logs are read from the folder that all services share, or from S3: nobody needs the log server.
    "airflow-scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
    "airflow-dag-processor": ("airflow", "dag-processor"),
}
MLFLOW: Final = {"mlflow": ("mlflow", "server")}


def settings() -> dict[str, str]:
    """What settings.env says, as environment variables."""
    values = dotenv_values(Path(__file__).with_name("settings.env"), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}
