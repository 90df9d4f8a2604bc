"""Where a demo lives: its folders, ports, secrets, and the environment of its processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from airflow_service import commands
from recsys import private_files
from recsys.errors import InputError
from recsys.settings import LOCAL, ROOT, absolute

# With these set, Python and Airflow start more slowly, or find other code than this checkout's.
_NOT_INHERITED = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "AIRFLOW_HOME"}
USER = "admin"


@dataclass(frozen=True)
class Place:
    """One demo. `variables` is what its user set: the environment over `.env`."""

    state: Path
    variables: Mapping[str, str]
    n_cores: int

    @classmethod
    def find(cls) -> Place:
        """The demo of this checkout (or of RECSYS_LOCAL_DIR)."""
        file = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value is not None}
        variables = {name: value for name, value in (file | dict(os.environ)).items() if value != ""}
        state = absolute(variables.get("RECSYS_LOCAL_DIR") or LOCAL)
        return cls(state, variables, max(2, _n_cores()))

    def port(self, name: str) -> int:
        """AIRFLOW_PORT, MLFLOW_PORT, API_PORT or PG_PORT."""
        default = {"AIRFLOW_PORT": 8080, "MLFLOW_PORT": 5000, "API_PORT": 8000, "PG_PORT": 5433}[name]
        text = self.variables.get(name, str(default))
        if not (text.isdigit() and 0 < int(text) < 65536):
            raise InputError(f"{name}={text} is no port; give a number from 1 to 65535")
        return int(text)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port(name)}"

    @property
    def own_mlflow(self) -> bool:
        """Whether the demo runs an MLflow server; not when MLFLOW_TRACKING_URI names the user's."""
        return "MLFLOW_TRACKING_URI" not in self.variables

    @property
    def needs_postgres(self) -> bool:
        return not {"DATABASE_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"} <= self.variables.keys()

    @property
    def lock(self) -> Path:
        """Held by the one `make demo` that is at work here."""
        return self.state / "demo.lock"

    def secret(self, name: str) -> str:
        """A secret of this demo, 64 bytes as hex digits, kept in a file that only its user reads."""
        return private_files.secret(self.state / "secrets" / name)

    @property
    def airflow_password(self) -> str:
        return self.secret("airflow_admin")[:20]

    def prepare(self) -> None:
        """Make the folders, and the file from which Airflow learns the password."""
        for name in ("log", "airflow", "mlflow", "data", "artifacts", "secrets"):
            folder = self.state / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        path = self.state / "secrets" / "airflow_passwords.json"
        _ = self.airflow_password  # makes the folder
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({USER: self.airflow_password}, file)

    def chosen(self, postgres_url: str | None) -> dict[str, str]:
        """The variables by which this demo's processes differ from any other's.

        `postgres_url`: of the embedded server without a database name; None when the user has named others.
        """
        airflow = self.url("AIRFLOW_PORT")
        ours = commands.settings() | {
            "RECSYS_LOCAL_DIR": str(self.state),
            "ARTIFACT_ROOT": str(self.state / "artifacts"),
            "MLFLOW_TRACKING_URI": self.url("MLFLOW_PORT"),
            "PG_PORT": str(self.port("PG_PORT")),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(self.n_cores),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.state / "secrets/airflow_passwords.json"),
            "AIRFLOW__CORE__FERNET_KEY": "",  # no connection and no variable is stored
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port("AIRFLOW_PORT")),
            "AIRFLOW__API__BASE_URL": airflow,
            "AIRFLOW__API__SECRET_KEY": self.secret("airflow_api"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secret("airflow_jwt"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        }
        if postgres_url is not None:
            ours["DATABASE_URL"] = f"{postgres_url}/recsys"
            ours["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = (
                f"{postgres_url.replace('postgresql:', 'postgresql+psycopg2:')}/airflow"
            )
        theirs = {name: value for name, value in self.variables.items() if name in ours or _is_setting(name)}
        theirs.pop("RECSYS_LOCAL_DIR", None)  # may be relative there
        return ours | theirs

    def environment(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """A whole environment for a child: the inherited one, `chosen` over it, this Python's commands first."""
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
        fixed = {"AIRFLOW_HOME": str(self.state / "airflow"), "PATH": path, "PYTHONUNBUFFERED": "1"}
        return inherited | dict(chosen) | fixed

    def mlflow_variables(self) -> dict[str, str]:
        """What the MLflow server needs beside the rest."""
        folder = self.state / "mlflow"
        return {
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(self.port("MLFLOW_PORT")),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
            # Where `recsys.steps.context` puts plots without a server, so that both may log to one experiment.
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"{self._artifact_root()}/mlflow",
        }

    def _artifact_root(self) -> str:
        root = self.variables.get("ARTIFACT_ROOT", str(self.state / "artifacts"))
        return root if "://" in root else str(absolute(root))


def _is_setting(name: str) -> bool:
    return name.startswith(("AIRFLOW__", "RECSYS_", "AWS_", "TELEGRAM_", "APPRISE_"))


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 2
